"""Reports refusals of devices: to the peer, in the log, in the counters.

The peer learns that it is refused, and no more; the log and the trace say whose credential it was and what became of
it. MQTT servers log why they close a connection, so nothing here logs the refused logins of MQTT.
"""

import msgspec

from devices import metrics
from devices.credentials import Identity
from devices.refusals import LoginError, LoginRefusal, RefusedError
from protocols.asgi import Scope
from protocols.log_lines import PeerLog, describe
from protocols.mqtt import ReasonCode

peer_log = PeerLog("gateway.devices")


def refused(refusal: LoginRefusal, scope: Scope, why: str, *, told: str | None = None) -> LoginError:
    """Counts and logs a refused login, and returns the error to raise. `why` is for the log; `told` is for the peer, if
    that is more than the refusal's reason."""
    metrics.logins_refused.labels(scope["type"], refusal.reason).inc()
    if scope["type"] != "mqtt":
        peer_log.warning(scope.get("client"), "refused a device's login: %s: %s", describe(scope), why)
    error = LoginError(refusal, told or refusal.reason, log_reason=why)
    if error.reason_code == ReasonCode.BAD_USER_NAME_OR_PASSWORD and scope.get("mqtt_version") in (3, 4):
        error.reason_code = ReasonCode.NOT_AUTHORIZED  # ThingsBoard's answer is return code 5; 0x86 would become 4
    return error


def http_response(error: LoginError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the answer to a request, or to the handshake of a WebSocket."""
    refusal = error.refusal
    body = msgspec.json.encode({"error": error.text}) + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(refusal.retry_after_s).encode()))
    return refusal.status, headers, body


def note_payload(scope: Scope, device: Identity, error: RefusedError) -> None:
    """Counts and logs a message of which nothing is stored."""
    count_payloads(scope["type"], error)
    peer_log.warning(f"device/{device.device_id}", "refused what %s sent: %s: %s", device, describe(scope), error.text)


def count_payloads(protocol: str, error: RefusedError, count: int = 1) -> None:
    """Counts messages of which nothing is stored, for protocols whose servers log them."""
    metrics.payloads_refused.labels(protocol, error.refusal.reason).inc(count)
