"""Who of those that match gets a message: of a shared subscription one session [MQTT5-4.8.2], of the others each one
copy."""

from collections import OrderedDict
from collections.abc import Sequence

from protocols.mqtt.broker.outbox import Outbox
from protocols.mqtt.broker.session import Subscriber


class SharedGroup:
    """The sessions that share one subscription, and whose turn it is.

    A message goes to the member whose last one is longest ago, of those that can take one at once; if none can, of
    those that are connected; if none is, of those that are away and keep their sessions. A slow member thus gets less,
    an absent one nothing as long as another is there, and the others equal parts. What waits for a member that goes
    away or leaves goes to another (Broker).
    """

    __slots__ = ("_members", "topic_filter")

    outbox: None = None
    """Where a Subscriber has that of its session."""

    def __init__(self, topic_filter: str) -> None:
        """`topic_filter` has the $share/NAME/ in front."""
        self.topic_filter = topic_filter
        self._members: OrderedDict[Outbox, Subscriber] = OrderedDict()
        """Whose turn is next comes first."""

    def __len__(self) -> int:
        return len(self._members)

    @property
    def present(self) -> bool:
        """Whether one of them is connected."""
        return any(member.outbox.link is not None for member in self._members.values())

    def add(self, subscriber: Subscriber) -> None:
        """Adds a member, or replaces its options."""
        self._members[subscriber.outbox] = subscriber

    def remove(self, outbox: Outbox) -> None:
        """Takes a member out."""
        self._members.pop(outbox, None)

    def choose(self) -> Subscriber | None:
        """The member that gets the next message [MQTT5-4.8.2]."""
        members = self._members
        chosen = (
            next((member for member in members.values() if member.outbox.ready), None)
            or next((member for member in members.values() if member.outbox.link is not None), None)
            or next(iter(members.values()), None)
        )
        if chosen is not None:
            members.move_to_end(chosen.outbox)
        return chosen


def one_per_session(
    found: Sequence[Subscriber | SharedGroup], sender: Outbox | None
) -> Sequence[Subscriber | SharedGroup]:
    """Merges the matches of each session into one; a shared subscription stays apart [MQTT5-4.8.2]."""
    if len({match.outbox for match in found}) == len(found):  # as nearly always: five times as fast as merging
        return found
    merged: dict[Outbox | SharedGroup, Subscriber | SharedGroup] = {}
    for match in found:
        if isinstance(match, SharedGroup):
            merged[match] = match
            continue
        outbox = match.outbox
        if match.no_local and outbox is sender:
            continue
        other = merged.get(outbox)
        merged[outbox] = match if other is None else _merge(other, match)
    return list(merged.values())


def _merge(one: Subscriber | SharedGroup, other: Subscriber) -> Subscriber:
    assert isinstance(one, Subscriber)
    return Subscriber(
        one.outbox,
        max(one.qos, other.qos),  # [MQTT5-3.3.4-2] [MQTT3-3.3.5-1]
        retain_as_published=one.retain_as_published or other.retain_as_published,
        identifiers=one.identifiers + other.identifiers,  # [MQTT5-3.3.4-4]
    )
