"""How a device logs in, whatever it speaks, and how its connection is kept revocable."""

from collections.abc import Iterable
from typing import Any, Final

from django.db import Error as DatabaseFault

from devices import metrics
from devices.consumers.refusals import note_login
from devices.credentials import Identity
from devices.services import DeviceServices
from protocols.asgi import Event, Scope
from protocols.runner import Inbox

UNKNOWN: Final = "unknown token"
MISSING: Final = "no token"
UNAVAILABLE: Final = "database away"
CUT: Final = "cut off while logging in"
UNKNOWN_CERTIFICATE: Final = "certificate of no device"
OTHER_DEVICE: Final = "token of another device than the certificate"
FAILED_OFTEN: Final = "too many failed logins"
TOO_MANY: Final = "too many connections of the device"


class LoginError(Exception):
    """Raised when a device is not let in. `reason` is one of the constants of this module."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def log_in(services: DeviceServices, token: str | None, scope: Scope) -> Identity:
    """The device whose token this is, or whose certificate the client has. Raises LoginError, counted and logged.

    A token may come with a certificate: that of the same device, or one that is no device's.
    """
    certified = await certified_device(services, scope)
    if not token:
        if certified is not None:
            return certified
        raise refused(UNKNOWN_CERTIFICATE if client_certificate(scope) else MISSING, scope)
    failed_logins, client = services.limits.failed_logins, scope["client"]
    if failed_logins.too_many(client) and not services.directory.knows(token):
        raise refused(FAILED_OFTEN, scope)
    try:
        device = await services.directory.authenticate(token)
    except DatabaseFault as error:
        raise refused(UNAVAILABLE, scope) from error
    if device is None:
        failed_logins.note(client)
        raise refused(UNKNOWN, scope)
    if certified is not None and certified.device_id != device.device_id:
        raise refused(OTHER_DEVICE, scope)
    return device


async def certified_device(services: DeviceServices, scope: Scope) -> Identity | None:
    """The device whose certificate the client has. Raises LoginError if that cannot be known."""
    certificate = client_certificate(scope)
    if certificate is None:
        return None
    try:
        return await services.directory.certified(certificate)
    except DatabaseFault as error:
        raise refused(UNAVAILABLE, scope) from error


def client_certificate(scope: Scope) -> str | None:
    """The client's certificate in PEM, which TLS has verified."""
    tls = scope.get("extensions", {}).get("tls")
    chain = tls["client_cert_chain"] if tls else ()
    return next(iter(chain), None)


def refused(reason: str, scope: Scope) -> LoginError:
    """The error for a login that is refused, once it is counted and logged."""
    metrics.logins_refused.labels(scope["type"], reason).inc()
    if scope["type"] != "mqtt":  # whose server logs why it closes a connection
        note_login(scope, reason)
    return LoginError(reason)


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The token in `Authorization: Bearer TOKEN` (RFC 6750 §2.1) or `X-Device-Token: TOKEN`."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return token.strip()
        elif name == b"x-device-token":
            return value.decode("latin-1").strip()
    return None


class Revocable:
    """Mixed into a consumer: its connection is among the open ones, and ends by the event "device.cut"."""

    _gateway_inbox: Inbox
    _registered: tuple[DeviceServices, Identity] | None = None

    def register(self, services: DeviceServices, device: Identity, scope: Any) -> None:
        """Makes the connection revocable. Raises LoginError if the device has too many, or was cut off since it was
        looked up.

        A connection that is about to take over a session ends the one that has it, and is not one too many beside it:
        a device whose line broke comes back before anybody has noticed that the old connection is dead.
        """
        most, seat = services.limits.options.max_connections, scope.get("client_id")
        if most and services.connections.count(device.device_id, beside=seat) >= most:
            raise refused(TOO_MANY, scope)
        if not services.connections.add(device, self._cut_off, seat=seat):
            raise refused(CUT, scope)
        self._registered = (services, device)

    def unregister(self) -> None:
        """Ends that; does nothing if `register` was not called, or raised."""
        if self._registered is not None:
            services, device = self._registered
            self._registered = None
            services.connections.remove(device, self._cut_off)

    def _cut_off(self, reason: str) -> None:
        event: Event = {"type": "device.cut", "reason": reason}
        self._gateway_inbox.interject(event)
