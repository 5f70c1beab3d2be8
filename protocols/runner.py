"""Runs one application instance per scope; the only copy of that plumbing, used by every wire.

Invariants, whatever ends the connection:

- the application sees each event in the order in which it came, and one disconnect event after the last of them;
- an inbox over its high-water mark stops the reading of the socket, so a slow application slows its peer and costs a
  bounded amount of memory;
- an application that does not return in time after the disconnect event is cancelled;
- an application that raises is logged once, with what it was serving, and its wire is told so that it can answer.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from protocols.asgi import Application, Event, Scope, Send

logger = logging.getLogger("gateway.runner")

HIGH_WATER_BYTES = 256 * 1024

_TOKEN_IN_PATH = re.compile(r"(/api/v\d+/)[^/]+")


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


class Inbox:
    """What one application instance waits on: a lossless lane of events from its connection and a lane of messages.

    `feed` and `disconnect` are called by the wire; `deliver` by a channel layer, through the consumer that owns the
    inbox. `receive` is the ASGI `receive` callable and sees events only; `next` sees both lanes and belongs to a
    consumer, which finds the inbox of an unwrapped `receive` as `receive.__self__`.

    One task at a time may wait. There is no queue object and no task per event: a deque, and a future while idle.
    """

    __slots__ = (
        "_buffered_bytes",
        "_events",
        "_final",
        "_interjected",
        "_paused",
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
        self._buffered_bytes = 0
        self._paused = False
        self.messages: MessageQueue = deque()
        self.finished = False
        """Whether `next` has given out the disconnect event."""
        self.high_water_bytes = high_water_bytes
        self.pause = pause
        self.resume = resume
        self.on_disconnect: Callable[[], None] = _do_nothing

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
            self._wake()

    def feed_many(self, events: Iterable[Event], size_bytes: int) -> None:
        """Adds the events of one read of the socket; `size_bytes` is what they count together."""
        if self._events is None:
            self._events = deque()
        self._events.extend(events)
        self._buffered_bytes += size_bytes
        if self._buffered_bytes > self.high_water_bytes and not self._paused:
            self._paused = True
            self.pause()
        if self._waiter is not None:
            self._wake()

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
        self.messages.append(message)
        if self._waiter is not None:
            self._wake()

    async def receive(self) -> Event:
        """The next event. After the disconnect event, that event again, at once, for ever (ASGI www)."""
        while not self._events:
            if self._final is not None:
                return self._final
            await self._wait()
        return self._pop_event()

    async def next(self) -> Event:
        """The next event or, if there is none, the next message; the disconnect event comes after all events."""
        while True:
            if self._interjected:
                return self._interjected.popleft()
            if self._events:
                return self._pop_event()
            if self._final is not None:
                self.finished = True
                return self._final
            if self.messages:
                return self.messages.popleft()
            await self._wait()

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
        # An empty deque has 700 bytes: an idle connection has none.
        self._events = None
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

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
        self.task = asyncio.get_running_loop().create_task(self._live(application, scope, send))

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
            self.task.add_done_callback(lambda task: self._finished(asyncio.CancelledError()))
        self.task.cancel()

    def _time_out(self) -> None:
        logger.warning(
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
            logger.error("application raised while serving %s", describe(scope), exc_info=error)  # noqa: TRY400
            self._finished(error)
        else:
            self._finished(None)

    def _finished(self, exception: BaseException | None) -> None:
        self._ended = True
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        self._on_finished(exception)


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


def redact_path(path: str) -> str:
    """A path as a log may show it: a device token in it is hidden, a line break cannot forge a line."""
    return printable(_TOKEN_IN_PATH.sub(r"\1***", path))


def printable(text: str) -> str:
    """What a peer has chosen, as a log may show it."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
