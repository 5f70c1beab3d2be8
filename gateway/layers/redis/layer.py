"""What the layers over Redis share: their options, one state per event loop, and the news of a lost connection."""

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from gateway.exceptions import MessageTooLarge
from gateway.layers.base import (
    BaseChannelLayer,
    Capacities,
    Deliver,
    GroupSendResult,
    LayerEvent,
    Message,
    SyncChannelLayer,
    require_message,
)
from gateway.layers.dropped import TOO_LARGE, UNDECODABLE, DropLog
from gateway.layers.local import LocalChannels
from gateway.layers.options import require_count, require_hook, require_options
from gateway.layers.per_loop import PerLoop
from gateway.layers.redis.cluster import ClusterCommands
from gateway.layers.redis.commands import Commands, HostCommands
from gateway.layers.redis.hosts import Hosts, decode_hosts, shard_of
from gateway.layers.serializers import Serializer, registry
from gateway.layers.validation import require_name

logger = logging.getLogger("gateway.layer")

ADDRESSES = ("__asgi_channel__", "__asgi_group__")

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

ConnectionHook: TypeAlias = "str | Callable[[], Awaitable[None] | None] | None"


class LoopState(Protocol):
    """The part of a layer that belongs to one event loop: its channels and its connections."""

    local: LocalChannels

    @property
    def connected(self) -> bool: ...
    async def send(self, channel: str, message: Message) -> None: ...
    async def receive(self, channel: str) -> Message: ...
    async def new_channel(self, prefix: str) -> str: ...
    def attach(self, channel: str, deliver: Deliver) -> None: ...
    def detach(self, channel: str) -> None: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: Message) -> GroupSendResult: ...
    async def flush(self) -> None: ...
    async def close(self) -> None: ...
    async def check(self) -> None: ...


State = TypeVar("State", bound=LoopState)


