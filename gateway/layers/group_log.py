"""Group logs: the last messages of a group, numbered, for members that were away or missed a message.

A layer delivers at most once. `GroupLog.send` first appends the message to the log of its group, then sends it to the
members as usual, with its position. A member sees from the position whether it missed a message, and reads that from
the log (gateway.generic.resume does so). The log is bounded, and reports what it no longer has: a gap.

A position is written "EPOCH-NUMBER". The epoch is when the log began, in milliseconds: one that was lost, or forgotten
because nothing was sent for long, begins anew, with another epoch and number 1. Numbers have no holes.
"""

import copy
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, NamedTuple, Self

from gateway.layers.base import NOBODY, BaseChannelLayer, LayerUnavailableError, Message, require_message, run_now
from gateway.layers.validation import require_count, require_name, require_seconds

LENGTH: Final = 1000
EXPIRY_S: Final = 3600.0


class Position(NamedTuple):
    """Where a message is in the log of its group."""

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The position that `str` wrote. Raises ValueError for any other text."""
        match = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})", text)
        if match is None:
            raise ValueError(f"not a position in a log: {text!r}")
        return cls(int(match[1]), int(match[2]))

    def directly_before(self, other: "Position") -> bool:
        """Whether no message can be between this position and `other`."""
        return other.number == self.number + 1 and (self == START or self.epoch == other.epoch)


START = Position(0, 0)
"""Before the first message of a log, whatever its epoch."""


class Sent(NamedTuple):
    """What `GroupLog.send` did: where the message is, and what `group_send` returned."""

    position: Position
    delivered: int
    dropped: int


class Replay(NamedTuple):
    """Messages of a log in order. `gap`: some that were sent before them are gone. `end`: the end of the log."""

    messages: list[Message]
    gap: bool
    end: Position


class GroupLog:
    """The logs of all groups of one layer, made by `gateway.layers.manager.group_log`.

    A subclass implements `_append`, `_read` and `_end`.
    """

    def __init__(self, layer: BaseChannelLayer, *, length: int = LENGTH, expiry_s: float = EXPIRY_S) -> None:
        """A log keeps its last `length` messages, and is forgotten `expiry_s` seconds after the last one."""
        require_count("length of a group log", length)
        require_seconds("expiry_s of a group log", expiry_s)
        self.layer = layer
        self.length = length
        self.expiry_s = expiry_s

    async def send(self, group: str, message: Message) -> Sent:
        """Appends `message` to the log of `group`, then sends it to the members.

        Each gets it with a key "log": {"group": group, "position": "EPOCH-NUMBER"}. Messages of one sender that awaits
        this are in the order sent, for all. Raises LayerUnavailableError when it is not known to be in the log; members
        that could not be reached find it there.
        """
        position = await self.append(group, message)
        try:
            result = await self.layer.group_send(group, logged(message, group, position))
        except LayerUnavailableError as error:
            result = error.result
        return Sent(position, *(result or NOBODY))

    async def append(self, group: str, message: Message) -> Position:
        """Appends `message` to the log of `group` without sending it: the first half of `send`."""
        require_name("Group", group)
        require_message(message)
        return await self._append(group, message)

    async def read(self, group: str, after: Position) -> Replay:
        """What was sent to `group` after the position `after`, as members get it, as far as the log has it."""
        require_name("Group", group)
        end, entries = await self._read(group, after)
        messages = [logged(message, group, position) for position, message in entries]
        if entries:
            gap = not _contiguous(after, [position for position, _ in entries])
            return Replay(messages, gap, entries[-1][0])
        return Replay([], end != after, end)

    async def end(self, group: str) -> Position:
        """The position of the last message of `group`; START when the log has none."""
        require_name("Group", group)
        return await self._end(group)

    async def close(self) -> None:
        """Closes the connections of this event loop."""

    @property
    def sync(self) -> "SyncGroupLog":
        """The same for synchronous code: views, Celery tasks, threads, scripts."""
        return SyncGroupLog(self)

    async def _append(self, group: str, message: Message) -> Position:
        raise NotImplementedError

    async def _read(self, group: str, after: Position) -> tuple[Position, list[tuple[Position, Message]]]:
        """The end of the log, and the entries after `after`, which are read with it or later."""
        raise NotImplementedError

    async def _end(self, group: str) -> Position:
        raise NotImplementedError


class SyncGroupLog:
    """Group logs for synchronous code."""

    def __init__(self, log: GroupLog) -> None:
        """The coroutines of `log`, `send` apart, never wait."""
        self._log = log

    def send(self, group: str, message: Message) -> Sent:
        """As `GroupLog.send`."""
        position = run_now(self._log.append(group, message))
        try:
            result = self._log.layer.sync.group_send(group, logged(message, group, position))
        except LayerUnavailableError as error:
            result = error.result
        return Sent(position, *result)

    def read(self, group: str, after: Position) -> Replay:
        """As `GroupLog.read`."""
        return run_now(self._log.read(group, after))

    def end(self, group: str) -> Position:
        """As `GroupLog.end`."""
        return run_now(self._log.end(group))

    def close(self) -> None:
        """Closes the connections, which open again when used."""
        run_now(self._log.close())


class MemoryGroupLog(GroupLog):
    """Logs in this process; any thread may use them."""

    def __init__(
        self,
        layer: BaseChannelLayer,
        *,
        length: int = LENGTH,
        expiry_s: float = EXPIRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(layer, length=length, expiry_s=expiry_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._epoch = 0
        # Oldest last message first.
        self._logs: OrderedDict[str, _Log] = OrderedDict()

    async def _append(self, group: str, message: Message) -> Position:
        message = copy.deepcopy(message)
        with self._lock:
            now = self._clock()
            self._forget_old(now)
            log = self._logs.get(group)
            if log is None:
                self._epoch = max(self._epoch + 1, int(time.time() * 1000))
                log = self._logs[group] = _Log(Position(self._epoch, 0), deque(maxlen=self.length), now)
            self._logs.move_to_end(group)
            log.end = Position(log.end.epoch, log.end.number + 1)
            log.entries.append((log.end, message))
            log.sent_at = now
            return log.end

    async def _read(self, group: str, after: Position) -> tuple[Position, list[tuple[Position, Message]]]:
        with self._lock:
            self._forget_old(self._clock())
            log = self._logs.get(group)
            if log is None:
                return START, []
            return log.end, [entry for entry in log.entries if entry[0] > after]

    async def _end(self, group: str) -> Position:
        with self._lock:
            self._forget_old(self._clock())
            log = self._logs.get(group)
            return START if log is None else log.end

    def _forget_old(self, now: float) -> None:
        while self._logs:
            group, log = next(iter(self._logs.items()))
            if now - log.sent_at < self.expiry_s:
                return
            del self._logs[group]


class _Log:
    """One log in memory."""

    __slots__ = ("end", "entries", "sent_at")

    def __init__(self, end: Position, entries: "deque[tuple[Position, Message]]", sent_at: float) -> None:
        self.end = end
        self.entries = entries
        self.sent_at = sent_at


def logged(message: Message, group: str, position: Position) -> Message:
    """`message` as members get it."""
    return {**message, "log": {"group": group, "position": str(position)}}


def _contiguous(after: Position, positions: list[Position]) -> bool:
    return all(one.directly_before(two) for one, two in zip([after, *positions], positions, strict=False))
