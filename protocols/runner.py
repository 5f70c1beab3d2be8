"""Runs one application instance per scope; the only copy of that plumbing, used by every wire.

Invariants, whatever ends the connection:

- the application sees each event in the order in which it came, and one disconnect event after the last of them;
- an inbox over its high-water mark stops the reading of the socket, so a slow application slows its peer and costs a
  bounded amount of memory;
- an application that does not return in time after the disconnect event is cancelled;
- an application that raises is logged once, with what it was serving, and its wire is told so that it can answer.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Protocol, cast

from protocols.asgi import Application, Event, Scope, Send
from protocols.eager_handlers import StandIn
from protocols.log_lines import PeerLog
from protocols.masking import printable as printable
from protocols.masking import redact_path

peer_log = PeerLog("gateway.runner")

HIGH_WATER_BYTES = 256 * 1024


class ClientDisconnectedError(ConnectionError):
    """Raised by `send` when the client has gone: an OSError, as ASGI 2.4 asks.

    It ends applications that only send, which no disconnect event would reach. One that lets it through has ended as
    it should: the runner neither logs it nor answers for it.
    """

    def __init__(self) -> None:
        super().__init__("the client has disconnected")


def _do_nothing() -> None:
    pass


class MessageQueue(Protocol):
    """What holds the messages of an inbox: a deque, or what keeps another policy behind the same methods."""

    def append(self, message: Event, /) -> None: ...
    def popleft(self) -> Event: ...
    def clear(self) -> None: ...
    def __len__(self) -> int: ...


WORTH_WAKING: Final = 8
"""How many events a task is woken for. Awake it takes the next one a third of a microsecond sooner than a stand-in."""

_NO_MESSAGES: Final[deque[Event]] = deque(maxlen=0)
"""In place of a queue that has never been used, which would be 700 bytes of each connection."""


class Inbox:
    """What one application instance waits on: a lossless lane of events from its connection and a lane of messages.

    `feed` and `disconnect` are called by the wire; `deliver` by a channel layer, through the consumer that owns the
    inbox. `receive` is the ASGI `receive` callable and sees events only; `next` sees both lanes and belongs to a
    consumer, which finds the inbox of an unwrapped `receive` as `receive.__self__`.

    One task at a time may wait. There is no queue object and no task per event: a deque, and a future while idle. And
    with a stand-in (see `appoint`) the task is not even woken for an event whose handler does not wait.
    """

    __slots__ = (
        "_buffered_bytes",
        "_context",
        "_events",
        "_final",
        "_interjected",
        "_paused",
        "_rest",
        "_stand_in",
        "_task",
        "_waiter",
        "finished",
        "high_water_bytes",
        "messages",
        "on_disconnect",
        "pause",
        "resume",
    )

    def __init__(
        self,
        *,
        pause: Callable[[], None] = _do_nothing,
        resume: Callable[[], None] = _do_nothing,
        high_water_bytes: int = HIGH_WATER_BYTES,
    ) -> None:
        """`pause` and `resume` stop and restart the reading of the socket; neither is called twice in a row."""
        self._events: deque[Event] | None = None
        self._final: Event | None = None
        self._interjected: deque[Event] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._context: contextvars.Context | None = None
        self._stand_in: StandIn | None = None
        self._rest: Awaitable[None] | None = None
        self._buffered_bytes = 0
        self._paused = False
        self.messages: MessageQueue = _NO_MESSAGES
        self.finished = False
        """Whether `next` has given out the disconnect event."""
        self.high_water_bytes = high_water_bytes
        self.pause = pause
        self.resume = resume
        self.on_disconnect: Callable[[], None] = _do_nothing

    def start(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Starts the task that is to wait here."""
        self._context = contextvars.copy_context()
        self._task = asyncio.get_running_loop().create_task(coroutine, context=self._context)
        return self._task

    @property
    def disconnected(self) -> bool:
        """Whether the disconnect event has come, delivered or not."""
        return self._final is not None

    @property
    def final(self) -> Event | None:
        """The disconnect event, once it has come."""
        return self._final

    def feed(self, event: Event, size_bytes: int) -> None:
        """Adds an event of the connection; `size_bytes` is what it counts against the high-water mark."""
        if self._events is None:
            self._events = deque()
        self._events.append(event)
        self._buffered_bytes += size_bytes
        if self._buffered_bytes > self.high_water_bytes and not self._paused:
            self._paused = True
            self.pause()
        if self._waiter is not None:
            self._rouse()

    def feed_many(self, events: Iterable[Event], size_bytes: int) -> None:
        """Adds the events of one read of the socket; `size_bytes` is what they count together."""
        if self._events is None:
            self._events = deque(events)
        else:
            self._events.extend(events)
        self._buffered_bytes += size_bytes
        if self._buffered_bytes > self.high_water_bytes and not self._paused:
            self._paused = True
            self.pause()
        if self._waiter is not None:
            self._rouse()

    def put_back(self, event: Event) -> None:
        """Makes an event that `receive` gave out the next one again: for middleware that has to look at the first."""
        if self._events is None:
            self._events = deque()
        self._events.appendleft(event)

    def disconnect(self, event: Event) -> None:
        """Adds the last event; the first call counts and later ones do nothing."""
        if self._final is None:
            self._final = event
            self._wake()
            self.on_disconnect()

    def interject(self, event: Event) -> None:
        """Adds an event that a consumer has for itself; `next` gives it out before all else, `receive` never."""
        if self._interjected is None:
            self._interjected = deque()
        self._interjected.append(event)
        self._wake()

    def deliver(self, message: Event) -> None:
        """Adds a message to the other lane. Bounding that lane is the caller's: see `messages`."""
        if self.messages is _NO_MESSAGES:
            self.messages = deque()
        self.messages.append(message)
        if self._waiter is not None:
            self._rouse()

    async def receive(self) -> Event:
        """The next event. After the disconnect event, that event again, at once, for ever (ASGI www)."""
        while not self._events:
            if self._final is not None:
                return self._final
            self._events = None
            await self._wait()
        return self._pop_event()

    async def next(self) -> Event:
        """The next event or, if there is none, the next message; the disconnect event comes after all events."""
        while True:
            if self._interjected:
                return self._interjected.popleft()
            if self._events:  # as `take` does, without the call
                return self._pop_event()
            event = self.take()
            if event is not None:
                return event
            if self._final is not None:
                self.finished = True
                return self._final
            await self._wait()

    def take(self) -> Event | None:
        """The next event or, if there is none and none will come, the next message; None if that is not there."""
        if self._events:
            return self._pop_event()
        self._events = None  # an empty deque has 700 bytes: an idle connection has none
        if self._final is None and self.messages:
            return self.messages.popleft()
        return None

    # While the task waits in `next`

    @property
    def task_is_idle(self) -> bool:
        """Whether the task waits, and is not about to be woken."""
        return self._waiter is not None and not self._waiter.done()

    def appoint(self, begin: Callable[[Event], Awaitable[Any]], after: Callable[[], None]) -> None:
        """Has `begin(event)` run in place of the calling task while that waits in `next`: see StandIn.

        Does nothing if that is not the task of `start`, but one that middleware has put between.
        """
        task = asyncio.current_task()
        if task is not None and task is self._task and self._context is not None:
            self._stand_in = StandIn(self, task, self._context, begin, after)

    def dismiss(self) -> None:
        """From here on the task does everything by itself."""
        self._stand_in = None

    def hand_over(self, rest: Awaitable[None]) -> None:
        """Wakes the task, which awaits `rest` before `next` returns."""
        self._rest = rest
        self._wake()

    def skip_to_end(self) -> int:
        """Drops the events that nobody has taken, so that the disconnect event is next, and says how many."""
        skipped = len(self._events or ())
        self._events = None
        return skipped

    def _pop_event(self) -> Event:
        events = self._events
        assert events is not None
        event = events.popleft()
        if not events:
            self._buffered_bytes = 0
            if self._paused:
                self._paused = False
                self.resume()
        return event

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("two tasks wait for the events of one connection; await receive() in one place only")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        except asyncio.CancelledError as cancellation:
            if self._rest is None:
                raise
            _cancel_again(cancellation)  # for it was not this wait that was to be cancelled
        finally:
            self._waiter = None
        if self._rest is not None:
            rest, self._rest = self._rest, None
            await rest

    def _rouse(self) -> None:
        """Has someone look what is there: the task itself, if there is so much that waking it is little."""
        stand_in, waiter = self._stand_in, self._waiter
        if stand_in is not None and (self._events is None or len(self._events) < WORTH_WAKING):
            stand_in.call_soon()
        elif waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class ApplicationRun:
    """One application instance at work on one scope."""

    __slots__ = ("_begun", "_close_timeout_s", "_ended", "_on_finished", "_timeout", "inbox", "scope", "task")

    def __init__(
        self,
        application: Application,
        scope: Scope,
        send: Send,
        *,
        inbox: Inbox,
        on_finished: Callable[[BaseException | None], None],
        close_timeout_s: float = 10.0,
    ) -> None:
        """Starts `application(scope, inbox.receive, send)` in a task of its own.

        `on_finished` is called exactly once, when the application has ended: with None if it returned, with the
        exception if it raised or was cancelled. The wire then answers what is still unanswered (500, 1011, 0x83).
        """
        self.inbox = inbox
        self.scope = scope
        self._on_finished = on_finished
        self._close_timeout_s = close_timeout_s
        self._timeout: asyncio.TimerHandle | None = None
        self._begun = False
        self._ended = False
        self.task = inbox.start(self._live(application, scope, send))

    def disconnect(self, event: Event) -> None:
        """Delivers the disconnect event, once, and gives the application `close_timeout_s` to return."""
        if self.inbox.disconnected:
            return
        self.inbox.disconnect(event)
        if not self._ended:
            loop = asyncio.get_running_loop()
            self._timeout = loop.call_later(self._close_timeout_s, self._time_out)

    def cancel(self) -> None:
        """Ends the application now."""
        if not self._begun:
            # then nothing of `_live` will run, either
            self._begun = True
            self.task.add_done_callback(lambda task: self._finished(asyncio.CancelledError()))
        self.task.cancel()

    def _time_out(self) -> None:
        peer_log.warning(
            self.scope.get("client"),
            "application did not return within %g s of the disconnect and was cancelled: %s",
            self._close_timeout_s,
            describe(self.scope),
        )
        self.cancel()

    async def _live(self, application: Application, scope: Scope, send: Send) -> None:
        """The body of the task. It tells of its end itself: a callback of the task costs another pass of the loop."""
        self._begun = True
        try:
            await application(scope, self.inbox.receive, send)
        except asyncio.CancelledError as cancellation:
            self._finished(cancellation)
            raise
        except ClientDisconnectedError as error:
            self._finished(error)
        except Exception as error:  # here, and only here, an application is run
            message = "application raised while serving %s"
            peer_log.error(
                scope.get("client"), message, describe(scope), kind=message + type(error).__name__, exc_info=error
            )
            self._finished(error)
        else:
            self._finished(None)

    def _finished(self, exception: BaseException | None) -> None:
        self._ended = True
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        self._on_finished(exception)


def _cancel_again(cancellation: asyncio.CancelledError) -> None:
    """Has the current task cancelled, as it was just now, in what it awaits next."""
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    task.uncancel()
    task.cancel(*cancellation.args)


def describe(scope: Scope) -> str:
    """One line that says which connection this is, for a log: no query string, no header, no credential."""
    parts = [scope["type"]]
    if scope.get("method"):
        parts.append(scope["method"])
    if scope.get("path"):
        parts.append(redact_path(scope["path"]))
    if scope.get("client_id"):
        parts.append(printable(str(scope["client_id"])))
    client = scope.get("client")
    if client:
        parts.append(f"from {client[0]}:{client[1]}")
    return " ".join(parts)
