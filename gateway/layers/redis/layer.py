"""What the layers over Redis share: messages as bytes, one state per event loop, and events of a lost connection."""

import asyncio
import functools
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

from gateway.exceptions import ChannelFull, MessageTooLarge
from gateway.layers.base import (
    BaseChannelLayer,
    Deliver,
    GroupSendResult,
    LayerEvent,
    Message,
    require_message,
)
from gateway.layers.dropped import TOO_LARGE, UNDECODABLE, DropLog
from gateway.layers.local import LocalChannels
from gateway.layers.per_loop import PerLoop
from gateway.layers.redis.cluster import ClusterCommands
from gateway.layers.redis.commands import Commands, HostCommands, check_all
from gateway.layers.redis.connection import Script
from gateway.layers.redis.hosts import Hosts, decode_hosts, shard_of
from gateway.layers.redis.options import ConnectionHook, RedisOptions
from gateway.layers.serializers import Serializer
from gateway.layers.validation import require_known, require_name

logger = logging.getLogger("gateway.layer")

ADDRESSES: Final = ("__asgi_channel__", "__asgi_group__")


class LoopState(ABC):
    """The part of a layer that belongs to one event loop: its channels and its connections."""

    layer: "RedisLayerBase[Any]"

    def __init__(self, layer: "RedisLayerBase[Any]", scripts: Sequence[Script] = ()) -> None:
        """`scripts` are those that the connections for commands load."""
        self.layer = layer
        self.drops = layer.drops
        self.local = LocalChannels(
            capacity=layer.get_capacity, expiry=layer.expiry, group_expiry=layer.group_expiry, drops=self.drops
        )
        self.events = ConnectionEvents(layer.options, self.local)
        self.commands = layer.make_commands(scripts)

    async def flush(self) -> None:
        await self.close()
        self.local.clear()

    async def check(self) -> None:
        await check_all(self.commands)

    def put(self, channel: str, message: Message) -> None:
        """Gives `message` to a channel of this event loop. Raises ChannelFull."""
        # Through the serializer, so that a receiver sees the same values whichever process it lives in.
        if not self.local.put(channel, self.layer.deserialize(self.layer.encode(message))):
            raise ChannelFull(channel)

    @property
    @abstractmethod
    def connected(self) -> bool: ...
    @abstractmethod
    async def send(self, channel: str, message: Message) -> None: ...
    @abstractmethod
    async def receive(self, channel: str) -> Message: ...
    @abstractmethod
    async def new_channel(self, prefix: str) -> str: ...
    @abstractmethod
    def attach(self, channel: str, deliver: Deliver) -> None: ...
    @abstractmethod
    def detach(self, channel: str) -> None: ...
    @abstractmethod
    async def group_add(self, group: str, channel: str) -> None: ...
    @abstractmethod
    async def group_discard(self, group: str, channel: str) -> None: ...
    @abstractmethod
    async def group_send(self, group: str, message: Message) -> GroupSendResult: ...
    @abstractmethod
    async def close(self) -> None: ...


State = TypeVar("State", bound=LoopState)


