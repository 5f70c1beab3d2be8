"""What a device sends and does not get stored: each kind of refusal, and how each wire tells it. This is the one table.

Consumers, ingest and profiles raise `RefusedError` with a member of it and with the reason in words. A wire that speaks
of MQTT's reason codes or of HTTP's statuses finds them here; a WebSocket answers {"error": reason}.
"""

from enum import Enum, unique

from gateway.exceptions import Reject
from protocols.mqtt import ReasonCode


@unique
class MessageRefusal(Enum):
    """Name = (the label `reason` at /metrics, MQTT 5's reason code [MQTT5-2.4], HTTP's status, whether it is dropped).

    What is dropped gets, before MQTT 5, the acknowledgement of what is stored. That is for what ThingsBoard
    acknowledges and ignores, and never for telemetry: the acknowledgement of telemetry means that it is stored.
    """

    PAYLOAD = ("payload", ReasonCode.PAYLOAD_FORMAT_INVALID, 400, False)
    """No telemetry as the profile of the device knows it."""
    TOO_LARGE = ("too_large", ReasonCode.PACKET_TOO_LARGE, 413, False)
    """More bytes than a message may have. An MQTT server closes by itself, when it has read a packet's length."""
    UNSTORABLE = ("unstorable", ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, 422, False)
    """A value that the database refuses as data."""
    REPLACED = ("database_replaced", ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, 503, False)
    """What waited for its commit when another database took the place of the one before. The connection is closed."""
    KEYS = ("keys", ReasonCode.QUOTA_EXCEEDED, 507, False)
    """A new key, while there are as many as there may be in all."""
    KEYS_OF_DEVICE = ("keys_of_device", ReasonCode.QUOTA_EXCEEDED, 429, False)
    """A new key of a device that has as many as one device may have."""
    NO_DEVICE = ("device", ReasonCode.TOPIC_NAME_INVALID, 404, False)
    """Telemetry in the name of a device that is not there or is disabled, by a bridge."""
    NOT_LOGGED_IN = ("not_logged_in", ReasonCode.NOT_AUTHORIZED, 401, False)
    """What only a device may send, from a client that is none."""
    TOPIC = ("topic", ReasonCode.TOPIC_NAME_INVALID, 404, False)
    """A topic by which ThingsBoard takes telemetry, or what gateways say of their devices, and which is not served."""
    IGNORED = ("ignored", ReasonCode.TOPIC_NAME_INVALID, 404, True)
    """Any other topic of a device, or none: ThingsBoard acknowledges what it has no use for."""

    def __init__(self, reason: str, reason_code: int, status: int, drop: bool) -> None:
        self.reason = reason
        self.reason_code = reason_code
        self.status = status
        self.drop = drop


class RefusedError(Reject):
    """Raised when nothing of a message is stored. `text` tells the author of the firmware why."""

    def __init__(self, refusal: MessageRefusal, text: str) -> None:
        super().__init__(refusal.reason_code, text, drop=refusal.drop)
        self.refusal = refusal
        self.text = text
