"""The unread messages of an in-memory layer, looked at by tests: as mapping and queues, like those of Channels."""

from asyncio import QueueEmpty
from collections.abc import Iterator, MutableMapping

from gateway.layers.base import Message
from gateway.layers.local import LocalChannels


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
    """The channels that have a reader (a consumer, say) or unread messages. Deleting one drops its messages."""

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
        channel = self._local.channels.get(name)  # type: ignore[call-overload]  # what is no string is not there
        return channel is not None and bool(channel.messages or channel.deliver or channel.waiters)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr({name: list(queue) for name, queue in self.items()})

    def _require(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
