"""Presence in Redis: the members of all processes, each of which has a lease.

- `{prefix}:presence:processes`: a sorted set, process -> end of its lease, on the clock of Redis. Each process renews
  its own lease, whatever the number of its members. `dead:PROCESS` is one whose lease expired: another process removes
  its members, and until the time of that entry nobody else does;
- `{prefix}:presence:group:{group}`: a hash, "PROCESS!NUMBER" -> metadata;
- `{prefix}:presence:process:{process}`: the set of groups that it has members in.

When the lease of a process expires, its members no longer count. The next process that renews its own lease removes
them and sends the events. A process that was only slow finds its lease expired, and enters its members again as a new
process, under new IDs.
"""

import asyncio
import functools
import itertools
import logging
import uuid
from collections import Counter
from typing import Any, Final

from gateway.layers.base import LayerUnavailableError
from gateway.layers.per_loop import PerLoop
from gateway.layers.presence import Entry, Member, Presence, SyncPresence
from gateway.layers.redis.commands import Commands, Scripts
from gateway.layers.redis.connection import Script
from gateway.layers.redis.layer import RedisLayerBase
from gateway.layers.redis.sync_clients import SyncScripts
from gateway.layers.validation import decode_name, encode_name, escape_name, require_seconds

logger = logging.getLogger("gateway.layer")

LEASE_S: Final = 10.0
RENEWALS_PER_LEASE: Final = 4

RENEW: Final = Script("""
-- KEYS: processes. ARGV: own name, lease in ms. Whether it was known, and the expired whose members the caller removes.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
local expired = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)) do
  local process = string.gsub(name, '^dead:', '')
  redis.call('ZREM', KEYS[1], name)
  redis.call('ZADD', KEYS[1], now + ARGV[2], 'dead:' .. process)
  expired[#expired + 1] = process
end
return {known and 1 or 0, expired}
""")

LIVING: Final = Script("""
-- KEYS: processes. Those whose lease has not ended.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
""")

MEMBERS: Final = Script("""
-- KEYS: group. Its members, those of expired processes included: the name and the metadata of each.
return redis.call('HGETALL', KEYS[1])
""")

SCRIPTS: Final = (RENEW, LIVING, MEMBERS)


class RedisPresence(Presence):
    """Members in all processes."""

    layer: RedisLayerBase[Any]

    def __init__(self, layer: RedisLayerBase[Any], *, lease_s: float = LEASE_S) -> None:
        """The members of a process that is killed count for another `lease_s`."""
        require_seconds("lease_s of presence", lease_s)
        super().__init__(layer)
        self.lease_s = lease_s
        self._loops = PerLoop(lambda: _Process(self, layer))

    async def watch(self, group: str, channel: str) -> list[Member]:
        self._loops.here.start()  # a watcher also looks for expired processes
        return await super().watch(group, channel)

    async def close(self) -> None:
        process = self._loops.pop()
        if process is not None:
            await process.close()

    async def _enter(self, entry: Entry) -> None:
        await self._loops.here.enter(entry)

    async def _leave(self, entry: Entry) -> None:
        await self._loops.here.leave(entry)

    async def _members(self, group: str) -> list[Member]:
        return await self._loops.here.reader.members(group)

    @functools.cached_property
    def sync(self) -> SyncPresence:
        """`members` for synchronous code, over plain synchronous clients that the threads of this process share."""
        return SyncPresence(_Reader(self.layer, SyncScripts(self.layer.hosts)))


class _Reader:
    """Reads the members from Redis."""

    def __init__(self, layer: RedisLayerBase[Any], scripts: Scripts) -> None:
        self._layer = layer
        self._scripts = scripts
        self.processes_key = f"{layer.prefix}:presence:processes".encode()

    def group_key(self, group: str) -> bytes:
        return f"{self._layer.prefix}:presence:group:{escape_name(group)}".encode()

    async def members(self, group: str) -> list[Member]:
        """The members of living processes, by ID."""
        # Members first: one that enters in between has a living process, and one whose lease ends then is left out.
        found = await self.all(group)
        living = await self._scripts.run_script(LIVING, self.processes_key, ())
        alive = {name.decode() for name in living}
        return sorted(member for member in found if _process_of(member.id) in alive)

    async def all(self, group: str) -> list[Member]:
        """The members, those of expired processes included."""
        fields = await self._scripts.run_script(MEMBERS, self.group_key(group), ())
        pairs = zip(fields[::2], fields[1::2], strict=True)
        return [Member(id_.decode(), self._layer.decode_stored(payload, "presence") or {}) for id_, payload in pairs]

    async def close(self) -> None:
        await self._scripts.close()


