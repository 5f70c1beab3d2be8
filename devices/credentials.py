"""Issues and revokes what devices log in with, and looks devices up by token, password, certificate or name.

A token has 190 random bits, so only its plain SHA-256 is stored: nobody guesses such a token from its hash, and a
look-up of the hash in a unique index takes no secret-dependent time that would help to guess another one.
"""

import hashlib
import secrets
import ssl
import string
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from devices.client_certificates import HOLDER_FIELDS, Holder, holders_of
from devices.look_ups import DatabaseReading, LookUps
from devices.models import CertificateName, Credential, Device, DeviceCredential, DisconnectOrder, PasswordLogin
from devices.password_logins import MAX_LENGTH, Login, PasswordChecks, UserName, hash_of_password, logins_of
from devices.profiles import Profile, UnknownProfileError, profile_of
from gateway.exceptions import GatewayError
from protocols.addresses import network_of
from protocols.limits import Client
from protocols.masking import printable

T = TypeVar("T")

TOKEN_LENGTH: Final = 32
_SHORTEST_LIKELY: Final = 16
_ALPHABET: Final = string.ascii_letters + string.digits
_SENDABLE: Final = frozenset(_ALPHABET + "-._~")
"""What can be in a path as it is (RFC 3986 §2.3)."""

CACHE_SIZE: Final = 20_000
CACHE_S: Final = 300.0
NEGATIVE_CACHE_SIZE: Final = 5_000
NEGATIVE_CACHE_S: Final = 5.0
MAX_TOKEN_LENGTH: Final = 128


@dataclass(frozen=True, slots=True)
class Identity:
    """A device as its connections know it. `as_of` is the directory's generation when it was looked up."""

    device_id: int
    name: str
    profile: Profile
    as_of: int
    valid_until: datetime | None = None
    """When its credential ends, and a connection that was made with it; None: without an end."""

    def __str__(self) -> str:
        """For a log."""
        return f"{printable(self.name)} ({self.device_id})"


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a credential is not valid: for the log and the operator, not for the peer."""

    what: str
    since: datetime | None = None
    device_id: int | None = None
    """The device that the credential belongs or belonged to; None if it is no device's."""

    def __str__(self) -> str:
        """For a log: "device thermo-1 (22) is disabled", "token …0hdL of thermo-1 (22) was revoked 2 h ago"."""
        return self.what if self.since is None else f"{self.what} {_span(timezone.now() - self.since)} ago"


Found: TypeAlias = Identity | Denied