class RedisLayerBase(BaseChannelLayer, Generic[State]):
    """The base of the layers over Redis, which have one `LoopState` per event loop."""

    extensions = ["groups", "flush"]

    def __init__(self, hosts: Hosts | None = None, **options: Any) -> None:
        """`hosts` as for `decode_hosts`; names are spread over them. `options` are those of RedisOptions.

        Raises InvalidChannelLayerError for a wrong value, TypeError for an unknown option.
        """
        require_known(type(self).__name__, options, RedisOptions.__dataclass_fields__)
        self.options = RedisOptions(**options)
        super().__init__(
            expiry=self.options.expiry,
            capacity=self.options.capacity,
            channel_capacity=self.options.channel_capacity,
        )
        self.hosts = decode_hosts(hosts)
        self.prefix = self.options.prefix
        self.group_expiry = self.options.group_expiry
        self.drops = DropLog()
        self._serializer = self._make_serializer()
        self._loops: PerLoop[State] = PerLoop(self._make_state)

    def _make_state(self) -> State:
        """A new state for the running event loop."""
        raise NotImplementedError

    def _make_serializer(self) -> Serializer:
        """The serializer of messages."""
        return self.options.make_serializer()

    @property
    def channels(self) -> dict[str, Any]:
        """The channels that live in the running event loop."""
        return dict(self._loops.here.local.channels)

    @property
    def groups(self) -> dict[str, dict[str, float]]:
        """group -> {channel: when it joined}, for the members in the running event loop."""
        return self._loops.here.local.groups

    def serialize(self, message: Message) -> bytes:
        """`message` as bytes. A subclass may override it, together with `deserialize`."""
        return self._serializer.serialize(message)

    def deserialize(self, message: bytes) -> Message:
        """The message of `serialize`. Raises ValueError if it is no dict, and what the serializer raises."""
        content = self._serializer.deserialize(message)
        if not isinstance(content, dict):
            raise ValueError("not a message")  # noqa: TRY004
        return content

    @functools.cached_property
    def stored_serializer(self) -> Serializer:
        """The serializer of logs and presence, which may be older than a message is allowed to be.

        It is the layer itself when a subclass overrides `serialize` or `deserialize`.
        """
        own = type(self).serialize is not RedisLayerBase.serialize
        own = own or type(self).deserialize is not RedisLayerBase.deserialize
        return self if own else self.options.make_serializer()

    def decode_stored(self, payload: bytes, where: str) -> dict[str, Any] | None:
        """What `stored_serializer` wrote; None, and a counted drop, when `payload` is nothing of it."""
        try:
            return dict(self.stored_serializer.deserialize(payload))
        except Exception as error:  # whatever a serializer raises on bytes that are not its own
            self.drops.add(UNDECODABLE, f"{where} ({type(error).__name__})")
            return None

    def encode(self, message: Message) -> bytes:
        """`message` as bytes. Raises MessageTooLarge."""
        payload = self.serialize(message)
        self.require_size(len(payload), message)
        return payload

    def require_size(self, size: int, message: Message) -> None:
        """Raises MessageTooLarge when `size` is more than max_message_bytes."""
        limit = self.options.max_message_bytes
        if size > limit:
            raise MessageTooLarge(
                f"a message of type {message.get('type')!r:.100} has {size:,} bytes, "
                f"and the option max_message_bytes is {limit:,}"
            )

    def decode(self, payload: bytes, where: str) -> Message | None:
        """The message in `payload` from Redis, where anybody may write; None, and a counted drop, when it is none.

        `__asgi_channel__` and `__asgi_group__` in it are strings.
        """
        if len(payload) > self.options.max_message_bytes:
            self.drops.add(TOO_LARGE, where)
            return None
        try:
            message = self.deserialize(payload)
        except Exception as error:  # whatever a serializer raises on bytes that are not its own
            self.drops.add(UNDECODABLE, f"{where} ({type(error).__name__})")
            return None
        if not all(isinstance(message.get(key, ""), str) for key in ADDRESSES):
            self.drops.add(UNDECODABLE, where)
            return None
        return message

    async def send(self, channel: str, message: Message) -> None:
        """Sends `message` to `channel`. Raises ChannelFull when that is known to be full."""
        require_name("Channel", channel)
        require_message(message)
        await self._loops.here.send(channel, message)

    async def receive(self, channel: str) -> Message:
        require_name("Channel", channel)
        return await self._loops.here.receive(channel)

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A new name for a channel that only this event loop reads.

        Raises LayerUnavailableError if Redis was never reached.
        """
        return await self._loops.here.new_channel(prefix)

    def attach(self, channel: str, deliver: Deliver) -> None:
        require_name("Channel", channel)
        self._loops.here.attach(channel, deliver)

    def detach(self, channel: str) -> None:
        """Forgets `channel`, its messages and its memberships, here and on Redis."""
        state = self._loops.existing
        if state is not None:
            state.detach(channel)

    async def group_add(self, group: str, channel: str) -> None:
        """Makes `channel` a member of `group`; returns when Redis has confirmed it.

        While the connection is lost it returns at once, and the membership is complete when the connection is back.
        """
        require_name("Group", group)
        require_name("Channel", channel)
        await self._loops.here.group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        require_name("Group", group)
        require_name("Channel", channel)
        await self._loops.here.group_discard(group, channel)

    async def group_send(self, group: str, message: Message) -> GroupSendResult:
        """Delivers `message` to the members in this event loop, then sends it to the others through Redis.

        Raises LayerUnavailableError, after the delivery here, when Redis is away: at once when that is known, else
        within the reply timeout.
        """
        require_name("Group", group)
        require_message(message)
        return await self._loops.here.group_send(group, message)

    async def flush(self) -> None:
        """Drops messages and memberships; closes the connections of this event loop, which open again when used."""
        await self._loops.here.flush()

    async def close(self) -> None:
        """Closes the connections of this event loop, whose channels are forgotten."""
        state = self._loops.pop()
        if state is not None:
            await state.close()

    close_pools = close

    async def check(self) -> None:
        await self._loops.here.check()

    @property
    def connected(self) -> bool:
        """False while the connection of the running event loop is lost."""
        state = self._loops.existing
        return state is None or state.connected

    def shard(self, key: bytes) -> int:
        """The host for `key`."""
        return shard_of(key, len(self.hosts))

    def make_commands(self, scripts: Sequence[Script] = ()) -> Commands:
        """New connections of the running event loop for commands."""
        if "cluster" in self.hosts[0]:
            return ClusterCommands(self.hosts[0], scripts)
        return HostCommands(self.hosts, scripts)


class ConnectionEvents:
    """Tells the channels of one event loop when the connection is lost and when it is back."""

    def __init__(self, options: RedisOptions, local: LocalChannels) -> None:
        self._options = options
        self._local = local
        self._hooks: set[asyncio.Task[None]] = set()
        self.generation = 0

    def lost(self, affected: Iterable[str]) -> None:
        """Messages of other processes no longer reach the channels `affected`."""
        self._announce(self._options.on_disconnect, affected)

    def back(self, affected: Iterable[str]) -> None:
        """They do again; those sent in between did not."""
        self.generation += 1
        self._announce(self._options.on_reconnect, affected)

    def _announce(self, hook: ConnectionHook, affected: Iterable[str]) -> None:
        if isinstance(hook, str):
            self._local.announce(affected, LayerEvent(type=hook, generation=self.generation))
        elif hook is not None:
            task = asyncio.get_running_loop().create_task(_call(hook))
            self._hooks.add(task)
            task.add_done_callback(self._hooks.discard)


async def _call(hook: Callable[[], Awaitable[None] | None]) -> None:
    try:
        outcome = hook()
        if inspect.isawaitable(outcome):
            await outcome
    except Exception:
        logger.exception("on_disconnect or on_reconnect of the channel layer failed")