class _Process:
    """The part of one event loop, which counts as a process."""

    def __init__(self, presence: RedisPresence, layer: RedisLayerBase[Any]) -> None:
        self._presence = presence
        self._layer = layer
        self._commands: Commands = layer.make_commands(SCRIPTS)
        self.reader = _Reader(layer, self._commands)
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._entries: set[Entry] = set()
        self._groups: Counter[str] = Counter()
        self._renewing: asyncio.Task[None] | None = None
        self._removals: set[asyncio.Task[None]] = set()
        self._known = False
        self._renamed = False

    def start(self) -> None:
        """Begins to renew the lease, and to look for expired processes."""
        if self._renewing is None:
            self._renewing = asyncio.get_running_loop().create_task(self._renew_forever(), name="presence")

    async def close(self) -> None:
        tasks = set(self._removals)
        if self._renewing is not None:
            tasks.add(self._renewing)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._commands.close()

    async def enter(self, entry: Entry) -> None:
        self.start()
        if not self._known:
            await self._renew()
        self._add(entry)
        try:
            await self._write(entry)
        except BaseException:
            entry.left = True
            self._remove(entry)
            raise

    async def leave(self, entry: Entry) -> None:
        self._remove(entry)
        await self._delete(entry.group, entry.member)

    def _add(self, entry: Entry) -> None:
        self._entries.add(entry)
        self._groups[entry.group] += 1

    def _remove(self, entry: Entry) -> None:
        self._entries.discard(entry)
        self._groups[entry.group] -= 1
        if not self._groups[entry.group]:
            del self._groups[entry.group]
            key = self._process_key(self._name)
            # Sent when called, like the SADD of a later entry, so that Redis gets both in this order.
            self._commands.execute_quietly(key, "SREM", key, encode_name(entry.group))

    async def _write(self, entry: Entry) -> None:
        """Writes `entry` under a new ID, and sends `presence.joined`."""
        entry.id = f"{self._name}!{next(self._numbers)}"
        member = entry.member
        payload = self._layer.stored_serializer.serialize(entry.data)
        self._layer.require_size(len(payload), {"type": "presence.joined"})
        key, own = self.reader.group_key(entry.group), self._process_key(self._name)
        # The groups of the process first: those who remove the members of an expired process look there.
        await self._commands.execute(own, "SADD", own, encode_name(entry.group))
        await self._commands.execute(key, "HSET", key, member.id, payload)
        if entry.left or entry.id != member.id:  # while this was being written
            await self._delete(entry.group, member)
        else:
            await self._presence.send_event("presence.joined", entry.group, member)

    async def _delete(self, group: str, member: Member) -> None:
        key = self.reader.group_key(group)
        if await self._commands.execute(key, "HDEL", key, member.id):
            await self._presence.send_event("presence.left", group, member)

    # The lease

    async def _renew_forever(self) -> None:
        away = False
        while True:
            try:
                await self._renew()
                away = False
            except LayerUnavailableError as error:
                if not away:
                    logger.warning("presence cannot be renewed: %s", error)
                away = True
            except Exception:
                logger.exception("presence cannot be renewed")
            await asyncio.sleep(self._presence.lease_s / RENEWALS_PER_LEASE)

    async def _renew(self) -> None:
        expired = await self._renew_lease()
        if self._renamed:
            await self._enter_again()
        for process in expired:
            removal = self._remove_expired_process(process)
            task = asyncio.get_running_loop().create_task(removal, name="presence: remove an expired process")
            self._removals.add(task)
            task.add_done_callback(self._removals.discard)

    async def _renew_lease(self) -> list[str]:
        """Returns the expired processes whose members this process has to remove."""
        lease_ms = int(self._presence.lease_s * 1000)
        known, expired = await self._commands.run_script(RENEW, self.reader.processes_key, (self._name, lease_ms))
        if self._known and not known:
            # The lease had expired, or Redis has lost everything. Others may be removing what has the old name.
            self._name = uuid.uuid4().hex
            self._renamed = True
            await self._commands.run_script(RENEW, self.reader.processes_key, (self._name, lease_ms))
        self._known = True
        return [name.decode() for name in expired]

    async def _enter_again(self) -> None:
        logger.warning("presence: this process was taken for dead, or Redis was emptied; its members enter again")
        for entry in list(self._entries):
            former = entry.member
            if _process_of(former.id) != self._name and not entry.left:
                await self._write(entry)
                # Sent in any case: when Redis was emptied, nobody else sends it.
                await self._presence.send_event("presence.left", entry.group, former)
        self._renamed = False

    async def _remove_expired_process(self, process: str) -> None:
        """Removes the members of `process` and sends the events. If that fails, some process does it a lease later."""
        own = self._process_key(process)
        try:
            for name in await self._commands.execute(own, "SMEMBERS", own):
                group = decode_name(name)
                for member in await self.reader.all(group):
                    if _process_of(member.id) == process:
                        await self._delete(group, member)
            await self._commands.execute(own, "DEL", own)
            await self._commands.execute(
                self.reader.processes_key, "ZREM", self.reader.processes_key, f"dead:{process}"
            )
        except LayerUnavailableError as error:
            logger.warning("presence: the members of a dead process are not all removed: %s", error)
        except Exception:
            logger.exception("presence: the members of a dead process are not all removed")

    def _process_key(self, process: str) -> bytes:
        return f"{self._layer.prefix}:presence:process:{process}".encode()


def _process_of(id_: str) -> str:
    return id_.partition("!")[0]
