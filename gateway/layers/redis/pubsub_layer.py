"""The layer over Redis's publish and subscribe: for any number of processes, one subscription per group and process.

A message to a group goes to the members in this process at once, without Redis, and in one PUBLISH to the other
processes, each of which decodes it once and delivers it to its members. What Redis carries does not depend on the
number of members; and while Redis is away, the members in this process still receive.

On the wire:

- `{prefix}__group__{group}`: messages to a group;
- `{prefix}__channel__{name}`: messages to a channel; those of one process, named `specific.PROCESS!...`, share the name
  up to the "!", and the key `__asgi_channel__` of the message names the channel;
- a payload is the eight bytes that name the sending event loop, which drops its own echo, then the serialized message.

Delivery is at most once. When a lost connection is back, each attached channel gets one event; what other processes
sent in between did not arrive.
"""

import functools
import secrets
import uuid
from typing import Final

from gateway.layers.base import (
    NOBODY,
    Deliver,
    GroupSendResult,
    LayerUnavailableError,
    Message,
    SyncChannelLayer,
    require_message,
)
from gateway.layers.dropped import GONE, UNAVAILABLE, UNDECODABLE
from gateway.layers.redis.cluster import ClusterCommands
from gateway.layers.redis.cluster_subscriptions import ClusterSubscriptions
from gateway.layers.redis.layer import LoopState, RedisLayerBase
from gateway.layers.redis.subscriptions import Hooks, HostSubscriptions, Owns, Subscriptions
from gateway.layers.redis.sync_clients import SyncClients
from gateway.layers.validation import escape_name, require_name

ORIGIN_BYTES: Final = 8


class RedisPubSubChannelLayer(RedisLayerBase["_LoopState"]):
    """Channels and groups over Redis publish and subscribe.

    A channel is read by processes, not by workers: two processes that `receive` from one name both get each message.
    Only channels of the own process may be added to a group. `group_send` counts the members in this event loop.
    """

    def _make_state(self) -> "_LoopState":
        return _LoopState(self)

    @functools.cached_property
    def sync(self) -> SyncChannelLayer:
        """`send` and `group_send` over a plain synchronous client, shared by the threads of this process."""
        return _Sync(self)

    def group_key(self, group: str) -> bytes:
        """The Redis channel of messages to `group`."""
        return f"{self.prefix}__group__{escape_name(group)}".encode()

    def channel_key(self, channel: str) -> bytes:
        """The Redis channel of messages to `channel`: one for all channels of a process."""
        return f"{self.prefix}__channel__{escape_name(self.non_local_name(channel))}".encode()