def hash_of(token: str) -> str:
    """The hash of a token, which is what is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


def looks_like_token(text: str) -> bool:
    """Whether a user name is meant to be a token: no user has a name like that."""
    return len(text) >= _SHORTEST_LIKELY and text.isascii() and text.isalnum()


def hint_of(token: str) -> str:
    """How the log names an unknown token: by its last characters, or by its length if they would be much of it."""
    return f"…{printable(token[-4:])}" if len(token) >= _SHORTEST_LIKELY else f"of {len(token)} characters"


def _random() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(TOKEN_LENGTH))


def issue(device: Device, chosen: str | None = None) -> str:
    """Issues a token for `device`: the one that is given, or one made here. It is not stored, so the caller is the last
    to see it. Raises ValueError for one that is easily guessed, or cannot be sent; IntegrityError for one in use."""
    token = _random() if chosen is None else chosen
    if not _SHORTEST_LIKELY <= len(token) <= MAX_TOKEN_LENGTH or not _SENDABLE.issuperset(token):
        raise ValueError(f"a token has {_SHORTEST_LIKELY} to {MAX_TOKEN_LENGTH} letters, digits and -._~")
    Credential.objects.create(device=device, token_sha256=hash_of(token), hint=token[-4:])
    return token


@transaction.atomic
def revoke(credential: Credential | PasswordLogin, *, reason: str = "credential revoked") -> None:
    """Makes a credential useless, and orders its device disconnected: every gateway sees that within a second."""
    _end(credential)
    order_disconnect(credential.device, reason)


@transaction.atomic
def revoke_certificate(name: CertificateName) -> None:
    """Lets no holder of a certificate of this name in any more, and orders its device disconnected."""
    _end(name)
    order_disconnect(name.device, "certificate revoked")


def _end(credential: DeviceCredential) -> None:
    if credential.is_valid:
        credential.revoked_at = timezone.now()
        credential.save(update_fields=["revoked_at"])


@transaction.atomic
def rotate(device: Device, *, overlap_s: float = 0) -> str:
    """Issues a new token for `device` and revokes every other: now, or after an overlap, in which it may use both.

    It is ordered disconnected at once in either case: so the connections that it then makes know when they end.
    """
    until = timezone.now() + timedelta(seconds=overlap_s)
    device.credentials.filter(Q(revoked_at=None) | Q(revoked_at__gt=until)).update(revoked_at=until)
    order_disconnect(device, "credentials rotated")
    return issue(device)


@transaction.atomic
def set_enabled(device: Device, enabled: bool) -> None:
    """Enables `device`, or disables it and orders it disconnected."""
    device.enabled = enabled
    set_all_enabled([device], enabled)


@transaction.atomic
def set_all_enabled(devices: Sequence[Device], enabled: bool) -> None:
    """Enables devices, or disables them and orders them disconnected."""
    Device.objects.filter(pk__in=[device.pk for device in devices]).update(enabled=enabled)
    reason = "enabled" if enabled else "disabled"
    DisconnectOrder.objects.bulk_create(DisconnectOrder(device_id=device.pk, reason=reason) for device in devices)


def order_disconnect(device: Device, reason: str) -> None:
    """Orders every gateway to close the connections of `device` and to look its credentials up anew."""
    DisconnectOrder.objects.create(device_id=device.pk, reason=reason)


def disconnect_deleted(sender: type[Device], instance: Device, **kwargs: Any) -> None:
    """A receiver of pre_delete: orders a device that is deleted disconnected."""
    order_disconnect(instance, "deleted")


class UsedNameError(GatewayError):
    """Raised when a user name is that of a device already."""

    def __init__(self, username: str) -> None:
        super().__init__(f"a device has the user name {username!r} already")


def issue_password(device: Device, username: str, password: str | None = None, *, client_id: str = "") -> str:
    """Lets `device` in with a user name and a password, over MQTT, with this client identifier or any. Returns the
    password, which is made here if none is given, and is not stored. Raises ValidationError and UsedNameError."""
    chosen = password or _random()
    login = PasswordLogin(
        device=device,
        username=username,
        client_id=client_id,
        password=hash_of_password(chosen, is_random=not password),
    )
    login.clean_fields()
    if len(chosen.encode()) > MAX_LENGTH or "\0" in username + client_id:
        raise ValidationError(f"a password has at most {MAX_LENGTH} bytes; a user name has no NUL")
    try:
        with transaction.atomic():
            login.save()
    except IntegrityError:
        raise UsedNameError(username) from None
    return chosen


@transaction.atomic
def rotate_password(login: PasswordLogin, *, overlap_s: float = 0) -> str:
    """Makes a new password for a user name; the one that there is goes on for the overlap, one before it does not."""
    now = timezone.now()
    same = PasswordLogin.objects.filter(device=login.device, username=login.username, client_id=login.client_id)
    same.filter(revoked_at__gt=now).update(revoked_at=now)
    same.filter(revoked_at=None).update(revoked_at=now + timedelta(seconds=overlap_s))
    order_disconnect(login.device, "credentials rotated")
    return issue_password(login.device, login.username, client_id=login.client_id)


class _Kind(Enum):
    TOKEN = auto()
    PASSWORD = auto()
    USER_NAME = auto()
    CERTIFICATE = auto()
    NAME = auto()


class Key(NamedTuple):
    """The key by which a credential is cached."""

    kind: _Kind
    value: str
    """The SHA-256 of a token or certificate; the seal of a password; a name."""


Question: TypeAlias = str | bytes | UserName
"""What is asked beside the key: how the log names a token, the name of a device, a certificate (DER), a user name."""

Answer: TypeAlias = Holder | str | list[Login]
"""The holder of a credential, valid or not; or for the log, why there is none. Of a user name, all who have it."""

Read: TypeAlias = Callable[[dict[Key, Question]], Mapping[Key, Answer]]


class DeviceDirectory:
    """Looks devices up, by token, certificate or name, and caches what it found: valid credentials for minutes, others
    for seconds and apart from them.

    `generation` rises with each batch of orders to disconnect. What was looked up before one may be out of date: it is
    not remembered, and `is_current` tells.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, read: Read | None = None) -> None:
        """`clock` gives seconds; `read` is called in a thread in the place of the database."""
        self.generation = 0
        self._all_disconnected_at = 0
        self._clock = clock
        self._known: OrderedDict[Key, tuple[float, Identity]] = OrderedDict()
        self._denied: OrderedDict[Key, tuple[float, Denied]] = OrderedDict()
        self._disconnected_at: OrderedDict[int, int] = OrderedDict()
        reading = DatabaseReading(read_credentials)
        self._passwords = PasswordChecks()
        self._look_ups: LookUps[Key, Question, Answer] = LookUps(
            read or reading.read, stamp=lambda: self.generation, abort=reading.abort
        )

    async def close(self) -> None:
        """Ends the threads that look up and check."""
        await self._look_ups.close()
        await self._passwords.close()

    async def authenticate(self, token: str, client: Client = None) -> Found:
        """The device whose valid token this is, or why there is none. Raises LookUpError. Clients of one
        address wait behind each other."""
        if not token or len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            return Denied(f"unknown token of {len(token)} characters")
        token_sha256 = hash_of(token)
        return await self._find(Key(_Kind.TOKEN, token_sha256), hint_of(token), client)

    async def has_user_name(self, name: UserName, client: Client = None) -> bool:
        """Whether a device has or had this user name. Raises as `authenticate` does."""
        return bool((await self._logins(name, client))[0])

    async def logged_in(self, name: UserName, password: bytes, client: Client = None) -> Found | None:
        """The device that has this user name and password, or why there is none; None if nobody has the user name.

        Raises as `authenticate` does. A password that was not right before is hashed, behind others of its address.
        """
        if len(password) > MAX_LENGTH:
            return None
        key = Key(_Kind.PASSWORD, self._passwords.seal(name, password))
        known = self._recalled(key)
        if known is not None:
            return known
        logins, generation = await self._logins(name, client)
        now = timezone.now()
        valid = {
            login.password_hash: login.holder
            for login in logins
            if login.holder.valid_until is None or login.holder.valid_until > now
        }
        fitting = await self._passwords.fitting(key.value, password, list(valid), network_of(client))
        if not logins:
            return None
        if fitting is not None:
            found = _found(valid[fitting], generation)
        elif valid:
            holder = next(iter(valid.values()))
            whose = f"{printable(holder.name)} ({holder.device_id})"
            found = Denied(f"wrong {holder.credential} of {whose}", None, holder.device_id)
        else:
            found = _found(logins[0].holder, generation)
        if generation == self.generation:
            self._remember(key, found)
        return found

    async def _logins(self, name: UserName, client: Client) -> tuple[list[Login], int]:
        if not 0 < len(name.username) <= MAX_LENGTH or len(name.client_id) > MAX_LENGTH:
            return [], self.generation
        key = Key(_Kind.USER_NAME, f"{name.username}\0{name.client_id}")
        logins, generation = await self._look_ups.ask(key, name, source=network_of(client))
        assert isinstance(logins, list)
        return logins, generation

    async def certified(self, pem: str, client: Client = None) -> Found:
        """The device whose client certificate this is, or why there is none. Raises as `authenticate` does."""
        certificate = ssl.PEM_cert_to_DER_cert(pem)
        return await self._find(Key(_Kind.CERTIFICATE, hashlib.sha256(certificate).hexdigest()), certificate, client)

    async def named(self, name: str, client: Client = None) -> Found:
        """The enabled device of this name, for who has been authenticated by others, or why there is none.

        Raises as `authenticate` does.
        """
        return await self._find(Key(_Kind.NAME, name), name, client)

    def remembered(self, name: str) -> Found | None:
        """What `named` has found lately, however long it is valid; None if that is forgotten."""
        key = Key(_Kind.NAME, name)
        found = self._known.get(key) or self._denied.get(key)
        return None if found is None else found[1]

    async def _find(self, key: Key, question: Question, client: Client) -> Found:
        known = self._recalled(key)
        if known is not None:
            return known
        holder, generation = await self._look_ups.ask(key, question, source=network_of(client))
        assert not isinstance(holder, list)
        found = _found(holder, generation)
        if generation == self.generation:
            self._remember(key, found)
        return found

    def _recalled(self, key: Key) -> Found | None:
        known = self._known.get(key) or self._denied.get(key)
        return known[1] if known is not None and known[0] > self._clock() else None

    def is_current(self, identity: Identity) -> bool:
        """Whether the device's connections have not been closed by an order since `identity` was looked up."""
        return self._disconnected_at.get(identity.device_id, self._all_disconnected_at) <= identity.as_of

    def forget(self, device_ids: set[int]) -> None:
        """Forgets devices that are being disconnected, and all that lets nobody in."""
        self.generation += 1
        for device_id in device_ids:
            self._disconnected_at[device_id] = self.generation
            self._disconnected_at.move_to_end(device_id)
        while len(self._disconnected_at) > CACHE_SIZE:  # of look-ups that began so many orders ago none is under way
            self._disconnected_at.popitem(last=False)
        self._known = OrderedDict(
            (key, (expires, identity))
            for key, (expires, identity) in self._known.items()
            if identity.device_id not in device_ids
        )
        self._denied.clear()

    def forget_all(self) -> None:
        """Forgets every device: the database in which they were looked up is another now."""
        self.generation += 1
        self._all_disconnected_at = self.generation
        self._disconnected_at.clear()
        self._known.clear()
        self._denied.clear()

    def _remember(self, key: Key, found: Found) -> None:
        # Two memories: whoever tries one wrong token after the other must not push out the valid ones.
        if isinstance(found, Identity):
            self._denied.pop(key, None)
            valid_s = CACHE_S if found.valid_until is None else (found.valid_until - timezone.now()).total_seconds()
            _put(self._known, key, (self._clock() + min(CACHE_S, valid_s), found), CACHE_SIZE)
        else:
            self._known.pop(key, None)
            _put(self._denied, key, (self._clock() + NEGATIVE_CACHE_S, found), NEGATIVE_CACHE_SIZE)


