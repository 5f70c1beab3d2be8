"""The login of a device over any protocol, and the mixin that lets its connection be revoked."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from django.utils import timezone

from devices.consumers.refusals import refused
from devices.credentials import Denied, Found, Identity, hint_of, looks_like_token
from devices.look_ups import LookUpError, TooManyLookUpsError
from devices.password_logins import UserName
from devices.refusals import LoginError, LoginRefusal
from devices.services import DeviceServices
from protocols.asgi import Event, Scope

T = TypeVar("T")

UNKNOWN_LOGIN: Final = "unknown token, or wrong user name or password"
"""What a client is told that has sent both, whether somebody has the user name or not."""

EXPIRED: Final = "the credential is not valid any more"
"""Why a connection ends with its credential."""


async def log_in(
    services: DeviceServices, token: str | None, scope: Scope, *, password: bytes | None = None
) -> Identity:
    """The device whose token this is, or whose certificate the client has. Raises LoginError, counted and logged.

    A token may come with a certificate: that of the same device, or one that is no device's. With a `password` it may
    be a user name. Other brokers take tokens for passwords, so the log says of a failed login when it is one.

    Every token is looked up, however many logins of the client's address have failed: devices behind one router share
    it, and one with a wrong token must not keep out the others. Only the answers to failed logins become slow.
    """
    certified = await certified_device(services, scope)
    if not token:
        if isinstance(certified, Identity):
            return certified
        if certified is not None:
            raise refused(LoginRefusal.UNKNOWN_CERTIFICATE, scope, str(certified), whose=certified)
        # A look-up for the log's sake: one that is counted, as no other bounds those of who gives a password alone.
        is_counted = bool(password) and services.limits.failed_logins.note(scope["client"])
        hint, whose = await _password_hint(services, scope, password) if is_counted else ("", None)
        raise refused(LoginRefusal.MISSING, scope, LoginRefusal.MISSING.reason + hint, whose=whose)
    claimed = f"token {hint_of(token)}"
    found = await _look_up(services.directory.authenticate(token, scope["client"]), scope, claimed)
    if password and isinstance(found, Denied) and found.device_id is None:
        name = UserName(token, scope.get("client_id", ""))
        by_password = await _look_up(services.directory.logged_in(name, password, scope["client"]), scope, claimed)
        found = found if by_password is None else by_password
    if isinstance(found, Denied):
        raise await _failed(services, found, scope, password, claimed)
    if isinstance(certified, Identity) and certified.device_id != found.device_id:
        why = f"token of {found}, certificate of {certified}"
        raise refused(LoginRefusal.OTHER_DEVICE, scope, why, whose=found, claimed=claimed)
    return found


async def has_user_name(services: DeviceServices, username: str, scope: Scope) -> bool:
    """Whether a device has or had this user name. Raises LoginError if that cannot be known."""
    name = UserName(username, scope.get("client_id", ""))
    return await _look_up(services.directory.has_user_name(name, scope["client"]), scope)


async def certified_device(services: DeviceServices, scope: Scope) -> Found | None:
    """The device whose certificate the client has, or why it is none; None if it has no certificate. Raises LoginError
    if that cannot be known."""
    certificate = client_certificate(scope)
    if certificate is None:
        return None
    return await _look_up(services.directory.certified(certificate, scope["client"]), scope)


def client_certificate(scope: Scope) -> str | None:
    """The client's certificate in PEM, which TLS has verified."""
    tls = scope.get("extensions", {}).get("tls")
    chain = tls["client_cert_chain"] if tls else ()
    return next(iter(chain), None)


async def _look_up(looking_up: Awaitable[T], scope: Scope, claimed: str = "") -> T:
    try:
        return await looking_up
    except TooManyLookUpsError as error:
        raise refused(LoginRefusal.BUSY, scope, str(error), claimed=claimed) from error
    except LookUpError as error:
        why = f"{LoginRefusal.UNAVAILABLE.reason}: {error}"
        raise refused(LoginRefusal.UNAVAILABLE, scope, why, claimed=claimed) from error


async def _failed(
    services: DeviceServices, denied: Denied, scope: Scope, password: bytes | None, claimed: str
) -> LoginError:
    failed_logins = services.limits.failed_logins
    if failed_logins.note(scope["client"]):
        hint, found = await _password_hint(services, scope, password)
        told = UNKNOWN_LOGIN if password else None
        return refused(
            LoginRefusal.UNKNOWN, scope, f"{denied}{hint}", whose=found or denied, claimed=claimed, told=told
        )
    why = f"{denied}; {LoginRefusal.FAILED_OFTEN.reason} of this address"
    error = refused(LoginRefusal.FAILED_OFTEN, scope, why, whose=denied, claimed=claimed)
    # As many wait as there are connections, which are bounded. Other logins of the address do not wait for these.
    await asyncio.sleep(failed_logins.pause_s)
    return error


async def _password_hint(services: DeviceServices, scope: Scope, password: bytes | None) -> tuple[str, Identity | None]:
    """What the log adds to a failed login whose password looks like a token, and the device whose token it is."""
    text = (password or b"").decode("ascii", "replace")
    if not looks_like_token(text):
        return "", None
    found = await _look_up(services.directory.authenticate(text, scope["client"]), scope)
    device = found if isinstance(found, Identity) else None
    whose = "like a token" if device is None else f"the token of {device}"
    return f"; the password is {whose}, which belongs into the user name", device


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
    """Mixed into a consumer: its connection is among the open ones. It ends by the event "device.cut", and with the
    credential by "device.expired"."""

    post: Callable[[Event], None]
    _registered: tuple[DeviceServices, Identity] | None = None
    _expiry: asyncio.TimerHandle | None = None

    def register(self, services: DeviceServices, device: Identity, scope: Any) -> None:
        """Makes the connection revocable. Raises LoginError if the device has too many, or was cut off since it was
        looked up.

        A connection that is about to take over a session ends the one that has it, and is not one too many beside it:
        a device whose line broke comes back before anybody has noticed that the old connection is dead.
        """
        most, session_key = services.limits.options.max_connections, scope.get("client_id")
        if most and services.connections.count(device.device_id, beside=session_key) >= most:
            raise refused(LoginRefusal.TOO_MANY, scope, f"{device} has {most} connections already", whose=device)
        if not services.connections.add(device, self._cut_off, session_key=session_key):
            raise refused(LoginRefusal.CUT, scope, f"{device} was {LoginRefusal.CUT.reason}", whose=device)
        self._registered = (services, device)
        if device.valid_until is not None:
            left_s = (device.valid_until - timezone.now()).total_seconds()
            self._expiry = asyncio.get_running_loop().call_later(left_s, self.post, {"type": "device.expired"})

    def unregister(self) -> None:
        """Undoes `register`; does nothing if that was not called, or raised."""
        if self._registered is not None:
            services, device = self._registered
            self._registered = None
            if self._expiry is not None:
                self._expiry.cancel()
            services.connections.remove(device, self._cut_off)

    def _cut_off(self, reason: str) -> None:
        event: Event = {"type": "device.cut", "reason": reason}
        self.post(event)
