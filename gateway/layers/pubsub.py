"""The layer over Redis's publish and subscribe: for any number of processes, one subscription per group and process.

A message to a group goes to the members in this process at once, without Redis, and in one PUBLISH to the other
processes, each of which decodes it once and gives it to its members. What Redis carries does not depend on the number
of members; and while Redis is away, the members in this process go on receiving.

On the wire:

- `{prefix}__group__{group}`: messages to a group;
- `{prefix}__channel__{name}`: messages to a channel; those of one process, named `specific.PROCESS!...`, share the name
  up to the "!", and the message says which one in its key `__asgi_channel__`;
- a payload is the eight bytes that name the sending event loop, which drops its own echo, then the serialized message.

Delivery is at most once. When the connection was lost and is back, each attached channel gets one event that says so;
what other processes sent in between did not arrive.
"""

import asyncio
import inspect
import logging
import secrets
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import redis
from redis.exceptions import RedisError

from gateway.exceptions import ChannelFull
from gateway.layers.base import (
    NOBODY,
    BaseChannelLayer,
    Capacities,
    Deliver,
    GroupSendResult,
    LayerEvent,
    LayerUnavailableError,
    Message,
    require_message,
)
from gateway.layers.drops import GONE, UNAVAILABLE, UNDECODABLE, DropLog
from gateway.layers.hosts import Host, Hosts, decode_hosts, describe_host, shard_of, sync_pool
from gateway.layers.links import REPLY_TIMEOUT_S, CommandLink, SubscriberLink
from gateway.layers.local import LocalChannels
from gateway.layers.loops import PerLoop
from gateway.layers.names import escape_name, require_name
from gateway.layers.serializers import registry

logger = logging.getLogger("gateway.layer")

ORIGIN_BYTES = 8

ConnectionHook: TypeAlias = "str | Callable[[], Awaitable[None] | None]"


