"""The layer over queues in Redis: a message waits there until it is received, and workers share a channel.

- `{prefix}:queue:{name}` is the queue of a channel. The channels of one process, named `specific.PROCESS!...`, have one
  queue, under the name up to the "!", and the key `__asgi_channel__` of the message names the channel;
- a group is a set of processes, and of channels that no process owns (group_memberships.py), so a group message costs
  one element per process, whatever the number of members;
- a message to a group goes to the members in this event loop at once, without Redis.

A connection of its own reads each queue, and outlives those who wait: a cancelled `receive` takes no message with it.
What was taken for a receiver that has left meanwhile goes back to the front of the queue.

Delivery is at most once. When a lost connection is back, the memberships of this process are written again (Redis may
have lost them), then each attached channel gets one event.
"""

import asyncio
import functools
import re
import secrets
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final

from gateway.exceptions import ChannelFull
from gateway.layers.base import (
    NOBODY,
    Deliver,
    GroupSendResult,
    LayerUnavailableError,
    Message,
    SyncChannelLayer,
    require_message,
)
from gateway.layers.dropped import FULL, GONE, UNAVAILABLE
from gateway.layers.redis.cluster import ClusterCommands
from gateway.layers.redis.connection import CommandConnection
from gateway.layers.redis.group_memberships import GroupMemberships, group_key, oldest
from gateway.layers.redis.hosts import Hosts
from gateway.layers.redis.layer import LoopState, RedisLayerBase
from gateway.layers.redis.queue_reader import PUSH, SCRIPTS, QueueReader
from gateway.layers.redis.sync_clients import SyncClients
from gateway.layers.serializers import Serializer
from gateway.layers.validation import decode_name, escape_name, require_name

PROCESS_QUEUE_CAPACITY: Final = 10_000
"""Elements that wait for one process, which drains them at once: each of its channels is bounded there."""

PROCESS_CHANNEL: Final = re.compile(r"specific\.[0-9a-f]{32}!.*", re.DOTALL)


class RedisChannelLayer(RedisLayerBase["_LoopState"]):
    """Channels and groups over queues in Redis; the layer for workers.

    `capacity` bounds a channel of a process there, and any other channel in Redis. A membership that is neither
    refreshed by a living process nor added again ends after `group_expiry` seconds. `random_prefix_length` is not
    needed here, where equal messages are two elements of a list.
    """

    def __init__(self, hosts: Hosts | None = None, **options: Any) -> None:
        super().__init__(hosts, **options)
        self.client_prefix = secrets.token_hex(8)
        """What the names of the channels of this layer, in this process, have after "specific."."""

    def _make_state(self) -> "_LoopState":
        return _LoopState(self)

    def _make_serializer(self) -> Serializer:
        return self.options.make_serializer(max_age_s=self.options.expiry)

    @functools.cached_property
    def sync(self) -> SyncChannelLayer:
        """`send` and `group_send` over a plain synchronous client, shared by the threads of this process."""
        return _Sync(self)

    def queue_key(self, channel: str) -> bytes:
        """The queue that `channel` is in."""
        return f"{self.prefix}:queue:{escape_name(self.non_local_name(channel))}".encode()

    def group_key(self, group: str) -> bytes:
        """The sorted set of the members of `group`."""
        return group_key(self.options, group)

    async def wait_received(self) -> None:
        """Returns at once, as what is received has left Redis: for programs that call it."""

    def require_own(self, channel: str) -> None:
        """Raises AssertionError when `channel` belongs to another process: reading it would take its messages."""
        own = channel.startswith(f"specific.{self.client_prefix}") or not PROCESS_CHANNEL.fullmatch(channel)
        assert own, f"Wrong client prefix: the channel {channel} is read by the process that made it"

    def push_arguments(self, channel: str, message: Message) -> tuple[bytes, tuple[bytes | int | str, ...]]:
        """The queue of `channel` and the ARGV of PUSH that puts `message` into it."""
        capacity = self.get_capacity(channel)
        if "!" in channel:
            capacity = max(capacity, PROCESS_QUEUE_CAPACITY)
            if not channel.endswith("!"):
                message = {**message, "__asgi_channel__": channel}
        return self.queue_key(channel), (self.encode(message), capacity, int(self.expiry * 1000), "back")


