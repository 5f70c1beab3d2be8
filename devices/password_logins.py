"""User names and passwords of devices: how passwords are hashed, who has a user name, and checks that are bounded.

A password is stored as Django hashes it. One that a person has chosen takes a core for a third of a second; one that
was made here has 190 random bits, like a token, so one round is enough. Checks go one at a time, in a thread that gives
way to those that serve devices; the addresses take turns, so who guesses delays others by one check. What was right
once is remembered by an HMAC with a key of this process, and is not hashed again while the stored hash is the same.

A check that fails costs one hash of the slow kind, whether the user name is known or not: its time tells nothing.
"""

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from django.contrib.auth.hashers import PBKDF2PasswordHasher

from devices import metrics
from devices.client_certificates import HOLDER_FIELDS, Holder
from devices.look_ups import LookUps
from devices.models import PasswordLogin
from devices.passwords import give_way
from protocols.masking import printable

MAX_LENGTH: Final = 255
"""Characters of a user name, bytes of a password."""
MAX_WAITING: Final = 200
"""Checks that wait at most."""
REMEMBERED: Final = 20_000
"""Passwords that were right."""

_hasher: Final = PBKDF2PasswordHasher()
_NOBODYS: Final = _hasher.encode("", "nobody's salt")
"""What a password is compared with that belongs to no user name."""


class Login(NamedTuple):
    """A user name of a device, valid or not."""

    holder: Holder
    password_hash: str


class UserName(NamedTuple):
    """Who a client says it is."""

    username: str
    client_id: str


def hash_of_password(password: str, *, is_random: bool) -> str:
    """What is stored of a password. Only one that was made here is random."""
    return _hasher.encode(password, _hasher.salt(), iterations=1 if is_random else None)


def logins_of(names: set[UserName]) -> dict[UserName, list[Login]]:
    """The devices that have these user names, for this client identifier or any; the newest first."""
    rows = PasswordLogin.objects.filter(
        username__in={name.username for name in names if "\0" not in name.username},  # PostgreSQL has none
        client_id__in={"", *(name.client_id for name in names if "\0" not in name.client_id)},
    )
    found: dict[UserName, list[Login]] = {}
    for username, client_id, password_hash, revoked_at, *device in rows.order_by("-pk").values_list(
        "username", "client_id", "password", "revoked_at", *HOLDER_FIELDS
    ):
        holder = Holder(f"password of user name {printable(username)}", revoked_at, *device)
        found.setdefault(UserName(username, client_id), []).append(Login(holder, password_hash))
    return {
        name: [login for each in dict.fromkeys((name, UserName(name.username, ""))) for login in found.get(each, ())]
        for name in names
    }


class _Question(NamedTuple):
    password: bytes
    hashes: tuple[str, ...]


class PasswordChecks:
    """Says which of several hashes a password fits."""

    def __init__(self, fits: Callable[[Any, str], bool] = _hasher.verify) -> None:
        """`fits` is called in a thread with a password and a hash."""
        self._fits = fits
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[str, str] = OrderedDict()
        self._checks: LookUps[str, _Question, str | None] = LookUps(
            self._check,
            stamp=lambda: 0,
            measured=metrics.password_checks,
            max_waiting=MAX_WAITING,
            group_size=1,
            thread_name="device-passwords",
            initializer=give_way,
        )

    async def close(self) -> None:
        """Ends the thread."""
        await self._checks.close()

    def seal(self, name: UserName, password: bytes) -> str:
        """What a user name and a password are remembered by."""
        parts = (name.username.encode(), name.client_id.encode(), password)
        framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._key, framed, "sha256").hex()

    async def fitting(self, seal: str, password: bytes, hashes: Sequence[str], source: Hashable) -> str | None:
        """The hash that the password fits, if one does. Raises LookUpError: TooManyLookUpsError if too many wait."""
        remembered = self._right.get(seal)
        if remembered in hashes:
            return remembered
        fitting, _ = await self._checks.ask(seal, _Question(password, tuple(hashes)), source=source)
        if fitting is not None:
            self._right[seal] = fitting
            if len(self._right) > REMEMBERED:
                self._right.popitem(last=False)
        return fitting

    def _check(self, questions: dict[str, _Question]) -> Mapping[str, str | None]:
        return {seal: self._first_fitting(question) for seal, question in questions.items()}

    def _first_fitting(self, question: _Question) -> str | None:
        for each in question.hashes:
            if self._fits(question.password, each):
                return each
        if not any(_is_slow(each) for each in question.hashes):
            self._fits(question.password, _NOBODYS)
        return None


def _is_slow(password_hash: str) -> bool:
    return _hasher.decode(password_hash)["iterations"] != 1