class RedisPubSubChannelLayer(BaseChannelLayer):
    """Channels and groups over Redis publish and subscribe.

    A channel is read by processes, not by workers: two processes that `receive` from one name both get each message.
    """

    extensions = ["groups", "flush"]

    def __init__(
        self,
        hosts: Hosts | None = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Capacities | None = None,
        symmetric_encryption_keys: Sequence[str | bytes] | None = None,
        serializer_format: str = "msgpack",
        on_disconnect: ConnectionHook = "layer.disconnected",
        on_reconnect: ConnectionHook = "layer.reconnected",
    ) -> None:
        """Options are those of channels_redis. With several `hosts`, names are spread over them.

        `on_disconnect`, `on_reconnect`: the type of the event that attached channels get when the connection is lost
        and when it is back, with all subscriptions; or a function, plain or async, called instead.
        """
        super().__init__(expiry=expiry, capacity=capacity, channel_capacity=channel_capacity)
        self.hosts = decode_hosts(hosts)
        self.prefix = prefix
        self.group_expiry = group_expiry
        self.on_disconnect = on_disconnect
        self.on_reconnect = on_reconnect
        self.drops = DropLog()
        self._serializer = registry.get_serializer(
            serializer_format, symmetric_encryption_keys=symmetric_encryption_keys
        )
        self._loops = PerLoop(lambda: _LoopLayer(self))
        self._sync: _Sync | None = None

    @property
    def channels(self) -> dict[str, Any]:
        """The channels that live in the running event loop."""
        return dict(self._loops.here.local.channels)

    @property
    def groups(self) -> dict[str, dict[str, float]]:
        """group -> {channel: when it joined}, for the members in the running event loop."""
        return self._loops.here.local.groups

    def serialize(self, message: Message) -> bytes:
        """`message` as it is sent."""
        return self._serializer.serialize(message)

    def deserialize(self, message: bytes) -> Message:
        """The message of `serialize`."""
        return self._serializer.deserialize(message)

    async def send(self, channel: str, message: Message) -> None:
        """Sends `message` to `channel`. ChannelFull when it is one of this event loop and full."""
        require_name("Channel", channel)
        require_message(message)
        await self._loops.here.send(channel, message)

    async def receive(self, channel: str) -> Message:
        """The next message of `channel`; the first call subscribes to it."""
        require_name("Channel", channel)
        return await self._loops.here.receive(channel)

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A new name for a channel that only this event loop reads."""
        return await self._loops.here.new_channel(prefix)

    def attach(self, channel: str, deliver: Deliver) -> None:
        """Calls `deliver` with each message of `channel` in the running loop."""
        require_name("Channel", channel)
        self._loops.here.attach(channel, deliver)

    def detach(self, channel: str) -> None:
        """Forgets `channel`, its messages and its memberships, and the subscriptions that nobody else here needs."""
        layer = self._loops.existing
        if layer is not None:
            layer.detach(channel)

    async def group_add(self, group: str, channel: str) -> None:
        """Makes `channel`, one of this event loop, a member; returns when Redis has confirmed the subscription.

        While the connection is lost it returns at once, and the membership is complete when the connection is back.
        """
        require_name("Group", group)
        require_name("Channel", channel)
        await self._loops.here.group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Ends the membership, if there is one."""
        require_name("Group", group)
        require_name("Channel", channel)
        self._loops.here.group_discard(group, channel)

    async def group_send(self, group: str, message: Message) -> GroupSendResult:
        """Gives `message` to the members here and publishes it to the other processes.

        The result counts the members here. Raises LayerUnavailableError, after the delivery here, when Redis is away:
        at once when that is known, else within the reply timeout.
        """
        require_name("Group", group)
        require_message(message)
        return await self._loops.here.group_send(group, message)

    async def flush(self) -> None:
        """Drops messages and memberships of this event loop and closes its connections, which open again when used."""
        layer = self._loops.existing
        if layer is not None:
            await layer.close()
            layer.local.clear()

    async def close(self) -> None:
        """Closes the connections of this event loop, whose channels are forgotten."""
        layer = self._loops.pop()
        if layer is not None:
            await layer.close()

    async def check(self) -> None:
        """Raises LayerUnavailableError unless every host answers."""
        await self._loops.here.check()

    @property
    def connected(self) -> bool:
        """False while the running event loop has lost its subscriptions."""
        layer = self._loops.existing
        return layer is None or not any(link.down for link in layer.subscribers)

    @property
    def sync(self) -> "_Sync":
        """`send` and `group_send` over a plain synchronous client, shared by the threads of this process."""
        if self._sync is None:
            self._sync = _Sync(self)
        return self._sync

    def group_key(self, group: str) -> bytes:
        """Where messages to `group` are published."""
        return f"{self.prefix}__group__{escape_name(group)}".encode()

    def channel_key(self, channel: str) -> bytes:
        """Where messages to `channel` are published: one place for the channels of one process."""
        return f"{self.prefix}__channel__{escape_name(self.non_local_name(channel))}".encode()

    def shard(self, key: bytes) -> int:
        """The host for `key`."""
        return shard_of(key, len(self.hosts))


