"""Logs of groups: what was sent to a group lately, numbered, for those who come back and those who missed something.

A layer delivers at most once. `GroupLog.send` first appends the message to the log of its group, then sends it to the
members as ever, with its position; so a member sees from the position whether it missed one, and reads that from the
log (gateway.generic.resume does so). The log is bounded, and says when it no longer has what was asked for: a gap.

A position is written "EPOCH-NUMBER". The epoch is when the log began, in milliseconds: one that was lost, or forgotten
because nothing was sent for long, begins anew, with another epoch and number 1. Numbers have no holes.

In Redis a log is a stream, under `{prefix}:log:{group}`, and a position is the ID of its entry.
"""

import copy
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self

from gateway.layers.base import BaseChannelLayer, GroupSendResult, LayerUnavailableError, Message, require_message
from gateway.layers.dropped import UNDECODABLE
from gateway.layers.options import require_count, require_seconds
from gateway.layers.per_loop import PerLoop
from gateway.layers.redis.commands import Scripts
from gateway.layers.redis.layer import RemoteChannelLayer
from gateway.layers.redis.scripts import digest
from gateway.layers.redis.sync_clients import SyncClients, SyncScripts, run_now
from gateway.layers.validation import escape_name, require_name

LENGTH = 1000
EXPIRY_S = 3600.0
POSITION_BYTES = 200
"""More than what the position of a message adds to it, but for the name of its group, in JSON six bytes a character."""

APPEND: Final = """
-- KEYS: log. ARGV: payload, length, expiry in ms. The position.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local position
if last then
  local epoch, number = string.match(last[1], '(%d+)-(%d+)')
  position = epoch .. '-' .. string.format('%.0f', number + 1)
else
  local time = redis.call('TIME')
  position = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)) .. '-1'
end
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], position, 'm', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return position
"""


READ: Final = """
-- KEYS: log. ARGV: a position, or '+'. The last entry of the log, and those from that position on.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return {last or false, redis.call('XRANGE', KEYS[1], ARGV[1], '+')}
"""

SCRIPTS: Final = {script: digest(script) for script in (APPEND, READ)}


