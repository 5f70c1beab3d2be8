"""Members of groups in Redis, those of all processes, each of which has a lease.

- `{prefix}:presence:processes`: a sorted set, process -> when its lease ends, on the clock of Redis. Each renews its
  own, whatever the number of its members. `dead:PROCESS` is one whose members are being removed, and until when
  nobody else is to do so;
- `{prefix}:presence:group:{group}`: a hash, "PROCESS!NUMBER" -> metadata;
- `{prefix}:presence:process:{process}`: the set of groups that it has members in.

A process that does not renew its lease is dead: its members no longer count from that moment, and the next process that
renews its own removes them, and tells. One that was only slow finds that out, and enters its members again as a new
process, under new IDs.
"""

import asyncio
import itertools
import logging
import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from gateway.layers.base import LayerUnavailableError
from gateway.layers.dropped import UNDECODABLE
from gateway.layers.options import require_seconds
from gateway.layers.per_loop import PerLoop
from gateway.layers.presence import Entry, Member, Presence, SyncPresence
from gateway.layers.redis.commands import Commands, Scripts
from gateway.layers.redis.layer import RemoteChannelLayer
from gateway.layers.redis.scripts import digest
from gateway.layers.redis.sync_clients import SyncClients, SyncScripts
from gateway.layers.validation import escape_name

logger = logging.getLogger("gateway.layer")

LEASE_S = 10.0
RENEWALS_PER_LEASE = 4

RENEW: Final = """
-- KEYS: processes. ARGV: own name, lease in ms. Whether it was known, and the dead whose members the caller removes.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
local dead = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)) do
  local process = string.gsub(name, '^dead:', '')
  redis.call('ZREM', KEYS[1], name)
  redis.call('ZADD', KEYS[1], now + ARGV[2], 'dead:' .. process)
  dead[#dead + 1] = process
end
return {known and 1 or 0, dead}
"""

LIVING: Final = """
-- KEYS: processes. Those whose lease has not ended.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
"""

MEMBERS: Final = """
-- KEYS: group. Its members, those of the dead included: the name and the metadata of each.
return redis.call('HGETALL', KEYS[1])
"""

SCRIPTS: Final = {script: digest(script) for script in (RENEW, LIVING, MEMBERS)}


class RedisPresence(Presence):
    """Members in all processes, by leases in Redis."""

    _layer: RemoteChannelLayer[Any]

    def __init__(self, layer: RemoteChannelLayer[Any], *, lease_s: float = LEASE_S) -> None:
        """A process that is killed counts as dead after `lease_s`."""
        require_seconds("lease_s of presence", lease_s)
        super().__init__(layer)
        self.lease_s = lease_s
        self._loops = PerLoop(lambda: _Process(self, layer))
        self._sync: SyncPresence | None = None

    async def watch(self, group: str, channel: str) -> list[Member]:
        """Sends `presence.joined` and `presence.left` for `group` to `channel` from now on; returns who is there."""
        self._loops.here.start()  # who watches also looks for the dead
        return await super().watch(group, channel)

    async def close(self) -> None:
        """Lets go of what the running event loop has: its members are dead when their lease ends."""
        process = self._loops.pop()
        if process is not None:
            await process.close()

    async def _enter(self, entry: Entry) -> None:
        await self._loops.here.enter(entry)

    async def _leave(self, entry: Entry) -> None:
        await self._loops.here.leave(entry)

    async def _members(self, group: str) -> Iterable[Member]:
        return await self._loops.here.register.members(group)

    @property
    def sync(self) -> SyncPresence:
        """The same for synchronous code, over plain synchronous clients that the threads of this process share."""
        if self._sync is None:
            self._sync = SyncPresence(_RedisPresenceOfThreads(self._layer, lease_s=self.lease_s))
        return self._sync


class _RedisPresenceOfThreads(RedisPresence):
    """The same members by synchronous clients."""

    def __init__(self, layer: RemoteChannelLayer[Any], *, lease_s: float) -> None:
        super().__init__(layer, lease_s=lease_s)
        self._clients = SyncClients(layer.hosts)
        self._register = _Register(layer, SyncScripts(self._clients, SCRIPTS))

    async def _members(self, group: str) -> Iterable[Member]:
        return await self._register.members(group)

    async def close(self) -> None:
        self._clients.close()