class _LoopLayer:
    """The part of the layer that belongs to one event loop: its channels and its connections."""

    def __init__(self, layer: RedisPubSubChannelLayer) -> None:
        self.layer = layer
        self.origin = secrets.token_bytes(ORIGIN_BYTES)
        self.process = uuid.uuid4().hex
        self.generation = 0
        self.drops = layer.drops
        self.local = LocalChannels(
            capacity=layer.get_capacity, expiry=layer.expiry, group_expiry=layer.group_expiry, drops=self.drops
        )
        self.commands = [CommandLink(host) for host in layer.hosts]
        self.subscribers = [self._subscriber(shard, host) for shard, host in enumerate(layer.hosts)]
        self._groups: dict[bytes, str] = {}
        self._hooks: set[asyncio.Task[None]] = set()

    def _subscriber(self, shard: int, host: Host) -> SubscriberLink:
        return SubscriberLink(
            host,
            on_message=self._receive,
            on_disconnect=lambda: self._lost(shard),
            on_reconnect=lambda: self._back(shard),
        )

    async def close(self) -> None:
        for subscriber in self.subscribers:
            subscriber.wanted.clear()
            await subscriber.close()
        for commands in self.commands:
            await commands.close()
        self._groups.clear()

    async def check(self) -> None:
        for commands in self.commands:
            await commands.execute("PING")

    # Channels

    async def new_channel(self, prefix: str) -> str:
        channel = f"{prefix}{self.process}!{uuid.uuid4().hex}"
        await self._subscribe(self.layer.channel_key(channel))
        self.local.open(channel)
        return channel

    async def receive(self, channel: str) -> Message:
        if not self.local.knows(channel):
            await self._subscribe(self.layer.channel_key(channel))
            self.local.open(channel)
        return await self.local.get(channel)

    def attach(self, channel: str, deliver: Deliver) -> None:
        if not self.local.knows(channel):
            key = self.layer.channel_key(channel)
            self.subscribers[self.layer.shard(key)].want(key)
        self.local.attach(channel, deliver)

    def detach(self, channel: str) -> None:
        for group in self.local.detach(channel):
            self._unsubscribe_group(group)
        if "!" not in channel:
            self._unsubscribe(self.layer.channel_key(channel))

    async def send(self, channel: str, message: Message) -> None:
        if "!" in channel and self.local.knows(channel):
            if not self.local.put(channel, self.layer.deserialize(self.layer.serialize(message))):
                raise ChannelFull(channel)
            return
        payload = self.layer.serialize({**message, "__asgi_channel__": channel})
        key = self.layer.channel_key(channel)
        # Sent as if by nobody: a channel that is read here gets it as the readers in other processes do.
        await self._publish(key, bytes(ORIGIN_BYTES) + payload, NOBODY, channel)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        if not self.local.knows(channel):
            raise RuntimeError(
                "You can only call group_add() on channels that exist in-process.\n"
                "Consumers are encouraged to use the common pattern:\n"
                f"   self.channel_layer.group_add({group!r}, self.channel_name)"
            )
        key = self.layer.group_key(group)
        self._groups[key] = group
        self.local.join(group, channel)
        try:
            await self._subscribe(key)
        except LayerUnavailableError:
            self.group_discard(group, channel)
            raise

    def group_discard(self, group: str, channel: str) -> None:
        if self.local.leave(group, channel):
            self._unsubscribe_group(group)

    async def group_send(self, group: str, message: Message) -> GroupSendResult:
        payload = self.layer.serialize(message)
        result = NOBODY
        if group in self.local.groups:
            # Decoded again, so that a member sees the same values whichever process it lives in.
            result = self.local.put_group(group, self.layer.deserialize(payload))
        await self._publish(self.layer.group_key(group), self.origin + payload, result, group)
        return result

    async def _publish(self, key: bytes, payload: bytes, result: GroupSendResult, where: str) -> None:
        try:
            await self.commands[self.layer.shard(key)].execute("PUBLISH", key, payload)
        except LayerUnavailableError as error:
            self.drops.add(UNAVAILABLE, where)
            raise LayerUnavailableError(str(error), result) from error.__cause__

    # Subscriptions

    async def _subscribe(self, key: bytes) -> None:
        """Returns when subscribed, or when that waits for a lost connection; raises if there never was one."""
        link = self.subscribers[self.layer.shard(key)]
        if not await link.subscribe(key) and not link.ever_up:
            link.wanted.discard(key)
            raise link.unavailable()

    def _unsubscribe(self, key: bytes) -> None:
        self.subscribers[self.layer.shard(key)].unsubscribe(key)

    def _unsubscribe_group(self, group: str) -> None:
        key = self.layer.group_key(group)
        self._groups.pop(key, None)
        self._unsubscribe(key)

    # What comes from Redis

    def _receive(self, key: bytes, payload: bytes) -> None:
        if payload[:ORIGIN_BYTES] == self.origin:
            return
        group = self._groups.get(key)
        try:
            message = dict(self.layer.deserialize(payload[ORIGIN_BYTES:]))
            channel = group or message.pop("__asgi_channel__")
        except Exception as error:  # whatever a serializer raises on bytes that are not its own
            self.drops.add(UNDECODABLE, f"{key.decode()} ({type(error).__name__})")
            return
        if group is None:
            self._receive_on_channel(channel, message)
        elif group in self.local.groups:
            self.local.put_group(group, message)
        else:
            self._unsubscribe_group(group)  # its members expired

    def _receive_on_channel(self, channel: str, message: Message) -> None:
        if self.local.knows(channel):
            self.local.put(channel, message)
            return
        self.drops.add(GONE, channel)
        if "!" not in channel:
            self._unsubscribe(self.layer.channel_key(channel))

    # Losing and regaining the connection

    def _lost(self, shard: int) -> None:
        self._tell(self.layer.on_disconnect, shard)

    def _back(self, shard: int) -> None:
        self.generation += 1
        self._tell(self.layer.on_reconnect, shard)

    def _tell(self, hook: ConnectionHook, shard: int) -> None:
        if isinstance(hook, str):
            self.local.announce(self._affected(shard), LayerEvent(type=hook, generation=self.generation))
            return
        task = asyncio.get_running_loop().create_task(_call(hook))
        self._hooks.add(task)
        task.add_done_callback(self._hooks.discard)

    def _affected(self, shard: int) -> list[str]:
        """The channels whose own messages, or those of a group they are in, come over that host."""
        if len(self.layer.hosts) == 1:
            return list(self.local.channels)
        return [
            name
            for name, channel in self.local.channels.items()
            if self.layer.shard(self.layer.channel_key(name)) == shard
            or any(self.layer.shard(self.layer.group_key(group)) == shard for group in channel.groups)
        ]