class _LoopState(LoopState):
    layer: RedisChannelLayer

    def __init__(self, layer: RedisChannelLayer) -> None:
        super().__init__(layer, SCRIPTS)
        # Different in each event loop, because forked processes inherit the layer.
        self.process = f"specific.{layer.client_prefix}{secrets.token_hex(8)}!"
        self.memberships = GroupMemberships(
            layer.options,
            self.process,
            local=self.local,
            commands=self.commands,
            run_in_background=self._run_in_background,
        )
        if isinstance(self.commands, ClusterCommands):
            self.commands.on_well = self.memberships.write_all_soon
        self.readers: dict[bytes, QueueReader] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        return not any(connection.down for connection in (*self.commands.connections, *self.readers.values()))

    async def flush(self) -> None:
        await self.commands.connect()
        for connection in self.commands.connections:
            await _delete(connection, f"{self.layer.prefix}:")
        await super().flush()

    async def close(self) -> None:
        self.memberships.close()
        for task in self._tasks:
            task.cancel()
        for reader in self.readers.values():
            await reader.close()
        await self.commands.close()
        self.readers.clear()

    # Channels

    async def new_channel(self, prefix: str) -> str:
        reader = self._reader(self.process)
        if not await reader.wait_settled() and not reader.ever_up:
            raise reader.unavailable()
        # Other processes find the queue by the name up to the "!", so the caller's prefix comes after it.
        channel = f"{self.process}{'' if prefix == 'specific.' else prefix}{uuid.uuid4().hex}"
        self.local.open(channel)
        return channel

    def attach(self, channel: str, deliver: Deliver) -> None:
        self._reader(channel).read_on()
        self.local.attach(channel, deliver)

    def detach(self, channel: str) -> None:
        for group in self.local.detach(channel):
            self.memberships.leave(group)
        if "!" not in channel:
            self._close_reader(self.layer.queue_key(channel))

    async def receive(self, channel: str) -> Message:
        reader = self._reader(channel)
        reader.wanted_soon()
        try:
            return await self.local.get(channel)
        except asyncio.CancelledError:
            if "!" not in channel:
                self._stop_reading(channel, reader)
            raise

    def _stop_reading(self, channel: str, reader: QueueReader) -> None:
        """Gives back what Redis has handed over, and ends the wait for more: another reader gets it."""
        self._give_back(channel, self.local.take_unread(channel))
        if reader.blocked and reader.client_id is not None and not self.local.waiting(channel):
            self.commands.execute_quietly(self.layer.queue_key(channel), "CLIENT", "UNBLOCK", reader.client_id)

    def _reader(self, channel: str) -> QueueReader:
        key = self.layer.queue_key(channel)
        reader = self.readers.get(key)
        if reader is None:
            self.layer.require_own(channel)
            shared = "!" in channel
            host, locate = self.commands.where(key)
            reader = self.readers[key] = QueueReader(
                host,
                key,
                locate=locate,
                # The queue of a process is drained; from any other, only what is waited for is taken.
                wanted=None if shared else lambda: self.local.waiting(channel),
                on_message=self._receive_shared if shared else lambda payload: self._receive(channel, payload),
                on_disconnect=lambda: self.events.lost(list(self.local.channels)) if shared else None,
                on_reconnect=lambda: self._run_in_background(self._rejoin()) if shared else None,
                on_idle=lambda: self._close_reader(key),
            )
        return reader

    def _close_reader(self, key: bytes) -> None:
        reader = self.readers.pop(key, None)
        if reader is not None:
            self._run_in_background(reader.close())

    def _give_back(self, channel: str, messages: Sequence[Message]) -> None:
        for message in reversed(messages):
            key, arguments = self.layer.push_arguments(channel, message)
            # No task: the event loop may be ending.
            self.commands.execute_quietly(key, "EVALSHA", PUSH.digest, 1, key, *arguments[:-1], "front")

    async def send(self, channel: str, message: Message) -> None:
        if channel.startswith(self.process) and self.local.knows(channel):
            self.put(channel, message)
            return
        key, arguments = self.layer.push_arguments(channel, message)
        try:
            accepted = await self._push(key, arguments)
        except LayerUnavailableError:
            self.drops.add(UNAVAILABLE, channel)
            raise
        if not accepted:
            raise ChannelFull(channel)

    async def _push(self, key: bytes, arguments: Sequence[Any]) -> bool:
        return bool(await self.commands.run_script(PUSH, key, arguments))

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        if not channel.startswith(self.process):
            await self.memberships.add(group, channel)
            return
        self.local.join(group, channel)
        try:
            await self.memberships.join(group)
        except LayerUnavailableError:
            self.local.leave(group, channel)
            raise

    async def group_discard(self, group: str, channel: str) -> None:
        if not channel.startswith(self.process):
            await self.memberships.discard(group, channel)
        elif self.local.leave(group, channel):
            self.memberships.leave(group)

    async def group_send(self, group: str, message: Message) -> GroupSendResult:
        layer = self.layer
        result = NOBODY
        if group in self.local.groups:
            # Through the serializer, so that a member sees the same values whichever process it lives in.
            result = self.local.put_group(group, layer.deserialize(layer.encode(message)))
        try:
            members = await self.memberships.others(group)
            pushes = [self._push(*push) for push in group_pushes(layer, group, message, members)]
            # Begun in order and within one loop iteration, so that the order of two messages is kept.
            accepted = await asyncio.gather(*pushes)
        except LayerUnavailableError as error:
            self.drops.add(UNAVAILABLE, group)
            raise LayerUnavailableError(str(error), result) from error.__cause__
        refused = accepted.count(False)
        if refused:
            self.drops.add(FULL, group, refused)
        return GroupSendResult(result.delivered, result.dropped + refused)

    # Messages from Redis

    def _receive_shared(self, payload: bytes) -> None:
        message = self.layer.decode(payload, self.process)
        if message is None:
            return
        group = message.pop("__asgi_group__", None)
        channel = message.pop("__asgi_channel__", None)
        if group is not None:
            if group in self.local.groups:
                self.local.put_group(group, message)
            else:
                self.memberships.leave(group)  # its members expired
        elif channel is not None and (self.local.knows(channel) or not channel.startswith(self.process)):
            self.local.put(channel, message)
        else:
            self.drops.add(GONE, str(channel))

    def _receive(self, channel: str, payload: bytes) -> None:
        message = self.layer.decode(payload, channel)
        if message is None:
            return
        if self.local.waiting(channel) or self.local.is_attached(channel):
            self.local.put(channel, message)
        else:
            self._give_back(channel, [message])

    async def _rejoin(self) -> None:
        await self.memberships.write_all()
        self.events.back(list(self.local.channels))

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Sync:
    """Sends over redis-py's synchronous clients."""

    def __init__(self, layer: RedisChannelLayer) -> None:
        self._layer = layer
        self._clients = SyncClients(layer.hosts)

    def send(self, channel: str, message: Message) -> None:
        require_name("Channel", channel)
        require_message(message)
        if not self._push(*self._layer.push_arguments(channel, message)):
            raise ChannelFull(channel)

    def group_send(self, group: str, message: Message) -> GroupSendResult:
        """As the layer's `group_send`; every member counts as one of another process."""
        require_name("Group", group)
        require_message(message)
        key = self._layer.group_key(group)
        since = oldest(self._layer.options)
        names = self._clients.run(key, lambda client: client.zrangebyscore(key, since, "+inf"))
        pushes = group_pushes(self._layer, group, message, map(decode_name, names))
        return GroupSendResult(0, sum(not self._push(*push) for push in pushes))

    def close(self) -> None:
        """Closes the connections, which open again when used."""
        self._clients.close()

    def _push(self, key: bytes, arguments: Sequence[Any]) -> bool:
        return bool(self._clients.run_script(PUSH, key, arguments))


def group_pushes(
    layer: RedisChannelLayer, group: str, message: Message, members: Iterable[str]
) -> Iterable[tuple[bytes, tuple[Any, ...]]]:
    """The queue and the ARGV of PUSH for each of `members`; all processes get the same bytes, serialized once."""
    for_processes: bytes | None = None
    for member in members:
        if not member.endswith("!"):
            yield layer.push_arguments(member, message)
            continue
        if for_processes is None:
            for_processes = layer.encode({**message, "__asgi_group__": group})
        yield layer.queue_key(member), (for_processes, PROCESS_QUEUE_CAPACITY, int(layer.expiry * 1000), "back")


async def _delete(connection: CommandConnection, prefix: str) -> None:
    """Deletes the keys that begin with `prefix`, a thousand at a time."""
    pattern = "".join(f"[{character}]" if character in "*?[]" else character for character in prefix) + "*"
    cursor: Any = b"0"
    while True:
        cursor, keys = await connection.execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
        for key in keys:  # one by one: on a cluster they are in different slots
            connection.execute_quietly("UNLINK", key)
        if cursor == b"0":
            await connection.execute("PING")
            return
