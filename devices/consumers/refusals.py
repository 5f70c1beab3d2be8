"""What devices are refused: what each wire says to them, what the log says, what is counted.

The peer learns that it is not let in, and no more; the log and whoever traces it learn whose credential it was and what
became of it. MQTT's servers log why they close a connection, so that for MQTT the line is theirs.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from devices import metrics
from devices.credentials import Identity
from devices.refusals import RefusedError
from gateway.exceptions import Reject
from protocols.asgi import Scope
from protocols.log_lines import PeerLog
from protocols.mqtt import ReasonCode
from protocols.runner import describe

peer_log = PeerLog("gateway.devices")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A kind of refusal of a login."""

    reason: str
    """What the peer is told, and the label of the counter."""
    mqtt: int
    """The reason code of MQTT 5."""
    http: int
    """The status of the response, to a request and to a WebSocket's handshake."""
    mqtt_before_5: int | None = None
    """The reason code that becomes the return code before MQTT 5, if it is another one."""
    retry_after_s: int | None = None


def _unauthorized(reason: str) -> Refusal:
    # ThingsBoard's answer before MQTT 5 is 5, not authorized; 0x86 would become 4.
    return Refusal(reason, mqtt=ReasonCode.BAD_USER_NAME_OR_PASSWORD, http=401, mqtt_before_5=ReasonCode.NOT_AUTHORIZED)


UNKNOWN: Final = _unauthorized("unknown token")
MISSING: Final = _unauthorized("no token")
CUT: Final = _unauthorized("cut off while logging in")
UNKNOWN_CERTIFICATE: Final = _unauthorized("certificate of no device")
OTHER_DEVICE: Final = _unauthorized("token of another device than the certificate")
UNAVAILABLE: Final = Refusal("database away", mqtt=ReasonCode.SERVER_UNAVAILABLE, http=503, retry_after_s=5)
BUSY: Final = Refusal("too many logins at once", mqtt=ReasonCode.SERVER_BUSY, http=503, retry_after_s=5)
FAILED_OFTEN: Final = Refusal(
    "too many failed logins", mqtt=ReasonCode.CONNECTION_RATE_EXCEEDED, http=429, retry_after_s=60
)
TOO_MANY: Final = Refusal("too many connections of the device", mqtt=ReasonCode.QUOTA_EXCEEDED, http=429)
FLAPPING: Final = Refusal("flapping", mqtt=ReasonCode.CONNECTION_RATE_EXCEEDED, http=429)

REFUSALS: Final = tuple(each for each in vars().copy().values() if isinstance(each, Refusal))
"""All there are."""


class LoginError(Exception):
    """Raised when a device is not let in."""

    def __init__(self, refusal: Refusal, why: str, *, told: str | None = None) -> None:
        """`why` is for the log: who, and the true reason. `told` is what the peer is told, if that is more than
        `refusal.reason`."""
        self.refusal = refusal
        self.why = why
        self.reason = told or refusal.reason
        """What the peer is told."""
        super().__init__(self.reason)


def refused(refusal: Refusal, scope: Scope, why: str, *, told: str | None = None) -> LoginError:
    """The error for a login that is refused, once it is counted and logged; see `LoginError`."""
    metrics.logins_refused.labels(scope["type"], refusal.reason).inc()
    if scope["type"] != "mqtt":
        peer_log.warning(scope.get("client"), "refused a device's login: %s: %s", describe(scope), why)
    return LoginError(refusal, why, told=told)


def mqtt_rejection(error: LoginError, mqtt_version: int) -> Reject:
    """The answer to a CONNECT."""
    refusal = error.refusal
    code = refusal.mqtt if mqtt_version == 5 or refusal.mqtt_before_5 is None else refusal.mqtt_before_5
    return Reject(code, error.reason, log_reason=error.why)


def http_response(error: LoginError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the answer to a request, or to the handshake of a WebSocket."""
    body = msgspec.json.encode({"error": error.reason}) + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.refusal.http == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(error.refusal.retry_after_s).encode()))
    return error.refusal.http, headers, body


def note_payload(scope: Scope, device: Identity, error: RefusedError) -> None:
    """Nothing of a message is stored."""
    count_payloads(scope["type"], error)
    peer_log.warning(f"device/{device.device_id}", "refused what %s sent: %s: %s", device, describe(scope), error.text)


def count_payloads(protocol: str, error: RefusedError, count: int = 1) -> None:
    """Counts messages of which nothing is stored, for wires whose servers log that."""
    metrics.payloads_refused.labels(protocol, error.refusal.reason).inc(count)