class RemoteChannelLayer(BaseChannelLayer, Generic[State]):
    """A layer whose work is done by one `LoopState` per event loop. Not used by itself."""

    extensions = ["groups", "flush"]

    def __init__(
        self,
        make_state: Callable[[], State],
        *,
        hosts: Hosts | None,
        prefix: str,
        expiry: float,
        group_expiry: float,
        capacity: int,
        channel_capacity: Capacities | None,
        symmetric_encryption_keys: Sequence[str | bytes] | None,
        serializer_format: str,
        random_prefix_length: int,
        max_message_bytes: int,
        max_age_s: float | None,
        on_disconnect: ConnectionHook,
        on_reconnect: ConnectionHook,
    ) -> None:
        """`max_age_s`: how old an encrypted message may be; None: as old as it is."""
        require_options(expiry=expiry, group_expiry=group_expiry, capacity=capacity, channel_capacity=channel_capacity)
        require_count("max_message_bytes", max_message_bytes)
        require_hook("on_disconnect", on_disconnect)
        require_hook("on_reconnect", on_reconnect)
        assert isinstance(prefix, str), "Prefix must be unicode"
        super().__init__(expiry=expiry, capacity=capacity, channel_capacity=channel_capacity)
        self.hosts = decode_hosts(hosts)
        self.prefix = prefix
        self.group_expiry = group_expiry
        self.max_message_bytes = max_message_bytes
        self.on_disconnect = on_disconnect
        self.on_reconnect = on_reconnect
        self.drops = DropLog()
        # A class that somebody has registered need not know of what is left out.
        options: dict[str, Any] = {"random_prefix_length": random_prefix_length} if random_prefix_length else {}
        self.make_serializer = functools.partial(
            registry.get_serializer, serializer_format, symmetric_encryption_keys=symmetric_encryption_keys, **options
        )
        self._serializer = self.make_serializer() if max_age_s is None else self.make_serializer(expiry=max_age_s)
        self._loops: PerLoop[State] = PerLoop(make_state)
        self._sync: SyncChannelLayer | None = None

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
        """The message of `serialize`; whatever the serializer raises on other bytes, ValueError if not a dict."""
        content = self._serializer.deserialize(message)
        if not isinstance(content, dict):
            raise ValueError("not a message")  # noqa: TRY004
        return content

    def serializer_of_what_is_kept(self) -> Serializer:
        """As the layer's, for what may be older than a message, or the layer itself when a subclass has its own way."""
        own = type(self).serialize is not RemoteChannelLayer.serialize
        return self if own or type(self).deserialize is not RemoteChannelLayer.deserialize else self.make_serializer()

    def encode(self, message: Message) -> bytes:
        """`message` as it is sent. Raises MessageTooLarge."""
        payload = self.serialize(message)
        self.require_size(len(payload), message)
        return payload

    def require_size(self, size: int, message: Message) -> None:
        """Raises MessageTooLarge when `size` is more than max_message_bytes."""
        if size > self.max_message_bytes:
            raise MessageTooLarge(
                f"a message of type {message.get('type')!r:.100} has {size:,} bytes, "
                f"and the option max_message_bytes is {self.max_message_bytes:,}"
            )

    def decode(self, payload: bytes, where: str) -> Message | None:
        """The message that came from Redis, which anybody may have written; None, counted, when it is none.

        What `__asgi_channel__` and `__asgi_group__` say in it are strings.
        """
        if len(payload) > self.max_message_bytes:
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
        """Sends `message` to `channel`. ChannelFull when that is known to be full."""
        require_name("Channel", channel)
        require_message(message)
        await self._loops.here.send(channel, message)

    async def receive(self, channel: str) -> Message:
        """The next message of `channel`. Cancelling it never loses a message."""
        require_name("Channel", channel)
        return await self._loops.here.receive(channel)

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A new name for a channel that only this event loop reads. LayerUnavailableError if Redis was never there."""
        return await self._loops.here.new_channel(prefix)

    def attach(self, channel: str, deliver: Deliver) -> None:
        """Calls `deliver` with each message of `channel` in the running loop."""
        require_name("Channel", channel)
        self._loops.here.attach(channel, deliver)

    def detach(self, channel: str) -> None:
        """Forgets `channel`, its messages and its memberships, and what is kept on Redis for them alone."""
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
        """Ends the membership, if there is one."""
        require_name("Group", group)
        require_name("Channel", channel)
        await self._loops.here.group_discard(group, channel)

    async def group_send(self, group: str, message: Message) -> GroupSendResult:
        """Gives `message` to the members in this event loop, and through Redis to the others.

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
        """Raises LayerUnavailableError unless every host answers."""
        await self._loops.here.check()

    @property
    def connected(self) -> bool:
        """False while the running event loop has lost its connection."""
        state = self._loops.existing
        return state is None or state.connected

    def shard(self, key: bytes) -> int:
        """The host for `key`."""
        return shard_of(key, len(self.hosts))

    def make_commands(self, scripts: Mapping[str, str] | None = None) -> Commands:
        """The connections of the running event loop for commands."""
        if "cluster" in self.hosts[0]:
            return ClusterCommands(self.hosts[0], scripts)
        return HostCommands(self.hosts, scripts)


class ConnectionNews:
    """Tells the channels of one event loop that the connection was lost and that it is back."""

    def __init__(self, layer: RemoteChannelLayer[Any], local: LocalChannels) -> None:
        self._layer = layer
        self._local = local
        self._hooks: set[asyncio.Task[None]] = set()
        self.generation = 0

    def lost(self, affected: Iterable[str]) -> None:
        """Messages of other processes no longer reach the channels `affected`."""
        self._tell(self._layer.on_disconnect, affected)

    def back(self, affected: Iterable[str]) -> None:
        """They do again; those sent in between did not."""
        self.generation += 1
        self._tell(self._layer.on_reconnect, affected)

    def _tell(self, hook: ConnectionHook, affected: Iterable[str]) -> None:
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
