"""The layer of one process, and the default: no server, no serializing, any thread and any event loop."""

import copy
import uuid
from asyncio import QueueEmpty
from collections.abc import Iterator, MutableMapping

from gateway.exceptions import ChannelFull
from gateway.layers.base import BaseChannelLayer, Capacities, Deliver, GroupSendResult, Message, require_message
from gateway.layers.dropped import DropLog
from gateway.layers.local import LocalChannels
from gateway.layers.validation import require_bounds, require_name


class InMemoryChannelLayer(BaseChannelLayer):
    """Channels and groups in this process.

    A message is copied in depth once, when it is sent, so that the sender may change its own; each member of a group
    gets a shallow copy of that, and shares what is nested in it with the other members.
    """

    extensions = ["groups", "flush"]

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Capacities | None = None,
    ) -> None:
        """`group_expiry`: seconds after which a member that is not attached leaves its group."""
        require_bounds(expiry=expiry, group_expiry=group_expiry, capacity=capacity, channel_capacity=channel_capacity)
        super().__init__(expiry=expiry, capacity=capacity, channel_capacity=channel_capacity)
        self.group_expiry = group_expiry
        self.local = LocalChannels(
            capacity=self.get_capacity,
            expiry=expiry,
            group_expiry=group_expiry,
            late_readers_leave=True,
            drops=DropLog(),
        )

    @property
    def channels(self) -> "UnreadMessages":
        """The channels that have a reader, such as a consumer, or unread messages: for tests."""
        return UnreadMessages(self.local)

    @property
    def groups(self) -> dict[str, dict[str, float]]:
        """group -> {channel: when it joined}."""
        return self.local.groups

    async def send(self, channel: str, message: Message) -> None:
        self._send(channel, message)

    async def receive(self, channel: str) -> Message:
        require_name("Channel", channel)
        return await self.local.get(channel)

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A new name, `PREFIX.inmemory!...`; its messages are kept until it is read, attached or expired."""
        channel = f"{prefix}.inmemory!{uuid.uuid4().hex}"
        self.local.open(channel)
        return channel

    def attach(self, channel: str, deliver: Deliver) -> None:
        """Calls `deliver` with each message of `channel` in the running loop, within the call of the sender."""
        require_name("Channel", channel)
        self.local.attach(channel, deliver)

    def detach(self, channel: str) -> None:
        self.local.detach(channel)

    async def group_add(self, group: str, channel: str) -> None:
        require_name("Group", group)
        require_name("Channel", channel)
        self.local.join(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        require_name("Group", group)
        require_name("Channel", channel)
        self.local.leave(group, channel)

    async def group_send(self, group: str, message: Message) -> GroupSendResult:
        return self._group_send(group, message)

    def group_is_empty(self, group: str) -> bool:
        return group not in self.local.groups

    async def flush(self) -> None:
        self.local.clear()

    async def close(self) -> None:
        """Does nothing: for programs that call it on any layer."""

    @property
    def sync(self) -> "_Sync":
        """`send` and `group_send` from any thread, with no event loop."""
        return _Sync(self)

    def _send(self, channel: str, message: Message) -> None:
        require_name("Channel", channel)
        require_message(message)
        if not self.local.put(channel, copy.deepcopy(message)):
            raise ChannelFull(channel)

    def _group_send(self, group: str, message: Message) -> GroupSendResult:
        require_name("Group", group)
        require_message(message)
        return self.local.put_group(group, copy.deepcopy(message))


class _Sync:
    def __init__(self, layer: InMemoryChannelLayer) -> None:
        self._layer = layer

    def send(self, channel: str, message: Message) -> None:
        self._layer._send(channel, message)

    def group_send(self, group: str, message: Message) -> GroupSendResult:
        return self._layer._group_send(group, message)


class UnreadQueue:
    """The unread messages of one channel, oldest first, each with when it expires on `time.monotonic`."""

    def __init__(self, local: LocalChannels, name: str) -> None:
        self._local = local
        self._name = name

    def __iter__(self) -> Iterator[tuple[float, Message]]:
        channel = self._local.channels.get(self._name)
        return iter(tuple(channel.messages or ()) if channel is not None else ())

    def __len__(self) -> int:
        return self.qsize()

    def qsize(self) -> int:
        """How many there are."""
        return sum(1 for _ in self)

    def empty(self) -> bool:
        """Whether there is none."""
        return not self.qsize()

    def get_nowait(self) -> tuple[float, Message]:
        """Takes out the oldest one. Raises asyncio.QueueEmpty."""
        taken = self._local.take_oldest(self._name)
        if taken is None:
            raise QueueEmpty
        return taken


class UnreadMessages(MutableMapping[str, UnreadQueue]):
    """The channels that have a reader or unread messages, like the queues of Channels. `del` drops the messages."""

    def __init__(self, local: LocalChannels) -> None:
        self._local = local

    def __getitem__(self, name: str) -> UnreadQueue:
        self._require(name)
        return UnreadQueue(self._local, name)

    def __setitem__(self, name: str, queue: object) -> None:
        raise TypeError("a message is put into a channel by sending it")

    def __delitem__(self, name: str) -> None:
        self._require(name)
        while self._local.take_oldest(name) is not None:
            pass

    def clear(self) -> None:
        """Drops all messages."""
        for name in self:
            del self[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in list(self._local.channels) if name in self)

    def __contains__(self, name: object) -> bool:
        channel = self._local.channels.get(name)  # type: ignore[call-overload]  # anything but a string is not there
        return channel is not None and bool(channel.messages or channel.deliver or channel.waiters)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr({name: list(queue) for name, queue in self.items()})

    def _require(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
