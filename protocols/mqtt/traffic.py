"""What has gone through a server since it started: the one set of counts behind /metrics and `$SYS/`."""

from dataclasses import dataclass, fields
from typing import NamedTuple


class Counts(NamedTuple):
    """What one connection has counted since it began."""

    received_packets: int
    received_publishes: int
    received_payload_bytes: int
    sent_publishes: int
    sent_payload_bytes: int


@dataclass(slots=True)
class Traffic:
    """Sums that only grow. Connections count by themselves and add up here, about once a second."""

    received_bytes: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    sent_packets: int = 0
    received_publishes: int = 0
    sent_publishes: int = 0
    received_payload_bytes: int = 0
    """Of PUBLISH packets, as `sent_payload_bytes`."""
    sent_payload_bytes: int = 0
    dropped: int = 0
    """Messages that did not reach a subscriber, or were not retained."""
    connections: int = 0
    """CONNECT packets that were answered by the application."""
    sockets: int = 0
    """Network connections."""

    def add(self, counts: Counts, earlier: Counts) -> None:
        """Takes what a connection has counted since `earlier`."""
        self.received_packets += counts.received_packets - earlier.received_packets
        self.received_publishes += counts.received_publishes - earlier.received_publishes
        self.received_payload_bytes += counts.received_payload_bytes - earlier.received_payload_bytes
        self.sent_publishes += counts.sent_publishes - earlier.sent_publishes
        self.sent_payload_bytes += counts.sent_payload_bytes - earlier.sent_payload_bytes

    def copy(self) -> "Traffic":
        """The sums as they are now."""
        return Traffic(*(getattr(self, field.name) for field in fields(self)))

    def since(self, earlier: "Traffic") -> "Traffic":
        """What has been added since `earlier` was copied."""
        return Traffic(*(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self)))