def _put(memory: OrderedDict[Key, T], key: Key, value: T, size: int) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > size:
        memory.popitem(last=False)


def read_credentials(questions: dict[Key, Question]) -> dict[Key, Answer]:
    """Answers a group of questions of a `DeviceDirectory`, with a query for each kind of credential."""
    by_kind: dict[_Kind, dict[Key, Any]] = {}
    for key, question in questions.items():
        by_kind.setdefault(key.kind, {})[key] = question
    answers: dict[Key, Answer] = {}
    for kind, group in by_kind.items():
        answers.update(_READERS[kind](group))
    return answers


def _by_token(hints: dict[Key, str]) -> dict[Key, Answer]:
    answers: dict[Key, Answer] = {key: f"unknown token {hint}" for key, hint in hints.items()}
    rows = Credential.objects.filter(token_sha256__in=[key.value for key in hints])
    for token_sha256, hint, revoked_at, *device in rows.values_list(
        "token_sha256", "hint", "revoked_at", *HOLDER_FIELDS
    ):
        answers[Key(_Kind.TOKEN, token_sha256)] = Holder(f"token …{hint}", revoked_at, *device)
    return answers


def _by_name(names: dict[Key, str]) -> dict[Key, Answer]:
    answers: dict[Key, Answer] = {key: f"there is no device {name!r}" for key, name in names.items()}
    rows = Device.objects.filter(name__in=[name for name in names.values() if "\0" not in name])  # PostgreSQL has none
    for device in rows.values_list("pk", "name", "enabled", "type__profile"):
        answers[Key(_Kind.NAME, device[1])] = Holder("name", None, *device)
    return answers


