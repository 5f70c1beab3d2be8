"""What devices are refused: each kind of refusal, how each wire tells it, and the one value that says it happened.

A login is refused by a member of `LoginRefusal`, a message by one of `MessageRefusal`, with the reason in words. A wire
that speaks of MQTT's reason codes or of HTTP's statuses finds them here; a WebSocket answers {"error": reason}.

Where one happens, devices.consumers.refusals makes a `Refusal` of it: for the counters, the log, and the operator.
"""

from dataclasses import dataclass
from enum import Enum, unique
from typing import Final, NamedTuple

from gateway.exceptions import Reject
from protocols.mqtt import ReasonCode


class RefusalKind(Enum):
    """Name = (the label `reason` at /metrics, MQTT 5's reason code [MQTT5-2.4], HTTP's status, and where there is one,
    after how many seconds to try again)."""

    def __init__(self, reason: str, reason_code: ReasonCode, status: int, retry_after_s: int | None = None) -> None:
        self.reason = reason
        self.reason_code = reason_code
        self.status = status
        self.retry_after_s = retry_after_s


@unique
class LoginRefusal(RefusalKind):
    """A device is not let in, or not any more. The reason is what the peer is told: that, and no more."""

    UNKNOWN = ("unknown token", ReasonCode.BAD_USER_NAME_OR_PASSWORD, 401)
    MISSING = ("no token", ReasonCode.BAD_USER_NAME_OR_PASSWORD, 401)
    CUT = ("cut off while logging in", ReasonCode.BAD_USER_NAME_OR_PASSWORD, 401)
    UNKNOWN_CERTIFICATE = ("certificate of no device", ReasonCode.BAD_USER_NAME_OR_PASSWORD, 401)
    OTHER_DEVICE = ("token of another device than the certificate", ReasonCode.BAD_USER_NAME_OR_PASSWORD, 401)
    UNAVAILABLE = ("database away", ReasonCode.SERVER_UNAVAILABLE, 503, 5)
    BUSY = ("too many logins at once", ReasonCode.SERVER_BUSY, 503, 5)
    FAILED_OFTEN = ("too many failed logins", ReasonCode.CONNECTION_RATE_EXCEEDED, 429, 60)
    TOO_MANY = ("too many connections of the device", ReasonCode.QUOTA_EXCEEDED, 429)
    FLAPPING = ("flapping", ReasonCode.CONNECTION_RATE_EXCEEDED, 429)


@unique
class MessageRefusal(RefusalKind):
    """Nothing of a message is stored."""

    PAYLOAD = ("payload", ReasonCode.PAYLOAD_FORMAT_INVALID, 400)
    """No telemetry as the profile of the device knows it."""
    TOO_LARGE = ("too_large", ReasonCode.PACKET_TOO_LARGE, 413)
    """More bytes than a message may have. An MQTT server closes by itself, when it has read a packet's length."""
    UNSTORABLE = ("unstorable", ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, 422)
    """A value that the database refuses as data."""
    REPLACED = ("database_replaced", ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, 503)
    """What waited for its commit when another database took the place of the one before. The connection is closed."""
    KEYS = ("keys", ReasonCode.QUOTA_EXCEEDED, 507)
    """A new key, while there are as many as there may be in all."""
    KEYS_OF_DEVICE = ("keys_of_device", ReasonCode.QUOTA_EXCEEDED, 429)
    """A new key of a device that has as many as one device may have."""
    QUOTA_OF_DEVICE = ("quota_of_device", ReasonCode.QUOTA_EXCEEDED, 429)
    """More attributes than one device may have."""
    NO_DEVICE = ("device", ReasonCode.TOPIC_NAME_INVALID, 404)
    """What is said in the name of a device that is not there or is disabled, by a bridge; or by one that is deleted
    meanwhile."""
    POLLS = ("polls", ReasonCode.QUOTA_EXCEEDED, 429, 5)
    """One request too many that waits for what the device is to be told."""
    NO_COMMAND = ("no_command", ReasonCode.TOPIC_NAME_INVALID, 404)
    """The answer to a command that is not there, or not any more."""
    FINISHED_COMMAND = ("finished_command", ReasonCode.TOPIC_NAME_INVALID, 409)
    """The answer to a command that is answered already, or has expired, or was cancelled."""
    UNAVAILABLE = ("database away", ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, 503, 5)
    """What cannot be looked up or stored now; the device is to say it again."""
    NOT_LOGGED_IN = ("not_logged_in", ReasonCode.NOT_AUTHORIZED, 401)
    """What only a device may send, from a client that is none."""
    TOPIC = ("topic", ReasonCode.TOPIC_NAME_INVALID, 404)
    """A topic by which ThingsBoard takes telemetry, or what gateways say of their devices, and which is not served."""
    IGNORED = ("ignored", ReasonCode.TOPIC_NAME_INVALID, 404)
    """Any other topic of a device, or none: ThingsBoard acknowledges what it has no use for."""


