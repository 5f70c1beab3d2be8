"""Consumers: one instance per connection, one method per kind of event or message.

    class ChatConsumer(AsyncConsumer):
        async def websocket_connect(self, event): ...
        async def chat_message(self, event): ...      # a message of type "chat.message" from a channel layer

gateway.dispatch.run is the engine behind them.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from typing import Any, ClassVar, ParamSpec

from asgiref.sync import iscoroutinefunction

from gateway.db import database_sync_to_async
from gateway.dispatch.background import Timer
from gateway.dispatch.handlers import HandlerTable, get_handler_name
from gateway.dispatch.mailbox import POLICIES, MailboxPolicy
from gateway.dispatch.run import ConsumerRun, NotRunning
from gateway.dispatch.threads import from_threads
from gateway.exceptions import StopConsumer
from gateway.layers import DEFAULT_CHANNEL_LAYER, BaseChannelLayer, Message, get_channel_layer
from protocols.asgi import Application, Event, Receive, Scope, Send

__all__ = ["AsyncConsumer", "SyncConsumer", "get_handler_name"]

P = ParamSpec("P")


class AsyncConsumer:
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

    max_background: ClassVar[int] = 100
    """How many tasks of `spawn` and timers of `every` and `later` a consumer may have at a time."""

    scope: Scope
    channel_layer: BaseChannelLayer | None
    channel_name: str
    base_send: Callable[[Event], Any]

    # A subclass is other people's, and must not redefine by chance what is private here: hence these long names.
    _gateway_sync: ClassVar[bool] = False
    _gateway_events: ClassVar[tuple[str, ...] | None] = ("mailbox.overflow", "background.turn", "background.failed")
    _gateway_handlers: ClassVar[HandlerTable]
    _gateway_before_events: Callable[[], Awaitable[None]] | None = None
    """What is to be done with the scope alone, before the first event is taken."""
    _gateway_run: ConsumerRun = functools.cached_property(lambda _: NotRunning())  # type: ignore[assignment]

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
        named = [event for base in framework for event in vars(base)["_gateway_events"]]
        cls._gateway_handlers = HandlerTable(cls, framework=framework, events=named, sync=cls._gateway_sync)

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
        return frozenset(cls._gateway_handlers.messages.values())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lives through one connection. Raises what a handler raised, StopConsumer apart."""
        self.scope = scope
        self.base_send = self._gateway_base_send(send)
        self.channel_layer = get_channel_layer(self.channel_layer_alias)
        self._gateway_run = run = ConsumerRun(self, receive)
        try:
            if self.channel_layer is not None:
                await run.join_layer(self, self.channel_layer)
            # Straight to the handler, which saves a coroutine per event, unless `dispatch` is overridden.
            is_plain = type(self).dispatch is AsyncConsumer.dispatch
            await run.handle_all(self, self._gateway_handlers.events if is_plain else {})
        except StopConsumer:
            pass
        finally:
            await run.end(self)

    async def dispatch(self, message: Event) -> None:
        """Runs the handler of `message`. Raises ValueError if there is none."""
        await getattr(self, self._gateway_handlers.name_of(message))(message)

    async def send(self, message: Event) -> None:
        """Gives an event to the server."""
        await self.base_send(message)

    # What a consumer gives itself to do; docs/background-work.md

    def post(self, event: Event) -> None:
        """Has this consumer handle `event`, in its turn, before all else that waits.

        For callbacks in the event loop that have something for it. Raises RuntimeError when too many (10,000) wait.
        """
        self._gateway_run.post(event)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Runs `coroutine` beside the handlers, in a task that is cancelled and awaited before the disconnect handler.

        What it raises is logged and given to `background_failed`; StopConsumer ends the consumer. Raises RuntimeError
        when there are `max_background` already, or the connection has ended.
        """
        return self._gateway_run.background_of(self).spawn(coroutine)

    def every(self, seconds: float, function: Callable[[], Any]) -> Timer:
        """Calls `function` (a coroutine function, of no argument) every `seconds`, in turn with the handlers.

        It is first called when `seconds` are over, and not any more when the connection has ended, or after `cancel()`
        of what is returned. Calls that a slow handler holds up do not pile up. What it raises is logged and given to
        `background_failed`, and it is called again; StopConsumer ends the consumer. Raises as `spawn`.
        """
        return self._gateway_run.background_of(self).every(seconds, function)

    def later(self, seconds: float, function: Callable[[], Any]) -> Timer:
        """Calls `function` once, when `seconds` are over; otherwise as `every`."""
        return self._gateway_run.background_of(self).later(seconds, function)

    async def background_failed(self, event: Event) -> None:
        """Called with event["error"], which background work raised; does nothing, unless overridden."""

    async def background_turn(self, event: Event) -> None:
        """Makes the call that a timer is due for, or takes what a task of `spawn` raised."""
        error = await self._gateway_run.background_of(self).take_turn(event, self._gateway_call)
        if isinstance(error, StopConsumer):
            raise error
        if error is not None:
            await self._gateway_call(self.background_failed, {"type": "background.failed", "error": error})

    def _gateway_call(self, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Calls what a subclass or user has written, as its consumers run it: here, or in a thread."""
        called: Awaitable[Any] = method(*args, **kwargs)
        return called

    def _gateway_base_send(self, send: Send) -> Callable[[Event], Any]:
        """What `base_send` is."""
        return send

    # The mailbox

    @property
    def mailbox_overflowed(self) -> bool:
        """Whether a layer message was dropped for lack of room since the connection began, or since `drop_waiting`."""
        mailbox = self._gateway_run.mailbox
        return mailbox is not None and mailbox.overflowed

    def drop_waiting(self) -> int:
        """Drops the layer messages that wait, for a consumer that starts afresh, and returns how many."""
        mailbox = self._gateway_run.mailbox
        return 0 if mailbox is None else mailbox.drop_waiting()

    async def mailbox_overflow(self, event: Event) -> None:
        """The mailbox of policy "close" is full. Ends the consumer, and with it the connection; may be overridden."""
        raise StopConsumer

    def mailbox_key(self, message: Message) -> Hashable:
        """What tells messages apart under the mailbox policy "keep_latest": their type, unless overridden."""
        key: str = message["type"]
        return key


