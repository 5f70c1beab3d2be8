"""The engine of a consumer: one object for each connection.

- What comes to the consumer's channel goes straight into its mailbox, and from there, as the events of the connection,
  through one inbox.
- One task, the one that the server started, takes events and messages and runs their handlers one after the other.
  There is no task and no queue per message.
- However it ends (the client leaves, a handler raises, the server cancels it, a handler is too slow when the client
  has left), the disconnect handler runs exactly once, and the channel leaves the layer and its groups.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Protocol, cast

from gateway.dispatch.background import Background
from gateway.dispatch.foreign_receive import ForeignReceive, disconnect_event
from gateway.dispatch.handlers import HandlerTable
from gateway.dispatch.mailbox import Mailbox, MailboxPolicy, make_mailbox
from gateway.dispatch.threads import HandlerThread
from gateway.exceptions import StopConsumer
from gateway.layers import BaseChannelLayer, Message
from gateway.metrics import consumer_events_skipped, consumer_handlers_interrupted, consumer_sends_after_close
from protocols.asgi import Event, Receive, Scope
from protocols.inbox import Inbox
from protocols.log_lines import PeerLog

peer_log = PeerLog("gateway.consumer")

DISCONNECT_TIMEOUT_S = 5.0

MAX_POSTED = 10_000
"""How many events a consumer may have posted to itself and not yet handled."""


class Runnable(Protocol):
    """What a run knows of its consumer: see gateway.consumer.AsyncConsumer."""

    scope: Scope
    channel_layer: BaseChannelLayer | None
    channel_name: str

    @property
    def mailbox_capacity(self) -> int | None: ...
    @property
    def mailbox_policy(self) -> MailboxPolicy: ...
    @property
    def disconnect_grace_s(self) -> float | None: ...
    @property
    def max_background(self) -> int: ...
    @property
    def _gateway_handlers(self) -> HandlerTable: ...
    @property
    def _gateway_before_events(self) -> Callable[[], Awaitable[None]] | None: ...

    def mailbox_key(self, message: Message) -> Hashable: ...
    def dispatch(self, message: Event) -> Awaitable[None]: ...


class ConsumerRun:
    """The run of one consumer for one connection.

    The consumer refers to it and passes itself to the methods: a reference back would leave each to the garbage
    collector.
    """

    __slots__ = (
        "_background",
        "_began",
        "_foreign",
        "_interrupted",
        "_interruption",
        "_task",
        "_thread",
        "closed",
        "grace_s",
        "inbox",
        "loop",
        "mailbox",
    )

    def __init__(self, consumer: Runnable, receive: Receive) -> None:
        # `receive` of our own servers is a method of the inbox, which takes layer messages too: one task per
        # connection. Any other `receive` is read by a task of its own.
        owner = getattr(receive, "__self__", None)
        self._foreign = None if isinstance(owner, Inbox) else ForeignReceive(consumer.scope["type"], receive)
        self.inbox: Inbox = owner if self._foreign is None else self._foreign.inbox  # type: ignore[assignment]
        self.loop = asyncio.get_running_loop()
        self.mailbox: Mailbox | None = None
        self.closed = False
        """Whether the consumer has closed or refused its connection; set by the generic consumers."""
        self.grace_s = consumer.disconnect_grace_s
        """How long handlers may go on after the disconnect; None: for ever."""
        self._background: Background | None = None
        self._thread = HandlerThread()
        self._thread.acquire()
        self._task: asyncio.Task[Any] | None = None
        self._began = False
        self._interruption: asyncio.TimerHandle | None = None
        self._interrupted = False

    # Life

    async def join_layer(self, consumer: Runnable, layer: BaseChannelLayer) -> None:
        """Gives the consumer a channel, and that a mailbox."""
        consumer.channel_name = await layer.new_channel()
        capacity = consumer.mailbox_capacity
        self.mailbox = make_mailbox(
            self.inbox,
            consumer.mailbox_policy,
            owner=type(consumer).__qualname__,
            capacity=layer.get_capacity(consumer.channel_name) if capacity is None else capacity,
            key=consumer.mailbox_key,
            handlers=consumer._gateway_handlers,
        )
        layer.attach(consumer.channel_name, self.mailbox.deliver)

    async def handle_all(self, consumer: Runnable, direct: Mapping[str, str]) -> None:
        """Handles events up to the disconnect, and that one exactly once, whatever happens before.

        Events of the types in `direct` go straight to the methods that it names, others through `dispatch`. Raises what
        a handler raised.
        """
        try:
            disconnect = await self._until_disconnect(consumer, direct)
            await self._end_background()
        except BaseException as error:
            try:
                await self._end_background()
            finally:
                if self._began:
                    await self._handle_disconnect(consumer, error)
            raise
        await consumer.dispatch(disconnect)

    async def end(self, consumer: Runnable) -> None:
        """Leaves the layer, the thread and a foreign `receive`. Raises what that raised."""
        if consumer.channel_layer is not None and self.mailbox is not None:
            consumer.channel_layer.detach(consumer.channel_name)
        self._thread.release()
        if self._foreign is not None:
            await self._foreign.close()

    # What the methods of a consumer do

    def post(self, event: Event) -> None:
        """Gives the consumer an event of its own. Raises RuntimeError when MAX_POSTED wait."""
        if self.inbox.posted >= MAX_POSTED:
            raise RuntimeError(f"{MAX_POSTED} events that this consumer has posted to itself wait to be handled")
        self.inbox.post(event)

    def background_of(self, consumer: Runnable) -> Background:
        """The tasks and timers of the consumer."""
        if self._background is None:
            owner = type(consumer).__qualname__
            self._background = Background(owner, consumer.max_background, self.inbox, self.loop)
        return self._background

    def peer_gone(self, protocol: str) -> bool:
        """Whether nothing can be sent any more; counts the attempt."""
        if self.closed or self.inbox.disconnected:
            consumer_sends_after_close.labels(protocol).inc()
            return True
        return False

    # The loop

    async def _until_disconnect(self, consumer: Runnable, direct: Mapping[str, str]) -> Event:
        """Handles all events but the last one, which it returns, within the grace when that one has come."""
        task = self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        cancellations = task.cancelling()
        self.inbox.on_disconnect = self._start_grace
        if self.inbox.disconnected:
            self._start_grace()
        try:
            return await self._handle_events(consumer, direct)
        except asyncio.CancelledError:
            # By the end of the grace, or by somebody else? Told apart as asyncio.timeout does it.
            if not self._interrupted or task.cancelling() > cancellations + 1:
                raise
            return cast(Event, self.inbox.final)
        finally:
            self.inbox.on_disconnect = _do_nothing
            if self._interruption is not None:
                self._interruption.cancel()
            if self._interrupted:
                task.uncancel()
            self._task = None  # which refers to this coroutine

    async def _handle_events(self, consumer: Runnable, direct: Mapping[str, str]) -> Event:
        """Returns the disconnect event, unhandled."""
        inbox, thread = self.inbox, self._thread
        if consumer._gateway_before_events is not None:
            self._began = True
            await consumer._gateway_before_events()
            if thread.used:
                thread.change()
        event = await inbox.next()
        self._began = True
        while not inbox.finished:
            name = direct.get(event.get("type", ""))
            handling = consumer.dispatch(event) if name is None else getattr(consumer, name)(event)
            del event  # one that waits keeps nothing of what it has handled, such as a password
            await handling
            del handling
            if thread.used:
                thread.change()
            event = await inbox.next()
        return event

    # The end

    def _start_grace(self) -> None:
        """The disconnect event has come: for so long the events before it are still handled."""
        if self.grace_s is not None:
            self._interruption = self.loop.call_later(self.grace_s, self._interrupt)

    def _interrupt(self) -> None:
        """The grace is over: ends the handler that still runs, and drops what waits behind it."""
        if self._task is not None and not self.inbox.finished:
            self._interrupted = True
            consumer_handlers_interrupted.inc()
            consumer_events_skipped.inc(self.inbox.discard_events())
            self._task.cancel()

    async def _end_background(self) -> None:
        if self._background is not None:
            await self._background.end()

    async def _handle_disconnect(self, consumer: Runnable, cause: BaseException) -> None:
        """Runs the disconnect handler of a consumer that ends by `cause`; logs what it raises."""
        event = self.inbox.final or disconnect_event(consumer.scope["type"], cause)
        if event["type"] not in consumer._gateway_handlers.events:
            return
        try:
            async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
                await consumer.dispatch(event)
        except StopConsumer:
            pass
        except Exception as error:
            message, name = "%s: the disconnect handler failed, after %r", type(consumer).__qualname__
            peer_log.error(name, message, name, cause, exc_info=error)


class NotRunning(ConsumerRun):
    """In place of the run of a consumer whose methods a test calls without running it."""

    __slots__ = ()

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.mailbox = None
        self.closed = False
        self.grace_s = None


def _do_nothing() -> None:
    pass
