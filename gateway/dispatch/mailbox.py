"""The bounded mailbox between a channel layer and one consumer: one class for each policy."""

from collections import OrderedDict
from collections.abc import Callable, Container, Hashable
from typing import Literal, TypeAlias

from gateway.layers import LayerEvent, Message
from gateway.layers.dropped import DropLog
from gateway.metrics import layer_dropped
from protocols.asgi import Event
from protocols.inbox import Inbox

MailboxPolicy: TypeAlias = Literal["drop_newest", "drop_oldest", "keep_latest", "close"]
"""What a mailbox does with a message when it holds as many as its capacity:

- "drop_newest": refuses it, as the specification of channel layers has it (the default);
- "drop_oldest": drops the oldest one for it, for consumers to whom only what is new matters;
- "keep_latest": at any time, a message takes the place of a waiting one with the same key (`mailbox_key`), so the
  consumer gets the latest of each; of more keys than the capacity the oldest is dropped;
- "close": drops all and closes the connection, so that the client comes back and starts from a fresh state.
"""

OVERFLOW: Event = {"type": "mailbox.overflow"}

# Reasons in gateway_layer_dropped_total, besides those of the layers, which count a refused message as "full".
OLDEST = "oldest"
REPLACED = "replaced"
CLOSED = "closed"

_drops = DropLog()  # one, so that a thousand consumers that fall behind cost one log line


class Mailbox:
    """Gives messages of a layer to an inbox as `deliver` is called; when full, refuses them."""

    __slots__ = ("_accepts", "_capacity", "_inbox", "_owner", "_types")

    def __init__(
        self,
        inbox: Inbox,
        owner: str,
        capacity: int,
        types: Container[str],
        accepts: Callable[[Message], bool],
    ) -> None:
        """See `make_mailbox`."""
        self._inbox = inbox
        self._owner = owner
        self._capacity = capacity
        self._types = types
        self._accepts = accepts

    def deliver(self, message: Message) -> bool:
        """Whether the consumer gets `message`, provided that it lives."""
        if message.get("type") not in self._types and not self._accepts(message):
            return isinstance(message, LayerEvent)  # a notice that the consumer has no use for is nobody's fault
        if len(self._inbox.messages) >= self._capacity and not self._make_room():
            return False
        self._inbox.deliver(message)
        return True

    def _make_room(self) -> bool:
        return False


class DropOldest(Mailbox):
    """Drops the oldest message when full."""

    __slots__ = ()

    def _make_room(self) -> bool:
        self._inbox.messages.popleft()
        _drops.add(OLDEST, self._owner)
        return True


class Closing(Mailbox):
    """Drops all messages when full, and gives the consumer the event that closes its connection."""

    __slots__ = ()

    def _make_room(self) -> bool:
        if self._capacity:
            _drops.add(CLOSED, self._owner, len(self._inbox.messages))
            self._inbox.messages.clear()
            self._inbox.post(OVERFLOW)
            self._capacity = 0  # from here on it is full
        return False


class KeepLatest(Mailbox):
    """Keeps the latest message of each key; its queue makes room by itself."""

    __slots__ = ()

    def _make_room(self) -> bool:
        return True


class LatestByKey:
    """A queue in which a message takes the place of the one with the same key, and of the oldest when full."""

    __slots__ = ("_capacity", "_key", "_messages", "_owner")

    def __init__(self, key: Callable[[Message], Hashable], capacity: int, owner: str) -> None:
        self._key = key
        self._capacity = capacity
        self._owner = owner
        self._messages: OrderedDict[Hashable, Event] = OrderedDict()

    def append(self, message: Event, /) -> None:
        key = self._key(message)  # type: ignore[arg-type]  # a message of a layer is a dict
        if key in self._messages:
            layer_dropped.labels(REPLACED).inc()
        elif len(self._messages) >= self._capacity:
            self._messages.popitem(last=False)
            _drops.add(OLDEST, self._owner)
        self._messages[key] = message

    def popleft(self) -> Event:
        return self._messages.popitem(last=False)[1]

    def clear(self) -> None:
        self._messages.clear()

    def __len__(self) -> int:
        return len(self._messages)


_MAILBOXES: dict[MailboxPolicy, type[Mailbox]] = {
    "drop_newest": Mailbox,
    "drop_oldest": DropOldest,
    "keep_latest": KeepLatest,
    "close": Closing,
}

POLICIES = tuple(sorted(_MAILBOXES))


def make_mailbox(
    inbox: Inbox,
    policy: MailboxPolicy,
    *,
    owner: str,
    capacity: int,
    key: Callable[[Message], Hashable],
    types: Container[str],
    accepts: Callable[[Message], bool],
) -> Mailbox:
    """The mailbox of `policy` for one consumer.

    `types` are those known to have a handler; of others `accepts` decides. `owner` names the consumer in the log, and
    `key` is asked by "keep_latest" only.
    """
    if policy == "keep_latest":
        inbox.messages = LatestByKey(key, capacity, owner)
    return _MAILBOXES[policy](inbox, owner, capacity, types, accepts)
