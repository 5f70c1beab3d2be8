"""Access tokens: made, looked up and revoked.

A token has 190 random bits, so its plain SHA-256 is all that is kept: nobody guesses such a token from its hash, and
looking a hash up in a unique index takes no secret-dependent time that would help to guess another one.
"""

import functools
import hashlib
import secrets
import ssl
import string
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from django.db import transaction
from django.utils import timezone

from devices.certificates import device_of
from devices.models import CertificateName, ConnectionCut, Credential, Device
from devices.profiles import PROFILES, Profile
from gateway.db import database_sync_to_async

TOKEN_LENGTH: Final = 32
_SHORTEST_LIKELY: Final = 16
_ALPHABET: Final = string.ascii_letters + string.digits

CACHE_SIZE: Final = 20_000
CACHE_S: Final = 300.0
NEGATIVE_CACHE_S: Final = 5.0
MAX_TOKEN_LENGTH: Final = 128


@dataclass(frozen=True, slots=True)
class Identity:
    """A device as its connections know it. `as_of` is the directory's generation when it was looked up."""

    device_id: int
    name: str
    profile: Profile
    as_of: int


def hash_of(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def looks_like_token(text: str) -> bool:
    """Whether somebody who gives this for a user name means a token: nobody has a name like that."""
    return len(text) >= _SHORTEST_LIKELY and text.isascii() and text.isalnum()


def issue(device: Device) -> str:
    """A new token for `device`, which from now on is known to its holder only."""
    token = "".join(secrets.choice(_ALPHABET) for _ in range(TOKEN_LENGTH))
    Credential.objects.create(device=device, token_sha256=hash_of(token), hint=token[-4:])
    return token


@transaction.atomic
def revoke(credential: Credential, *, reason: str = "credential revoked") -> None:
    """Makes a credential useless, and cuts the connections of its device: every gateway sees that within a second."""
    if credential.revoked_at is None:
        credential.revoked_at = timezone.now()
        credential.save(update_fields=["revoked_at"])
    cut(credential.device, reason)


@transaction.atomic
def distrust(name: CertificateName) -> None:
    """Lets no holder of a certificate of this name in any more, and cuts the connections of its device."""
    if name.revoked_at is None:
        name.revoked_at = timezone.now()
        name.save(update_fields=["revoked_at"])
    cut(name.device, "certificate revoked")


@transaction.atomic
def rotate(device: Device) -> str:
    """Revokes every credential of `device` and issues a new one."""
    device.credentials.filter(revoked_at=None).update(revoked_at=timezone.now())
    cut(device, "credentials rotated")
    return issue(device)


@transaction.atomic
def set_enabled(device: Device, enabled: bool) -> None:
    """Lets `device` in, or cuts it off and keeps it out."""
    device.enabled = enabled
    device.save(update_fields=["enabled"])
    cut(device, "enabled" if enabled else "disabled")


def cut(device: Device, reason: str) -> None:
    """Orders every gateway to close the connections of `device` and to look its credentials up anew."""
    ConnectionCut.objects.create(device_id=device.pk, reason=reason)


def cut_deleted(sender: type[Device], instance: Device, **kwargs: Any) -> None:
    """A receiver of pre_delete: the connections of a device that is deleted end too."""
    cut(instance, "deleted")


LookUp: TypeAlias = Callable[[str, int], "Identity | None"]
"""From a key of the directory and its generation to what the database has for it."""


class Directory:
    """Looks devices up, by token or name, and remembers what it found: for minutes, and for seconds what is not there.

    `generation` rises with each batch of cuts. What was looked up before one may be out of date: it is not remembered,
    and `is_current` tells.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self.generation = 0
        self._clock = clock
        self._cache: OrderedDict[str, tuple[float, Identity | None]] = OrderedDict()
        self._cut_at: OrderedDict[int, int] = OrderedDict()

    async def authenticate(self, token: str) -> Identity | None:
        """The device whose valid token this is, if there is one. Raises what the database driver raises."""
        if not token or len(token) > MAX_TOKEN_LENGTH:
            return None
        return await self._find(hash_of(token), _by_token)

    def knows(self, token: str) -> bool:
        """Whether the token was found valid lately, so that `authenticate` asks nobody."""
        known = self._cache.get(hash_of(token)) if len(token) <= MAX_TOKEN_LENGTH else None
        return known is not None and known[1] is not None and known[0] > self._clock()

    async def certified(self, pem: str) -> Identity | None:
        """The device whose client certificate this is, if there is one. Raises what the database driver raises."""
        certificate = ssl.PEM_cert_to_DER_cert(pem)
        key = f"certificate {hashlib.sha256(certificate).hexdigest()}"
        return await self._find(key, functools.partial(_by_certificate, certificate))

    async def named(self, name: str) -> Identity | None:
        """The device of this name, for who has been authenticated by others; None if it is disabled or not there.

        Raises what the database driver raises.
        """
        return await self._find(f"name {name}", _by_name)

    async def _find(self, key: str, look_up: "LookUp") -> Identity | None:
        known = self._cache.get(key)
        if known is not None and known[0] > self._clock():
            return known[1]
        generation = self.generation
        identity = await database_sync_to_async(look_up)(key, generation)
        if generation == self.generation:
            self._remember(key, identity)
        return identity

    def is_current(self, identity: Identity) -> bool:
        """Whether the device's connections have not been cut since `identity` was looked up."""
        return self._cut_at.get(identity.device_id, 0) <= identity.as_of

    def forget(self, device_ids: set[int]) -> None:
        """Forgets devices whose connections are being cut, and all unknown tokens."""
        self.generation += 1
        for device_id in device_ids:
            self._cut_at[device_id] = self.generation
            self._cut_at.move_to_end(device_id)
        while len(self._cut_at) > CACHE_SIZE:  # of lookups that began so many cuts ago none is under way
            self._cut_at.popitem(last=False)
        self._cache = OrderedDict(
            (key, (expires, identity))
            for key, (expires, identity) in self._cache.items()
            if identity is not None and identity.device_id not in device_ids
        )

    def _remember(self, key: str, identity: Identity | None) -> None:
        expires = self._clock() + (NEGATIVE_CACHE_S if identity is None else CACHE_S)
        self._cache[key] = (expires, identity)
        self._cache.move_to_end(key)
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)


def _by_token(token_sha256: str, generation: int) -> Identity | None:
    credential = (
        Credential.objects.select_related("device__type")
        .filter(token_sha256=token_sha256, revoked_at=None, device__enabled=True)
        .first()
    )
    if credential is None:
        return None
    return _identity(credential.device, generation)


def _by_certificate(certificate: bytes, key: str, generation: int) -> Identity | None:
    device = device_of(certificate)
    return None if device is None else _identity(device, generation)


def _by_name(key: str, generation: int) -> Identity | None:
    name = key.removeprefix("name ")
    if "\0" in name:  # which PostgreSQL does not take
        return None
    device = Device.objects.select_related("type").filter(name=name, enabled=True).first()
    return None if device is None else _identity(device, generation)


def _identity(device: Device, generation: int) -> Identity:
    return Identity(device.pk, device.name, PROFILES[device.type.profile], generation)