class SyncConsumer(AsyncConsumer, events=()):
    """Runs the handlers of one connection in a thread, one after the other; connections run side by side.

    Handlers and `send` are plain functions, and old database connections are closed around each. There is a bounded
    number of threads (gateway.dispatch.threads). A handler in a thread cannot be interrupted: the disconnect handler
    waits for it.
    """

    _gateway_sync = True
    disconnect_grace_s = None

    async def dispatch(self, message: Event) -> None:
        """Runs the handler of `message`, in a thread unless it is a coroutine. Raises ValueError if there is none."""
        handler = getattr(self, self._gateway_handlers.name_of(message))
        if iscoroutinefunction(handler):
            await handler(message)
        else:
            await _call_in_thread(handler, message)

    def send(self, message: Event) -> None:  # type: ignore[override]  # synchronous, as all of its methods
        """Gives an event to the server, and waits until it has taken it."""
        self.base_send(message)

    def post(self, event: Event) -> None:
        """As AsyncConsumer.post; any thread may. What is one too many is dropped, and logged by the event loop."""
        self._gateway_run.loop.call_soon_threadsafe(self._gateway_run.post, event)

    def spawn(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:  # type: ignore[override]
        """Runs `function` in a thread, beside the handlers. Otherwise as in AsyncConsumer, but it is not interrupted:

        the disconnect handler waits for it. To be called in a handler.
        """
        background = self._gateway_run.background_of(self)

        async def begin() -> None:
            background.spawn(database_sync_to_async(function)(*args, **kwargs), interruptible=False)

        asyncio.run_coroutine_threadsafe(begin(), background.loop).result()

    def background_failed(self, event: Event) -> None:  # type: ignore[override]
        """Called with event["error"], which background work raised; does nothing, unless overridden."""

    def _gateway_call(self, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        return _call_in_thread(method, *args, **kwargs)

    def _gateway_base_send(self, send: Send) -> Callable[[Event], Any]:
        return from_threads(send)

    def mailbox_overflow(self, event: Event) -> None:  # type: ignore[override]
        """The mailbox of policy "close" is full. Ends the consumer, and with it the connection; may be overridden."""
        raise StopConsumer


@database_sync_to_async
def _call_in_thread(method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return method(*args, **kwargs)
