"""Group logs in Redis: a log is a stream, under `{prefix}:log:{group}`, and a position is the ID of its entry."""

import functools
from typing import Any, Final

from gateway.layers.base import Message
from gateway.layers.group_log import EXPIRY_S, LENGTH, START, GroupLog, Position, SyncGroupLog
from gateway.layers.redis.commands import Scripts, ScriptsPerLoop
from gateway.layers.redis.connection import Script
from gateway.layers.redis.layer import RedisLayerBase
from gateway.layers.redis.sync_clients import SyncScripts
from gateway.layers.validation import escape_name

POSITION_BYTES: Final = 200
"""More than what the position adds to a message, without the name of the group: up to six bytes a character in JSON."""

APPEND: Final = Script("""
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
""")

READ: Final = Script("""
-- KEYS: log. ARGV: a position, or '+'. The last entry of the log, and those from that position on.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return {last or false, redis.call('XRANGE', KEYS[1], ARGV[1], '+')}
""")

SCRIPTS: Final = (APPEND, READ)


class RedisGroupLog(GroupLog):
    """Logs shared by all processes."""

    layer: RedisLayerBase[Any]

    def __init__(
        self,
        layer: RedisLayerBase[Any],
        *,
        length: int = LENGTH,
        expiry_s: float = EXPIRY_S,
        scripts: Scripts | None = None,
    ) -> None:
        """`scripts` runs the scripts of this module: by default over connections of the running event loop."""
        super().__init__(layer, length=length, expiry_s=expiry_s)
        self._scripts: Scripts = scripts or ScriptsPerLoop(lambda: layer.make_commands(SCRIPTS))

    @functools.cached_property
    def sync(self) -> SyncGroupLog:
        """The same for synchronous code, over plain synchronous clients that the threads of this process share."""
        scripts = SyncScripts(self.layer.hosts)
        return SyncGroupLog(RedisGroupLog(self.layer, length=self.length, expiry_s=self.expiry_s, scripts=scripts))

    async def _append(self, group: str, message: Message) -> Position:
        payload = self.layer.stored_serializer.serialize(message)
        # Checked before it is in the log: what members are sent has the position besides, and the same limit.
        self.layer.require_size(len(payload) + 6 * len(group) + POSITION_BYTES, message)
        arguments = (payload, self.length, int(self.expiry_s * 1000))
        reply: bytes = await self._scripts.run_script(APPEND, self._key(group), arguments)
        return Position.parse(reply.decode())

    async def _read(self, group: str, after: Position) -> tuple[Position, list[tuple[Position, Message]]]:
        start = f"{after.epoch}-{after.number + 1}"
        last, found = await self._scripts.run_script(READ, self._key(group), (start,))
        where = f"the log of {group}"
        entries = [(Position.parse(id_.decode()), self.layer.decode_stored(fields[1], where)) for id_, fields in found]
        # One that cannot be read is a gap in the log.
        readable = [(position, message) for position, message in entries if message is not None]
        return _end_of(last), readable

    async def _end(self, group: str) -> Position:
        last, _ = await self._scripts.run_script(READ, self._key(group), ("+",))
        return _end_of(last)

    async def close(self) -> None:
        await self._scripts.close()

    def _key(self, group: str) -> bytes:
        return f"{self.layer.prefix}:log:{escape_name(group)}".encode()


def _end_of(last: Any) -> Position:
    return Position.parse(last[0].decode()) if last else START
