"""What one application instance waits on.

Invariants:

- events come out in the order in which they came in, and the disconnect event after the last of them;
- an inbox over its high-water mark stops the reading of the socket, so a slow application slows its peer and costs a
  bounded amount of memory.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from protocols.asgi import Event

HIGH_WATER_BYTES: Final = 256 * 1024


def _do_nothing() -> None:
    pass


class MessageQueue(Protocol):
    """What holds the messages of an inbox: a deque, or what keeps another policy behind the same methods."""

    def append(self, message: Event, /) -> None: ...
    def popleft(self) -> Event: ...
    def clear(self) -> None: ...
    def __len__(self) -> int: ...


_NO_MESSAGES: Final[deque[Event]] = deque(maxlen=0)
"""In place of a queue that has never been used, which would be 700 bytes of each connection."""


class Inbox:
    """A lossless lane of events from a connection, and a lane of messages.

    `feed` and `disconnect` are called by the wire; `deliver` by a channel layer, through the consumer that owns the
    inbox. `receive` is the ASGI `receive` callable and sees events only; `next` sees both lanes and belongs to a
    consumer, which finds the inbox of an unwrapped `receive` as `receive.__self__`.

    One task at a time may wait. There is no queue object and no task per event: a deque, and a future while idle.
    """

    __slots__ = (
        "_buffered_bytes",
        "_events",
        "_final",
        "_paused",
        "_posted",
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
        self._posted: deque[Event] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._buffered_bytes = 0
        self._paused = False
        self.messages: MessageQueue = _NO_MESSAGES
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
        self._wake()

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
        self._wake()

    def unread(self, event: Event) -> None:
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

    def post(self, event: Event) -> None:
        """Adds an event that a consumer has for itself; `next` gives it out before all else, `receive` never."""
        if self._posted is None:
            self._posted = deque()
        self._posted.append(event)
        self._wake()

    def deliver(self, message: Event) -> None:
        """Adds a message to the other lane. Bounding that lane is the caller's: see `messages`."""
        if self.messages is _NO_MESSAGES:
            self.messages = deque()
        self.messages.append(message)
        self._wake()

    @property
    def posted(self) -> int:
        """How many events of `post` wait."""
        return 0 if self._posted is None else len(self._posted)

    async def receive(self) -> Event:
        """The next event. After the disconnect event, that event again, at once, for ever (ASGI www)."""
        while not (events := self._events):
            if self._final is not None:
                return self._final
            self._events = None  # an empty deque has 700 bytes: an idle connection has none
            await self.wait()
        event = events.popleft()
        if not events:
            self._note_all_taken()
        return event

    async def next(self) -> Event:
        """The next event or, if there is none, the next message; the disconnect event comes after all events."""
        while True:
            if self._posted:
                return self._posted.popleft()
            if events := self._events:
                event = events.popleft()
                if not events:
                    self._note_all_taken()
                return event
            if self._final is not None:
                self.finished = True
                return self._final
            if self.messages:
                return self.messages.popleft()
            self._events = None
            await self.wait()

    async def wait(self) -> None:
        """Waits until something comes, when nothing is there; a subclass may extend it, to know when that is.

        Raises RuntimeError if another task waits already.
        """
        if self._waiter is not None:
            raise RuntimeError("two tasks wait for the events of one connection; await receive() in one place only")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def discard_events(self) -> int:
        """Drops the events that nobody has taken, so that the disconnect event is next, and says how many."""
        discarded = len(self._events or ())
        self._events = None
        return discarded

    def _note_all_taken(self) -> None:
        self._buffered_bytes = 0
        if self._paused:
            self._paused = False
            self.resume()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
