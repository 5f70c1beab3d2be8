"""The bounded mailbox between a channel layer and one consumer: one class for each policy."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Literal, TypeAlias

from gateway.dispatch.handlers import HandlerTable
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

    __slots__ = ("_capacity", "_handlers", "_inbox", "_owner", "overflowed")

    def __init__(self, inbox: Inbox, owner: str, capacity: int, handlers: HandlerTable) -> None:
        """See `make_mailbox`."""
        self._inbox = inbox
        self._owner = owner
        self._capacity = capacity
        self._handlers = handlers
        self.overflowed = False
        """Whether a message was dropped for lack of room since `drop_waiting`."""

    def deliver(self, message: Message) -> bool:
        """Whether the consumer gets `message`, provided that it lives."""
        if message.get("type") not in self._handlers.messages and not self._handlers.may_call(message):
            return isinstance(message, LayerEvent)  # a notice that the consumer has no use for is nobody's fault
        if len(self._inbox.messages) >= self._capacity and not self._make_room():
            return False
        self._inbox.deliver(message)
        return True

    def drop_waiting(self) -> int:
        """Drops the messages that wait, and says how many."""
        count = len(self._inbox.messages)
        self._inbox.messages.clear()
        self.overflowed = False
        return count

    def _make_room(self) -> bool:
        self.overflowed = True
        return False

    def _dropped(self, reason: str, count: int = 1) -> None:
        self.overflowed = True
        _drops.add(reason, self._owner, count)


class DropOldest(Mailbox):
    """Drops the oldest message when full."""

    __slots__ = ()

    def _make_room(self) -> bool:
        self._inbox.messages.popleft()
        self._dropped(OLDEST)
        return True


class Closing(Mailbox):
    """Drops all messages when full, and gives the consumer the event that closes its connection."""

    __slots__ = ()

    def _make_room(self) -> bool:
        if self._capacity:
            self._dropped(CLOSED, len(self._inbox.messages))
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

    __slots__ = ("_capacity", "_dropped", "_key", "_messages")

    def __init__(self, key: Callable[[Message], Hashable], capacity: int, dropped: Callable[[str], None]) -> None:
        """`dropped` is called with the reason for each message that is dropped for lack of room."""
        self._key = key
        self._capacity = capacity
        self._dropped = dropped
        self._messages: OrderedDict[Hashable, Event] = OrderedDict()

    def append(self, message: Event, /) -> None:
        key = self._key(message)  # type: ignore[arg-type]  # a message of a layer is a dict
        if key in self._messages:
            layer_dropped.labels(REPLACED).inc()
        elif len(self._messages) >= self._capacity:
            self._messages.popitem(last=False)
            self._dropped(OLDEST)
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
    handlers: HandlerTable,
) -> Mailbox:
    """The mailbox of `policy` for one consumer.

    `handlers` says which messages it may get. `owner` names the consumer in the log, and `key` is asked by
    "keep_latest" only.
    """
    mailbox = _MAILBOXES[policy](inbox, owner, capacity, handlers)
    if policy == "keep_latest":
        inbox.messages = LatestByKey(key, capacity, mailbox._dropped)
    return mailbox