class _Sync:
    """Publishes over redis-py's synchronous client, whose pool is safe to share between threads and forks."""

    def __init__(self, layer: RedisPubSubChannelLayer) -> None:
        self._layer = layer
        timeouts = {"socket_timeout": REPLY_TIMEOUT_S, "socket_connect_timeout": REPLY_TIMEOUT_S}
        self._clients = [redis.Redis(connection_pool=sync_pool(host, **timeouts)) for host in layer.hosts]

    def send(self, channel: str, message: Message) -> None:
        """As the layer's `send`."""
        require_name("Channel", channel)
        require_message(message)
        self._publish(self._layer.channel_key(channel), {**message, "__asgi_channel__": channel})

    def group_send(self, group: str, message: Message) -> GroupSendResult:
        """As the layer's `group_send`; every member counts as one of another process."""
        require_name("Group", group)
        require_message(message)
        self._publish(self._layer.group_key(group), message)
        return NOBODY

    def close(self) -> None:
        """Closes the connections, which open again when used."""
        for client in self._clients:
            client.connection_pool.disconnect()

    def _publish(self, key: bytes, message: Message) -> None:
        shard = self._layer.shard(key)
        try:
            self._clients[shard].publish(key, bytes(ORIGIN_BYTES) + self._layer.serialize(message))
        except (RedisError, OSError) as error:
            where = describe_host(self._layer.hosts[shard])
            raise LayerUnavailableError(f"Redis at {where} is not available: {error}") from error


async def _call(hook: Callable[[], Awaitable[None] | None]) -> None:
    try:
        outcome = hook()
        if inspect.isawaitable(outcome):
            await outcome
    except Exception:
        logger.exception("on_disconnect or on_reconnect of the channel layer failed")