def _by_user_name(names: dict[Key, UserName]) -> dict[Key, Answer]:
    logins = logins_of(set(names.values()))
    return {key: logins[name] for key, name in names.items()}


_READERS: Final[Mapping[_Kind, Callable[[dict[Key, Any]], Mapping[Key, Answer]]]] = {
    _Kind.TOKEN: _by_token,
    _Kind.USER_NAME: _by_user_name,
    _Kind.NAME: _by_name,
    _Kind.CERTIFICATE: holders_of,
}


def _found(answer: Holder | str, generation: int) -> Found:
    if isinstance(answer, str):
        return Denied(answer)
    device = f"{printable(answer.name)} ({answer.device_id})"
    if answer.valid_until is not None and answer.valid_until <= timezone.now():
        return Denied(f"{answer.credential} of {device} {answer.end}", answer.valid_until, answer.device_id)
    if not answer.enabled:
        return Denied(f"device {device} is disabled", None, answer.device_id)
    try:
        profile = profile_of(answer.profile)
    except UnknownProfileError as error:
        return Denied(f"device {device} has a type that nothing reads: {error}", None, answer.device_id)
    return Identity(answer.device_id, answer.name, profile, generation, answer.valid_until)


def _span(span: timedelta) -> str:
    """About how long: "40 s", "5 min", "2 h", "3 d"."""
    seconds = max(0, round(span.total_seconds()))
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