class Position(NamedTuple):
    """Where a message is in the log of its group."""

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The position that `str` wrote; ValueError when it did not."""
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
    """Messages of a log in order. `gap`: some that were sent before them are gone. `end`: where the log ends."""

    messages: list[Message]
    gap: bool
    end: Position


class GroupLog:
    """The logs of all groups of one layer. Not used by itself: see `gateway.layers.manager.group_log`."""

    def __init__(self, layer: BaseChannelLayer, *, length: int = LENGTH, expiry_s: float = EXPIRY_S) -> None:
        """A log has its last `length` messages, and is forgotten `expiry_s` after the last one."""
        require_count("length of a group log", length)
        require_seconds("expiry_s of a group log", expiry_s)
        self._layer = layer
        self.length = length
        self.expiry_s = expiry_s

    async def send(self, group: str, message: Message) -> Sent:
        """Appends `message` to the log of `group`, then sends it to the members.

        Each gets it with a key "log": {"group": group, "position": "EPOCH-NUMBER"}. Messages of one sender that awaits
        this are in the order sent, for all. Raises LayerUnavailableError when it is not known to be in the log; members
        that could not be reached find it there.
        """
        require_name("Group", group)
        require_message(message)
        position = await self._append(group, message)
        try:
            result = await self._group_send(group, logged(message, group, position))
        except LayerUnavailableError as error:
            result = error.result
        return Sent(position, *(result or GroupSendResult(0, 0)))

    async def read(self, group: str, after: Position) -> Replay:
        """What was sent to `group` after the position `after`, as far as the log has it, as members get it."""
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

    async def _group_send(self, group: str, message: Message) -> GroupSendResult | None:
        return await self._layer.group_send(group, message)

    async def _append(self, group: str, message: Message) -> Position:
        raise NotImplementedError

    async def _read(self, group: str, after: Position) -> tuple[Position, list[tuple[Position, Message]]]:
        """Where the log ended before, or when, the entries after `after` were read; and those."""
        raise NotImplementedError

    async def _end(self, group: str) -> Position:
        raise NotImplementedError


class SyncGroupLog:
    """A log whose coroutines wait for nothing, as functions."""

    def __init__(self, log: GroupLog) -> None:
        self._log = log

    def send(self, group: str, message: Message) -> Sent:
        """As `GroupLog.send`."""
        return run_now(self._log.send(group, message))

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
        # The group that was sent to longest ago is first.
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


class RedisGroupLog(GroupLog):
    """Logs in Redis, shared by all processes, over connections of their own."""

    _layer: RemoteChannelLayer[Any]

    def __init__(self, layer: RemoteChannelLayer[Any], *, length: int = LENGTH, expiry_s: float = EXPIRY_S) -> None:
        super().__init__(layer, length=length, expiry_s=expiry_s)
        self._serializer = layer.serializer_of_what_is_kept()
        self._loops = PerLoop(lambda: layer.make_commands(SCRIPTS))
        self._sync: SyncGroupLog | None = None

    @property
    def sync(self) -> SyncGroupLog:
        """The same for synchronous code, over plain synchronous clients that the threads of this process share."""
        if self._sync is None:
            self._sync = SyncGroupLog(_RedisGroupLogOfThreads(self))
        return self._sync

    async def _append(self, group: str, message: Message) -> Position:
        payload = self._serializer.serialize(message)
        # Before it is in the log: members are sent it with its position, and their copy has the same limit.
        self._layer.require_size(len(payload) + 6 * len(group) + POSITION_BYTES, message)
        arguments = (payload, self.length, int(self.expiry_s * 1000))
        reply: bytes = await self._scripts.run_script(APPEND, self._key(group), arguments)
        return Position.parse(reply.decode())

    async def _read(self, group: str, after: Position) -> tuple[Position, list[tuple[Position, Message]]]:
        start = f"{after.epoch}-{after.number + 1}"
        last, found = await self._scripts.run_script(READ, self._key(group), (start,))
        entries = [(Position.parse(entry[0].decode()), self._decode(group, entry[1][1])) for entry in found]
        readable = [(position, message) for position, message in entries if message is not None]
        return _end_of(last), readable

    async def _end(self, group: str) -> Position:
        last, _ = await self._scripts.run_script(READ, self._key(group), ("+",))
        return _end_of(last)

    async def close(self) -> None:
        """Closes the connections of this event loop, which are made again when used."""
        commands = self._loops.pop()
        if commands is not None:
            await commands.close()

    @property
    def _scripts(self) -> Scripts:
        return self._loops.here

    def _key(self, group: str) -> bytes:
        return f"{self._layer.prefix}:log:{escape_name(group)}".encode()

    def _decode(self, group: str, payload: bytes) -> Message | None:
        """The message, or None when it is not one: then the log has a gap there."""
        try:
            return dict(self._serializer.deserialize(payload))
        except Exception as error:  # whatever a serializer raises on bytes that are not its own
            self._layer.drops.add(UNDECODABLE, f"the log of {group} ({type(error).__name__})")
            return None


class _RedisGroupLogOfThreads(RedisGroupLog):
    """The same logs by synchronous clients."""

    def __init__(self, log: RedisGroupLog) -> None:
        super().__init__(log._layer, length=log.length, expiry_s=log.expiry_s)
        self._by_clients = SyncScripts(SyncClients(log._layer.hosts), SCRIPTS)

    @property
    def _scripts(self) -> Scripts:
        return self._by_clients

    async def _group_send(self, group: str, message: Message) -> GroupSendResult:
        return self._layer.sync.group_send(group, message)

    async def close(self) -> None:
        self._by_clients.clients.close()


def logged(message: Message, group: str, position: Position) -> Message:
    """`message` as members get it."""
    return {**message, "log": {"group": group, "position": str(position)}}


def _contiguous(after: Position, positions: list[Position]) -> bool:
    return all(one.directly_before(two) for one, two in zip([after, *positions], positions, strict=False))


def _end_of(last: Any) -> Position:
    return Position.parse(last[0].decode()) if last else START
