"""Who has how much of what the broker bounds in all, so that nobody has it to the exclusion of the others.

An owner is whom the application names with `mqtt.accept` ("device/42"), else the client's network address. Peers
without either, such as those of a Unix socket, and what the server publishes itself, belong to nobody: for them only
the bounds in all hold. An owner is known as long as it has a session or a retained message.
"""

from collections.abc import Iterator
from typing import Final

from protocols.mqtt.message import Message
from protocols.mqtt.options import LEVELS_PER_RETAINED, BrokerOptions

NOBODY = ""


SUBSCRIPTION_BYTES: Final = 500
"""What a subscription takes, besides its filter."""
LEVEL_BYTES: Final = 240
"""What each level of a filter takes that no other begins with: how many do is not looked at."""


def size_of_subscription(topic_filter: str) -> int:
    """How much memory a subscription counts as, in bytes."""
    return SUBSCRIPTION_BYTES + len(topic_filter) + LEVEL_BYTES * (topic_filter.count("/") + 1)


class Backlog:
    """What waits for all clients of a broker, in bytes; a message counts once for each of them."""

    __slots__ = ("max_bytes", "size_bytes")

    def __init__(self, max_bytes: float = float("inf")) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0


class Owner:
    """What one owner has. Plain numbers, which sessions and the broker change as they go."""

    __slots__ = (
        "backlog",
        "max_queued_bytes",
        "name",
        "queued_bytes",
        "retained_bytes",
        "retained_levels",
        "retained_messages",
        "sessions",
        "subscription_bytes",
    )

    def __init__(
        self, name: str = NOBODY, *, backlog: Backlog | None = None, max_queued_bytes: float = float("inf")
    ) -> None:
        """`backlog` is that of the broker."""
        self.name = name
        self.backlog = backlog or Backlog()
        self.max_queued_bytes = max_queued_bytes
        self.sessions = 0
        self.subscription_bytes = 0
        self.queued_bytes = 0
        """What waits for its clients."""
        self.retained_messages = 0
        self.retained_bytes = 0
        self.retained_levels = 0
        """The levels of the topics of its retained messages, each topic counted by itself."""

    def used_percent(self, limits: BrokerOptions) -> int:
        """How much of its share is used, of that which is used most."""
        shares = (
            (self.sessions, limits.max_sessions_per_owner),
            (self.subscription_bytes, limits.max_subscription_bytes_per_owner),
            (self.queued_bytes, limits.max_queued_bytes_per_owner),
            (self.retained_messages, limits.max_retained_messages_per_owner),
            (self.retained_levels, limits.max_retained_messages_per_owner * LEVELS_PER_RETAINED),
            (self.retained_bytes, limits.max_retained_bytes_per_owner),
        )
        return max(round(100 * used / most) if most else 0 for used, most in shares)

    def retain(self, message: Message, change: int) -> None:
        """Counts a retained message as one more (1) or one less (-1)."""
        self.retained_messages += change
        self.retained_bytes += change * message.size_bytes
        self.retained_levels += change * (message.topic.count("/") + 1)


class Owners:
    """The owners of one broker."""

    def __init__(self, limits: BrokerOptions) -> None:
        self.backlog = Backlog(limits.max_queued_bytes_in_all)
        self.subscription_bytes = 0
        """Of all, nobody's too."""
        self.nobody = Owner(backlog=self.backlog)
        self._limits = limits
        self._owners: dict[str, Owner] = {}

    def __iter__(self) -> Iterator[Owner]:
        """All but nobody."""
        return iter(self._owners.values())

    def get(self, name: str) -> Owner | None:
        """The owner of that name, if it has anything; nobody for the empty name."""
        return self._owners.get(name) if name else self.nobody

    def of(self, name: str) -> Owner:
        """The owner of that name, to be given something; see `leave`."""
        if not name:
            return self.nobody
        owner = self._owners.get(name)
        if owner is None:
            most = self._limits.max_queued_bytes_per_owner
            owner = self._owners[name] = Owner(name, backlog=self.backlog, max_queued_bytes=most)
        return owner

    def leave(self, owner: Owner) -> None:
        """Something of the owner has gone; if it was the last, the owner is forgotten."""
        if not owner.sessions and not owner.retained_messages:
            self._owners.pop(owner.name, None)

    def has_room_for_session(self, name: str) -> bool:
        """Whether the owner may have one session more."""
        owner = self.get(name)
        return not name or owner is None or owner.sessions < self._limits.max_sessions_per_owner

    def subscribed(self, owner: Owner, topic_filter: str, change: int) -> None:
        """Counts a subscription of the owner as one more (1) or one less (-1)."""
        size_bytes = change * size_of_subscription(topic_filter)
        owner.subscription_bytes += size_bytes
        self.subscription_bytes += size_bytes

    def bound_of_subscription(self, owner: Owner, topic_filter: str) -> str:
        """Which option keeps the owner from subscribing to one filter more; empty if none does."""
        limits, size_bytes = self._limits, size_of_subscription(topic_filter)
        if owner.name and owner.subscription_bytes + size_bytes > limits.max_subscription_bytes_per_owner:
            return "max_subscription_bytes_per_owner"
        in_all = self.subscription_bytes + size_bytes
        return "max_subscription_bytes_in_all" if in_all > limits.max_subscription_bytes_in_all else ""

    def bound_of_retained(self, owner: Owner, message: Message, old: Message | None) -> str:
        """Which option keeps the owner from having `message` retained in place of `old`; empty if none does."""
        if not owner.name:
            return ""
        limits = self._limits
        is_own = old is not None and old.owner_name == owner.name
        size_bytes = owner.retained_bytes + message.size_bytes - (old.size_bytes if old is not None and is_own else 0)
        if not is_own and (
            owner.retained_messages >= limits.max_retained_messages_per_owner
            or owner.retained_levels >= limits.max_retained_messages_per_owner * LEVELS_PER_RETAINED
        ):
            return "max_retained_messages_per_owner"
        return "max_retained_bytes_per_owner" if size_bytes > limits.max_retained_bytes_per_owner else ""
