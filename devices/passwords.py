"""Limits the guessing of people's passwords, wherever a view asks for one.

A wrong password is known by its hash, which takes a core for a third of a second. So one is made at a time, in a thread
that gives way to every other; few may wait for it; and each address has an account of failed logins, and each user at
each address a smaller one. Who guesses a user's password from one address keeps the user out there, and nowhere else.

All of it is per process. `PasswordBackend` and `OneAtATimeHasher` are in Django's settings, so that any view that calls
`authenticate` is bounded; `PasswordsMiddleware` turns the refusals into pages.
"""

import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render

from devices import metrics
from devices.limits import per_minute
from gateway.dispatch.threads import default_pool_size
from protocols.addresses import network_of
from protocols.log_lines import PeerLog
from protocols.masking import printable

peer_log = PeerLog("gateway.auth")

FAILED_OF_ADDRESS: Final = 20
"""Failed logins of one address in a minute."""
FAILED_OF_USER: Final = 5
"""Failed logins of one user, who need not exist, at one address in a minute."""
IN_HAND: Final = max(2, default_pool_size() // 2)
"""Passwords that are hashed or wait for it: each occupies one of the threads that make pages."""
IN_HAND_OF_ADDRESS: Final = max(1, IN_HAND // 2)
"""Logins of one address that are under way."""
NICENESS: Final = 10
"""The niceness of hashing beside the threads that serve devices, on Linux: a tenth of a core where all are busy."""

FAILED: Final = "failed"
FAILED_OFTEN: Final = "too many failed logins"
BUSY: Final = "too many logins at once"

_MAX_NAME: Final = 150


class TooManyPasswordsError(Exception):
    """Raised when a password is not checked: too many were wrong, or too many are being checked."""

    def __init__(self, reason: str, status: int, retry_after_s: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.retry_after_s = retry_after_s


class Guesses:
    """The failed logins of people, and the logins under way. Used by threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._lock = threading.Lock()
        self._clock = clock
        self._of_address = per_minute(FAILED_OF_ADDRESS)
        self._of_user = per_minute(FAILED_OF_USER)
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def attempt(self, network: str, username: str) -> Iterator[Callable[[], None]]:
        """Around a login. It counts as failed, from before the password is checked, unless the function that is yielded
        is called: so many at once are not each the first. Raises TooManyPasswordsError."""
        with self._lock:
            now = self._clock()
            buckets = self._of_address.of(network, now), self._of_user.of((network, username), now)
            wait_s = max(bucket.wait_s(1, now) for bucket in buckets)
            if wait_s:
                raise TooManyPasswordsError(FAILED_OFTEN, 429, math.ceil(wait_s))
            if self._under_way[network] >= IN_HAND_OF_ADDRESS:
                raise _busy()
            self._under_way[network] += 1
            for bucket in buckets:
                bucket.take()

        def was_none() -> None:
            with self._lock:
                for bucket in buckets:
                    bucket.give_back()

        try:
            yield was_none
        except TooManyPasswordsError:
            was_none()  # nobody has looked at the password
            raise
        finally:
            with self._lock:
                self._under_way[network] -= 1
                if not self._under_way[network]:
                    del self._under_way[network]


guesses = Guesses()
"""Those of the process: Django makes a backend for each login."""


class PasswordBackend(ModelBackend):
    """Django's users and passwords, within bounds, with a line in the log for each login that is refused."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> Any:
        """The user, or None. Raises TooManyPasswordsError."""
        if username is None:
            username = kwargs.get(get_user_model().USERNAME_FIELD)
        if username is None or password is None:
            return None
        address = request.META.get("REMOTE_ADDR") if request is not None else None
        client = (address, 0) if address else None
        self._inactive = False
        try:
            with guesses.attempt(network_of(client), username[:_MAX_NAME]) as was_none:
                user = super().authenticate(request, username=username, password=password)
                if user is not None:
                    was_none()
                    return user
        except TooManyPasswordsError as error:
            self._refused(client, username, error.reason, error.reason)
            raise
        self._refused(client, username, FAILED, self._why(username))
        return None

    async def aauthenticate(self, request: HttpRequest | None, *args: Any, **kwargs: Any) -> Any:
        # Django's own would bypass `authenticate`.
        return await sync_to_async(self.authenticate)(request, *args, **kwargs)

    def user_can_authenticate(self, user: Any) -> bool:
        """Called when the password is right."""
        allowed = super().user_can_authenticate(user)
        self._inactive = not allowed
        return allowed

    def _why(self, username: str) -> str:
        if self._inactive:
            return "the user is not active"
        users = get_user_model()._default_manager
        return "wrong password" if users.filter(**_named(username)).exists() else "no such user"

    def _refused(self, client: tuple[str, int] | None, username: str, reason: str, why: str) -> None:
        metrics.password_logins_refused.labels(reason).inc()
        who = printable(username[:_MAX_NAME])
        where = client[0] if client else "a local socket"
        peer_log.warning(client, "refused a login as %s from %s: %s", who, where, why, kind=f"login {reason}")


def _named(username: str) -> dict[str, str]:
    return {get_user_model().USERNAME_FIELD: username}


class OneAtATimeHasher(PBKDF2PasswordHasher):
    """Django's own hasher: the same hashes, one at a time in the whole process."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        """Raises TooManyPasswordsError."""
        return _hashing.call(lambda: super(OneAtATimeHasher, self).encode(password, salt, iterations))


class _Hashing:
    """The thread that hashes."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="passwords", initializer=give_way)
        self._room = threading.BoundedSemaphore(IN_HAND)

    def call(self, function: Callable[[], str]) -> str:
        if not self._room.acquire(blocking=False):
            raise _busy()
        try:
            return self._thread.submit(function).result()
        finally:
            self._room.release()


def give_way() -> None:
    """Gives this thread less of a core than those that serve devices."""
    if sys.platform == "linux":  # where a thread has a niceness of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


_hashing: Final = _Hashing()


def _busy() -> TooManyPasswordsError:
    return TooManyPasswordsError(BUSY, 503, 2)


_EXPLANATIONS: Final = {
    FAILED_OFTEN: "There were too many failed logins. Wait {} s, then try again.",
    BUSY: "Too many people log in at once. Try again in {} s.",
}


class PasswordsMiddleware:
    """Answers with the page for a password that was not looked at, 429 or 503 with Retry-After."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Called with what a view has raised."""
        if not isinstance(exception, TooManyPasswordsError):
            return None
        explanation = _EXPLANATIONS[exception.reason].format(exception.retry_after_s)
        context = {"heading": "Not now", "explanation": explanation}
        response = render(request, "devices/error.html", context, status=exception.status)
        response["Retry-After"] = str(exception.retry_after_s)
        response["Cache-Control"] = "no-store"
        response._has_been_logged = True  # type: ignore[attr-defined]  # else Django adds a line
        return response
