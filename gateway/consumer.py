"""Consumers: one instance per connection, one method per kind of event or message.

    class ChatConsumer(AsyncConsumer):
        async def websocket_connect(self, event): ...
        async def chat_message(self, event): ...      # a message of type "chat.message" from a channel layer

How one lives (`AsyncConsumer.__call__`):

- its own channel is attached to the layer, and what comes there goes straight into its mailbox;
- one task, the one that the server started, takes events and messages from one inbox and runs their handlers one after
  the other. There is no task and no queue per message;
- however it ends (the client leaves, a handler raises, the server cancels it, a handler is too slow when the client
  has left), the disconnect handler runs exactly once, and the channel leaves the layer and its groups.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, ClassVar, ParamSpec, cast

from gateway.db import database_sync_to_async
from gateway.dispatch.acceptance import accepts
from gateway.dispatch.background import BackgroundWork
from gateway.dispatch.events import disconnect_event
from gateway.dispatch.foreign_receive import Pump
from gateway.dispatch.handlers import (
    CONNECTION_HANDLERS,
    Handler,
    follow_replacements,
    functions_by_name,
    get_handler_name,
    handlers_by_type,
    user_handlers,
)
from gateway.dispatch.mailbox import POLICIES, MailboxPolicy, make_mailbox
from gateway.dispatch.threads import Lane, send_from_threads
from gateway.exceptions import StopConsumer
from gateway.layers import DEFAULT_CHANNEL_LAYER, BaseChannelLayer, Message, get_channel_layer
from gateway.metrics import consumer_events_skipped, consumer_handlers_interrupted
from protocols.asgi import Application, Event, Receive, Scope, Send
from protocols.inbox import Inbox
from protocols.log_lines import PeerLog

__all__ = ["AsyncConsumer", "SyncConsumer", "get_handler_name"]

peer_log = PeerLog("gateway.consumer")

P = ParamSpec("P")

DISCONNECT_TIMEOUT_S = 5.0


class AsyncConsumer(BackgroundWork):
    """Runs the handlers of one connection in the event loop.

    A handler is a public method that takes one event; the event {"type": "chat.message"} calls `chat_message`. Events
    of the connection may call any handler, and one without a handler is an error that ends the consumer, as in
    Channels. Messages of a channel layer may call only handlers that are neither a method of the framework nor one for
    events of the connection; others are refused: logged, counted, and the consumer goes on (see
    gateway.dispatch.handlers).

    Attributes set while it runs: `scope`; `base_send`, the server's `send`; `channel_layer`, None if there is none
    under `channel_layer_alias`; and, with a layer, `channel_name`.
    """

    channel_layer_alias: ClassVar[str | None] = DEFAULT_CHANNEL_LAYER
    """The layer, by its alias in CHANNEL_LAYERS, in which this consumer has a channel. None: it takes part in no layer,
    and costs none of its work, which is for consumers that live as long as one request."""

    mailbox_capacity: ClassVar[int | None] = None
    """How many layer messages may wait for this consumer; None: as many as the layer gives a channel (100)."""

    mailbox_policy: ClassVar[MailboxPolicy] = "drop_newest"
    """What happens to a message when as many wait already: see gateway.dispatch.mailbox.MailboxPolicy."""

    disconnect_grace_s: ClassVar[float | None] = 1.0
    """How long a handler may go on, and events that came before may still be handled, when the connection has ended.
    Then the handler is cancelled and the disconnect handler runs. None: for ever (until the server cancels)."""

    scope: Scope
    channel_layer: BaseChannelLayer | None
    channel_name: str
    base_send: Callable[[Event], Any]

    _sync: ClassVar[bool] = False
    _gateway_events: ClassVar[tuple[str, ...] | None] = ("mailbox.overflow",)
    _gateway_handlers: ClassVar[dict[str, Handler]] = {}
    _gateway_message_handlers: ClassVar[dict[str, Handler]] = {}
    _gateway_functions: ClassVar[dict[str, Handler]] = {}
    _gateway_own_dispatch: ClassVar[bool] = False
    _gateway_before_events: Callable[[], Awaitable[None]] | None = None
    """What is to be done with the scope alone, before the first event is taken."""

    # A subclass is other people's, and must not redefine by chance what is private here: hence these long names.
    # The values are for tests that call methods of a consumer without running it.
    _gateway_inbox: Inbox = Inbox()
    _gateway_closed: bool = False
    __began: bool
    __interrupted: bool
    __interruption: asyncio.TimerHandle | None
    __task: "asyncio.Task[Any]"

    def __init_subclass__(cls, *, events: Iterable[str] | None = None, **kwargs: Any) -> None:
        """`events` is for base classes that, as those of gateway.generic, implement a protocol for others to extend.

        It names the types that the class has handlers for. Its other methods are API for its subclasses: neither they
        nor what overrides them is a handler.
        """
        super().__init_subclass__(**kwargs)
        if cls.mailbox_policy not in POLICIES:
            raise TypeError(
                f"mailbox_policy of {cls.__qualname__} is one of {', '.join(POLICIES)}: {cls.mailbox_policy!r}"
            )
        cls._gateway_events = None if events is None else tuple(events)
        framework = [base for base in cls.__mro__ if vars(base).get("_gateway_events") is not None]
        generic = [event.replace(".", "_") for base in framework for event in vars(base)["_gateway_events"]]
        raw = [name for name in CONNECTION_HANDLERS if hasattr(cls, name)]
        messages = user_handlers(cls, framework=framework, sync=cls._sync)
        cls._gateway_message_handlers = handlers_by_type(cls, messages)
        cls._gateway_handlers = handlers_by_type(cls, {*messages, *generic, *raw})
        cls._gateway_functions = functions_by_name(cls._gateway_handlers)
        cls._gateway_own_dispatch = next(base for base in cls.__mro__ if "dispatch" in vars(base)) not in framework

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> Application:
        """An ASGI application that makes one `cls(**initkwargs)` per scope."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await cls(**initkwargs)(scope, receive, send)

        functools.update_wrapper(application, cls, updated=())
        # What Channels offers to those who inspect a routing.
        application.consumer_class = cls  # type: ignore[attr-defined]
        application.consumer_initkwargs = initkwargs  # type: ignore[attr-defined]
        return application

    @classmethod
    def message_handlers(cls) -> frozenset[str]:
        """The names of the methods that messages of a channel layer may call."""
        return frozenset(handler.replace(".", "_") for handler in cls._gateway_message_handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lives through one connection. Raises what a handler raised, StopConsumer apart."""
        self.scope = scope
        follow_replacements(self, self._gateway_functions, self._gateway_handlers, self._gateway_message_handlers)
        # Not in __init__: one instance may serve several connections in a test, and __init__ is the subclass's own.
        self.__began = self.__interrupted = self._gateway_closed = False
        self.__interruption = None
        self.base_send = send_from_threads(send) if self._sync else send
        self.channel_layer = get_channel_layer(self.channel_layer_alias)
        # `receive` of our own servers is a method of the inbox, which takes layer messages too: one task per
        # connection. Any other `receive` is read by a task of its own.
        owner = getattr(receive, "__self__", None)
        pump = None if isinstance(owner, Inbox) else Pump(scope["type"], receive)
        self._gateway_inbox = owner if isinstance(owner, Inbox) else cast(Pump, pump).inbox
        self._gateway_begin_background(self._gateway_inbox)
        lane = Lane()
        lane.enter()
        try:
            await self.__join_layer()
            await self.__live(lane)
        except StopConsumer:
            pass
        finally:
            self.__leave_layer()
            lane.exit()
            if pump is not None:
                await pump.close()

    async def dispatch(self, message: Event) -> None:
        """Runs the handler of `message`. Raises ValueError if there is none."""
        await self._gateway_handler_of(message)(self, message)

    async def send(self, message: Event) -> None:
        """Gives an event to the server."""
        await self.base_send(message)

    async def mailbox_overflow(self, event: Event) -> None:
        """The mailbox of policy "close" is full. Ends the consumer, and with it the connection; may be overridden."""
        raise StopConsumer

    def mailbox_key(self, message: Message) -> Hashable:
        """What tells messages apart under the mailbox policy "keep_latest": their type, unless overridden."""
        key: str = message["type"]
        return key

    # Life

    async def __live(self, lane: Lane) -> None:
        """Handles events up to the disconnect, and that one exactly once, whatever happens before."""
        try:
            disconnect = await self.__until_disconnect(lane)
            await self._gateway_end_background()
        except BaseException as error:
            try:
                await self._gateway_end_background()
            finally:
                if self.__began:
                    await self.__handle_disconnect(error)
            raise
        await self.dispatch(disconnect)

    async def __until_disconnect(self, lane: Lane) -> Event:
        """Handles all events but the last one, which it returns, within the grace when that one has come."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        cancellations = task.cancelling()
        self.__task = task
        self._gateway_inbox.on_disconnect = self.__start_grace
        if self._gateway_inbox.disconnected:
            self.__start_grace()
        try:
            return await self.__handle_events(lane)
        except asyncio.CancelledError:
            # By the end of the grace, or by somebody else? Told apart as asyncio.timeout does it.
            if not self.__interrupted or task.cancelling() > cancellations + 1:
                raise
            return cast(Event, self._gateway_inbox.final)
        finally:
            self._gateway_inbox.on_disconnect = _do_nothing
            if self.__interruption is not None:
                self.__interruption.cancel()
            if self.__interrupted:
                task.uncancel()
            del self.__task  # which refers to this coroutine

    async def __handle_events(self, lane: Lane) -> Event:
        """The loop. Returns the disconnect event, unhandled."""
        inbox = self._gateway_inbox
        # Straight from the table to the handler, which saves a coroutine per event, unless `dispatch` is overridden.
        handlers = self._gateway_handlers if type(self).dispatch is AsyncConsumer.dispatch else {}
        if self._gateway_before_events is not None:
            self.__began = True
            await self._gateway_before_events()
            if lane.used:
                lane.release()
        event = await inbox.next()
        self.__began = True
        while not inbox.finished:
            handler = handlers.get(event.get("type", ""))
            handling = self.dispatch(event) if handler is None else handler(self, event)
            del event  # one that waits keeps nothing of what it has handled, such as a password
            await handling
            del handling
            if lane.used:
                lane.release()
            event = await inbox.next()
        return event

    def _gateway_grace_s(self) -> float | None:
        return self.disconnect_grace_s

    def __start_grace(self) -> None:
        """The disconnect event has come: for so long the events before it are still handled."""
        grace_s = self._gateway_grace_s()
        if grace_s is not None:
            self.__interruption = self.__task.get_loop().call_later(grace_s, self.__interrupt)

    def __interrupt(self) -> None:
        """The grace is over: ends the handler that still runs, and drops what waits behind it."""
        if not self._gateway_inbox.finished:
            self.__interrupted = True
            consumer_handlers_interrupted.inc()
            consumer_events_skipped.inc(self._gateway_inbox.discard_events())
            self.__task.cancel()

    async def __handle_disconnect(self, cause: BaseException) -> None:
        """Runs the disconnect handler of a consumer that ends by `cause`, which goes on afterwards, come what may."""
        event = self._gateway_inbox.final or disconnect_event(self.scope["type"], cause)
        if event["type"] not in self._gateway_handlers:
            return
        try:
            async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
                await self.dispatch(event)
        except StopConsumer:
            pass
        except Exception as error:
            message, name = "%s: the disconnect handler failed, after %r", type(self).__qualname__
            peer_log.error(name, message, name, cause, exc_info=error)

    def _gateway_handler_of(self, message: Event) -> Handler:
        handler = self._gateway_handlers.get(message.get("type", "")) or self._gateway_handlers.get(
            get_handler_name(message)
        )
        if handler is None:
            raise ValueError(f"No handler for message type {message['type']}")
        return handler

    # The layer

    async def __join_layer(self) -> None:
        layer = self.channel_layer
        if layer is None:
            return
        self.channel_name = await layer.new_channel()
        capacity = self.mailbox_capacity
        mailbox = make_mailbox(
            self._gateway_inbox,
            self.mailbox_policy,
            owner=type(self).__qualname__,
            capacity=layer.get_capacity(self.channel_name) if capacity is None else capacity,
            key=self.mailbox_key,
            types=self._gateway_message_handlers,
            accepts=functools.partial(accepts, type(self)),
        )
        layer.attach(self.channel_name, mailbox.deliver)

    def __leave_layer(self) -> None:
        if self.channel_layer is not None and hasattr(self, "channel_name"):
            self.channel_layer.detach(self.channel_name)


def _do_nothing() -> None:
    pass


class SyncConsumer(AsyncConsumer, events=()):
    """Runs the handlers of one connection in a thread, one after the other; connections run side by side.

    Handlers and `send` are plain functions, and old database connections are closed around each. There is a bounded
    number of threads (gateway.dispatch.threads). A handler in a thread cannot be interrupted: the disconnect handler
    waits for it.
    """

    _sync = True
    disconnect_grace_s = None

    async def dispatch(self, message: Event) -> None:
        """Runs the handler of `message` in a thread. Raises ValueError if there is none."""
        handler = self._gateway_handler_of(message)
        if handler is SyncConsumer.background_turn:
            await handler(self, message)
        else:
            await _call_in_thread(handler, self, message)

    def send(self, message: Event) -> None:  # type: ignore[override]  # synchronous, as all of its methods
        """Gives an event to the server, and waits until it has taken it."""
        self.base_send(message)

    def spawn(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:  # type: ignore[override]
        """Runs `function` in a thread, beside the handlers. Otherwise as in AsyncConsumer, but it is not interrupted:

        the disconnect handler waits for it. To be called in a handler.
        """
        background = self._gateway_background()

        async def begin() -> None:
            background.spawn(database_sync_to_async(function)(*args, **kwargs), interruptible=False)

        asyncio.run_coroutine_threadsafe(begin(), background.loop).result()

    def background_failed(self, event: Event) -> None:  # type: ignore[override]
        """Called with event["error"], which background work raised; does nothing, unless overridden."""

    async def background_turn(self, event: Event) -> None:
        """Makes the next call of `every`, or tells of a task that failed: each in a thread."""
        await self._gateway_turn(event, database_sync_to_async)

    def mailbox_overflow(self, event: Event) -> None:  # type: ignore[override]
        """The mailbox of policy "close" is full. Ends the consumer, and with it the connection; may be overridden."""
        raise StopConsumer


@database_sync_to_async
def _call_in_thread(handler: Handler, consumer: SyncConsumer, message: Event) -> None:
    handler(consumer, message)
