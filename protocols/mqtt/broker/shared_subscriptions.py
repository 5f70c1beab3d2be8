"""Shared subscriptions: one of several sessions gets each message [MQTT5-4.8.2]."""

from collections import OrderedDict

from protocols.mqtt.broker.session import Session, Subscriber


class SharedGroup:
    """The sessions that share one subscription, and whose turn it is.

    A message goes to the member whose last one is longest ago, of those that can take one at once; if none can, of
    those that are connected; if none is, of those that are away and keep their sessions. A slow member thus gets less,
    an absent one nothing as long as another is there, and the others equal parts. What waits for a member that goes
    away or leaves goes to another (Broker).
    """

    __slots__ = ("_members", "topic_filter")

    session: None = None
    """Where a Subscriber has the session that it is for."""

    def __init__(self, topic_filter: str) -> None:
        """`topic_filter` has the $share/NAME/ in front."""
        self.topic_filter = topic_filter
        self._members: OrderedDict[str, Subscriber] = OrderedDict()
        """Whose turn is next comes first."""

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
        members = self._members
        chosen = (
            next((member for member in members.values() if member.session.ready), None)
            or next((member for member in members.values() if member.session.link is not None), None)
            or next(iter(members.values()), None)
        )
        if chosen is not None:
            members.move_to_end(chosen.session.client_id)
        return chosen