class _LoopState(LoopState):
    layer: RedisPubSubChannelLayer

    def __init__(self, layer: RedisPubSubChannelLayer) -> None:
        super().__init__(layer)
        self.origin = secrets.token_bytes(ORIGIN_BYTES)
        self.process = uuid.uuid4().hex
        hooks = Hooks(on_message=self._receive, on_lost=self._lost, on_back=self._back)
        self.subscriptions: Subscriptions = (
            ClusterSubscriptions(self.commands, **hooks)
            if isinstance(self.commands, ClusterCommands)
            else HostSubscriptions(layer.hosts, **hooks)
        )
        self._groups: dict[bytes, str] = {}
        self._cut_off: set[str] = set()

    @property
    def connected(self) -> bool:
        return not self.subscriptions.down

    async def close(self) -> None:
        await self.subscriptions.close()
        await self.commands.close()
        self._groups.clear()
        self._cut_off.clear()

    # Channels

    async def new_channel(self, prefix: str) -> str:
        channel = f"{prefix}{self.process}!{uuid.uuid4().hex}"
        await self.subscriptions.subscribe(self.layer.channel_key(channel))
        self.local.open(channel)
        return channel

    async def receive(self, channel: str) -> Message:
        if not self.local.knows(channel):
            await self.subscriptions.subscribe(self.layer.channel_key(channel))
            self.local.open(channel)
        return await self.local.get(channel)

    def attach(self, channel: str, deliver: Deliver) -> None:
        if not self.local.knows(channel):
            self.subscriptions.want(self.layer.channel_key(channel))
        self.local.attach(channel, deliver)

    def detach(self, channel: str) -> None:
        for group in self.local.detach(channel):
            self._unsubscribe_group(group)
        if "!" not in channel:
            self.subscriptions.unsubscribe(self.layer.channel_key(channel))

    async def send(self, channel: str, message: Message) -> None:
        if "!" in channel and self.local.knows(channel):
            self.put(channel, message)
            return
        payload = self.layer.encode({**message, "__asgi_channel__": channel})
        key = self.layer.channel_key(channel)
        # Without our origin, so that a reader here gets it in the way that readers in other processes do.
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
            await self.subscriptions.subscribe(key)
        except LayerUnavailableError:
            self._leave(group, channel)
            raise

    async def group_discard(self, group: str, channel: str) -> None:
        self._leave(group, channel)

    def _leave(self, group: str, channel: str) -> None:
        if self.local.leave(group, channel):
            self._unsubscribe_group(group)

    async def group_send(self, group: str, message: Message) -> GroupSendResult:
        payload = self.layer.encode(message)
        result = NOBODY
        if group in self.local.groups:
            # Decoded again, so that a member sees the same values whichever process it lives in.
            result = self.local.put_group(group, self.layer.deserialize(payload))
        await self._publish(self.layer.group_key(group), self.origin + payload, result, group)
        return result

    async def _publish(self, key: bytes, payload: bytes, result: GroupSendResult, where: str) -> None:
        try:
            await self.commands.publish(key, payload)
        except LayerUnavailableError as error:
            self.drops.add(UNAVAILABLE, where)
            raise LayerUnavailableError(str(error), result) from error.__cause__

    def _unsubscribe_group(self, group: str) -> None:
        key = self.layer.group_key(group)
        self._groups.pop(key, None)
        self.subscriptions.unsubscribe(key)

    # Messages from Redis

    def _receive(self, key: bytes, payload: bytes) -> None:
        if payload[:ORIGIN_BYTES] == self.origin:
            return
        where = key.decode()
        message = self.layer.decode(payload[ORIGIN_BYTES:], where)
        if message is None:
            return
        group = self._groups.get(key)
        if group is None:
            self._receive_on_channel(message.pop("__asgi_channel__", None), message, where)
        elif group in self.local.groups:
            self.local.put_group(group, message)
        else:
            self._unsubscribe_group(group)  # its members expired

    def _receive_on_channel(self, channel: str | None, message: Message, where: str) -> None:
        if channel is None:
            self.drops.add(UNDECODABLE, where)
            return
        if self.local.knows(channel):
            self.local.put(channel, message)
            return
        self.drops.add(GONE, channel)
        if "!" not in channel:
            self.subscriptions.unsubscribe(self.layer.channel_key(channel))

    # Losing connections

    def _lost(self, owns: Owns) -> None:
        affected = [name for name in self._affected(owns) if name not in self._cut_off]
        self._cut_off.update(affected)
        self.events.lost(affected)

    def _back(self, owns: Owns) -> None:
        affected = self._affected(owns)
        self._cut_off = {name for name in self._cut_off.difference(affected) if self.local.knows(name)}
        self.events.back(affected)

    def _affected(self, owns: Owns) -> list[str]:
        """The channels whose own key, or that of a group they are in, is one that `owns` accepts."""
        return [
            name
            for name, channel in self.local.channels.items()
            if owns(self.layer.channel_key(name)) or any(owns(self.layer.group_key(group)) for group in channel.groups)
        ]


class _Sync:
    """Publishes over redis-py's synchronous clients."""

    def __init__(self, layer: RedisPubSubChannelLayer) -> None:
        self._layer = layer
        self._clients = SyncClients(layer.hosts)

    def send(self, channel: str, message: Message) -> None:
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
        self._clients.close()

    def _publish(self, key: bytes, message: Message) -> None:
        self._clients.publish(key, bytes(ORIGIN_BYTES) + self._layer.encode(message))