class _Register:
    """What Redis has of members, to be read."""

    def __init__(self, layer: RemoteChannelLayer[Any], scripts: Scripts) -> None:
        self._layer = layer
        self._scripts = scripts
        self.serializer = layer.serializer_of_what_is_kept()
        self.processes_key = f"{layer.prefix}:presence:processes".encode()

    def group_key(self, group: str) -> bytes:
        return f"{self._layer.prefix}:presence:group:{escape_name(group)}".encode()

    async def members(self, group: str) -> list[Member]:
        """Those of living processes."""
        # Members first: who enters in between has a living process, and who died in between is left out.
        found = await self.all(group)
        living = await self._scripts.run_script(LIVING, self.processes_key, ())
        alive = {name.decode() for name in living}
        return [member for member in found if _process_of(member.id) in alive]

    async def all(self, group: str) -> list[Member]:
        """Those of the dead included."""
        fields = await self._scripts.run_script(MEMBERS, self.group_key(group), ())
        pairs = zip(fields[::2], fields[1::2], strict=True)
        return [Member(field.decode(), self._decode(payload)) for field, payload in pairs]

    def _decode(self, payload: bytes) -> dict[str, Any]:
        try:
            return dict(self.serializer.deserialize(payload))
        except Exception as error:  # whatever a serializer raises on bytes that are not its own
            self._layer.drops.add(UNDECODABLE, f"presence ({type(error).__name__})")
            return {}


class _Process:
    """The part of one event loop, which counts as a process."""

    def __init__(self, presence: RedisPresence, layer: RemoteChannelLayer[Any]) -> None:
        self._presence = presence
        self._layer = layer
        self._commands: Commands = layer.make_commands(SCRIPTS)
        self.register = _Register(layer, self._commands)
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._entries: set[Entry] = set()
        self._groups: Counter[str] = Counter()
        self._renewing: asyncio.Task[None] | None = None
        self._burials: set[asyncio.Task[None]] = set()
        self._known = False
        self._renamed = False

    def start(self) -> None:
        """Begins to renew the lease, and to look for the dead."""
        if self._renewing is None:
            self._renewing = asyncio.get_running_loop().create_task(self._renew_for_ever(), name="presence")

    async def close(self) -> None:
        tasks = set(self._burials)
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
            # Sent when called, as the SADD of who enters after this: what comes last here comes last there.
            self._commands.execute_quietly(key, "SREM", key, _text(entry.group))

    async def _write(self, entry: Entry) -> None:
        """Writes `entry` under a new ID, and tells."""
        entry.id = f"{self._name}!{next(self._numbers)}"
        member = entry.member
        payload = self.register.serializer.serialize(entry.data)
        self._layer.require_size(len(payload), {"type": "presence.joined"})
        key, own = self.register.group_key(entry.group), self._process_key(self._name)
        # First where those look who remove the members of the dead.
        await self._commands.execute(own, "SADD", own, _text(entry.group))
        await self._commands.execute(key, "HSET", key, member.id, payload)
        if entry.left or entry.id != member.id:  # while this was being written
            await self._delete(entry.group, member)
        else:
            await self._presence._tell("presence.joined", entry.group, member)

    async def _delete(self, group: str, member: Member) -> None:
        key = self.register.group_key(group)
        if await self._commands.execute(key, "HDEL", key, member.id):
            await self._presence._tell("presence.left", group, member)

    # The lease

    async def _renew_for_ever(self) -> None:
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
        dead = await self._renew_lease()
        if self._renamed:
            await self._enter_anew()
        for process in dead:
            task = asyncio.get_running_loop().create_task(self._bury(process), name="presence burial")
            self._burials.add(task)
            task.add_done_callback(self._burials.discard)

    async def _renew_lease(self) -> list[str]:
        """Returns the dead that this process is to bury."""
        lease_ms = int(self._presence.lease_s * 1000)
        known, dead = await self._commands.run_script(RENEW, self.register.processes_key, (self._name, lease_ms))
        if self._known and not known:
            # Taken for dead, or Redis has lost everything. Others may be removing what has the old name.
            self._name = uuid.uuid4().hex
            self._renamed = True
            await self._commands.run_script(RENEW, self.register.processes_key, (self._name, lease_ms))
        self._known = True
        return [name.decode() for name in dead]

    async def _enter_anew(self) -> None:
        logger.warning("presence: this process was taken for dead, or Redis was emptied; its members enter again")
        for entry in list(self._entries):
            former = entry.member
            if _process_of(former.id) != self._name and not entry.left:
                await self._write(entry)
                # Told in any case: in a Redis that was emptied nobody else would.
                await self._presence._tell("presence.left", entry.group, former)
        self._renamed = False

    async def _bury(self, process: str) -> None:
        """Removes the members of a process that is dead, and tells. If it fails, somebody does it a lease later."""
        own = self._process_key(process)
        try:
            for name in await self._commands.execute(own, "SMEMBERS", own):
                group = name.decode("utf-8", "surrogatepass")
                for member in await self.register.all(group):
                    if _process_of(member.id) == process:
                        await self._delete(group, member)
            await self._commands.execute(own, "DEL", own)
            await self._commands.execute(
                self.register.processes_key, "ZREM", self.register.processes_key, f"dead:{process}"
            )
        except LayerUnavailableError as error:
            logger.warning("presence: the members of a dead process are not all removed: %s", error)
        except Exception:
            logger.exception("presence: the members of a dead process are not all removed")

    def _process_key(self, process: str) -> bytes:
        return f"{self._layer.prefix}:presence:process:{process}".encode()


def _process_of(id_: str) -> str:
    return id_.partition("!")[0]


def _text(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
