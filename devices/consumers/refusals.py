"""Reports refusals of devices: to the peer, in the log, in the counters, and to who keeps the last ones. Here alone a
`Refusal` is made.

The peer learns that it is refused, and no more; the log and the trace say whose credential it was and what became of
it. MQTT servers log why they close a connection, so nothing here logs the refused logins of MQTT.
"""

import msgspec

from devices import metrics
from devices.credentials import Found, Identity
from devices.refusals import LoginError, LoginRefusal, Refusal, RefusedError, Sample
from devices.services import services_of
from gateway.exceptions import Reject
from gateway.generic.mqtt_replies import with_count
from protocols.addresses import parse_address
from protocols.asgi import Scope
from protocols.log_lines import PeerLog, describe
from protocols.masking import redact_path
from protocols.mqtt import ReasonCode

peer_log = PeerLog("gateway.devices")


def refused(
    refusal: LoginRefusal,
    scope: Scope,
    why: str,
    *,
    whose: Found | None = None,
    claimed: str = "",
    told: str | None = None,
) -> LoginError:
    """Counts, logs and records a refused login, and returns the error to raise. `why` is for the operator, and so are
    `whose` credential it is, valid or not, and who the client claims to be, without a secret; `told` is for the peer,
    if that is more than the refusal's reason."""
    metrics.logins_refused.labels(scope["type"], refusal.reason).inc()
    if scope["type"] != "mqtt":
        peer_log.warning(scope.get("client"), "refused a device's login: %s: %s", describe(scope), why)
    error = LoginError(refusal, told or refusal.reason, log_reason=why)
    if error.reason_code == ReasonCode.BAD_USER_NAME_OR_PASSWORD and scope.get("mqtt_version") in (3, 4):
        error.reason_code = ReasonCode.NOT_AUTHORIZED  # ThingsBoard's answer is return code 5; 0x86 would become 4
    services_of(scope).observers.refused(
        Refusal(
            kind=refusal.reason,
            wire=scope["type"],
            address=_address(scope),
            what="login",
            code=error.reason_code if scope["type"] == "mqtt" else refusal.status,
            reason=why,
            device_id=None if whose is None else whose.device_id,
            claimed=claimed or scope.get("client_id", ""),
        )
    )
    return error


def http_response(error: RefusedError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the answer to a request, or to the handshake of a WebSocket."""
    refusal = error.refusal
    body = msgspec.json.encode({"error": error.text}) + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(refusal.retry_after_s).encode()))
    return refusal.status, headers, body


def note_payload(scope: Scope, device: Identity, error: RefusedError, payload: bytes = b"") -> None:
    """Counts, logs and records a message of which nothing is stored."""
    metrics.payloads_refused.labels(scope["type"], error.refusal.reason).inc()
    services_of(scope).observers.refused(
        Refusal(
            kind=error.refusal.reason,
            wire=scope["type"],
            address=_address(scope),
            what=f"{scope['method']} {redact_path(scope['path'])}" if scope["type"] == "http" else "message",
            code=error.refusal.status,
            reason=error.text,
            device_id=device.device_id,
            claimed=device.name,
            sample=Sample.of(payload, error.position),
        )
    )
    peer_log.warning(f"device/{device.device_id}", "refused what %s sent: %s: %s", device, describe(scope), error.text)


def note_request(
    scope: Scope,
    request: str,
    about: str,
    refusal: Reject,
    count: int,
    *,
    device_id: int | None,
    claimed: str,
    payload: bytes,
    wire: str = "mqtt",
) -> None:
    """Counts and records what a client of MQTT is refused, once it is connected; a generic consumer logs it."""
    kind, fault = request, None
    if isinstance(refusal, RefusedError):
        kind, fault = refusal.refusal.reason, refusal.position
        metrics.payloads_refused.labels(wire, kind).inc(count)
    if request == "connect":  # see `refused`, which knows more
        return
    services_of(scope).observers.refused(
        Refusal(
            kind=kind,
            wire=wire,
            address=_address(scope),
            what=f"{request} {with_count(about, count)}",
            code=refusal.reason_code,
            reason=refusal.log_reason or refusal.reason_string or ReasonCode(refusal.reason_code).name,
            device_id=device_id,
            claimed=claimed,
            sample=Sample.of(payload, fault),
        )
    )


def note_provisioning(scope: Scope, error: RefusedError, name: str) -> None:
    """Counts, logs and records that a device does not get a credential."""
    metrics.logins_refused.labels(scope["type"], error.refusal.reason).inc()
    peer_log.warning(scope.get("client"), "refused to provision a device: %s: %s", describe(scope), error.text)
    services_of(scope).observers.refused(
        Refusal(
            kind=error.refusal.reason,
            wire=scope["type"],
            address=_address(scope),
            what="provisioning",
            code=error.reason_code if scope["type"] == "mqtt" else error.refusal.status,
            reason=error.text,
            claimed=name[:200].replace("\0", ""),
        )
    )


def _address(scope: Scope) -> str:
    """The address of the client, an IPv4 one as such; "" at a Unix socket."""
    client = scope.get("client")
    return str(parse_address(str(client[0])) or client[0]) if client else ""
