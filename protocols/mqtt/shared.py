"""Shared subscriptions: one of several sessions gets each message [MQTT5-4.8.2]."""

from protocols.mqtt.session import Session, Subscriber


class SharedGroup:
    """The sessions that share one subscription, and whose turn it is.

    Messages go round robin among the members that can take one at once; if none can, to one that is connected; if none
    is, to one that is away and keeps its session. A slow member thus gets less, and an absent one nothing as long as
    another is there. What waits for a member that goes away or leaves goes to another (Broker).
    """

    __slots__ = ("_members", "_next", "topic_filter")

    session: None = None
    """Where a Subscriber has the session that it is for."""

    def __init__(self, topic_filter: str) -> None:
        """`topic_filter` has the $share/NAME/ in front."""
        self.topic_filter = topic_filter
        self._members: dict[str, Subscriber] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._members)

    @property
    def present(self) -> bool:
        """Whether one of them is connected."""
        return any(member.session.link is not None for member in self._members.values())

    def add(self, subscriber: Subscriber) -> bool:
        """Adds a member, or replaces its options. Returns whether it is new."""
        client_id = subscriber.session.client_id
        is_new = client_id not in self._members
        self._members[client_id] = subscriber
        return is_new

    def remove(self, session: Session) -> bool:
        """Takes a member out. Returns whether it was one."""
        return self._members.pop(session.client_id, None) is not None

    def choose(self) -> Subscriber | None:
        """The member that gets the next message [MQTT5-4.8.2]."""
        members = list(self._members.values())
        if not members:
            return None
        start = self._next % len(members)
        self._next = start + 1
        in_turn = members[start:] + members[:start]
        return (
            next((member for member in in_turn if member.session.ready), None)
            or next((member for member in in_turn if member.session.link is not None), None)
            or in_turn[0]
        )