@unique
class ProvisioningRefusal(RefusalKind):
    """A device does not get a credential. It is told NOT_FOUND for the first, FAILURE for the others."""

    UNKNOWN = ("provisioning key or secret", ReasonCode.NOT_AUTHORIZED, 200)
    NAME = ("provisioning of a used name", ReasonCode.NOT_AUTHORIZED, 200)
    FULL = ("provisioning of too many devices", ReasonCode.QUOTA_EXCEEDED, 200)
    CREDENTIAL = ("provisioning with a bad credential", ReasonCode.NOT_AUTHORIZED, 200)


DROPPED: Final = frozenset({MessageRefusal.IGNORED, MessageRefusal.NO_COMMAND, MessageRefusal.FINISHED_COMMAND})
"""What gets, before MQTT 5, the acknowledgement of what is stored. That is for what ThingsBoard acknowledges and
ignores, and for what no repetition could mend, and never for telemetry: the acknowledgement of telemetry means that it
is stored."""


class RefusedError(Reject):
    """Raised when nothing of a message is stored. `text` tells the author of the firmware why."""

    position: int | None = None
    """At which byte of the message the fault is, from 0, if it is at one."""

    def __init__(self, refusal: RefusalKind, text: str, *, log_reason: str | None = None) -> None:
        """`log_reason` is for the log, where it may know more than the peer."""
        super().__init__(refusal.reason_code, text, drop=refusal in DROPPED, log_reason=log_reason)
        self.refusal = refusal
        self.text = text


class LoginError(RefusedError):
    """Raised when a device is not let in. `text` is what the peer is told; `log_reason` is who it is, and the true
    reason."""


SAMPLE_BYTES: Final = 200


class Sample(NamedTuple):
    """The part of a refused message that an operator needs to see what is wrong with it."""

    content: bytes = b""
    """At most SAMPLE_BYTES."""
    start: int = 0
    """At which byte of the message it begins."""
    fault: int | None = None
    """At which byte of the message the fault is, if it is at one."""

    @classmethod
    def of(cls, payload: bytes, fault: int | None) -> "Sample":
        """The beginning of the payload, or what is around a fault that is further behind."""
        start = 0 if fault is None or fault < SAMPLE_BYTES else fault - SAMPLE_BYTES // 2
        return cls(payload[start : start + SAMPLE_BYTES], start, fault)


NOTHING: Final = Sample()
"""No message, or none at hand."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that a device, or a client that may be one, was refused. What the operator may know; a peer is told
    less."""

    kind: str
    """The `reason` of a RefusalKind; for what is no login and no message what was asked for, "subscribe" or "will"."""
    wire: str
    """"mqtt", "http", "websocket" or "mqtt-bridge"."""
    address: str
    """The address of the client; "" at a Unix socket."""
    what: str
    """What was asked for: "login", "publish v1/devices/me/telemetry"."""
    code: int
    """The reason code of MQTT, the status of HTTP."""
    reason: str
    device_id: int | None = None
    """The device, if it is known: that of a credential that was revoked, too."""
    claimed: str = ""
    """Who the client says it is: how the log names a token, a client identifier, the name of a device."""
    sample: Sample = NOTHING
