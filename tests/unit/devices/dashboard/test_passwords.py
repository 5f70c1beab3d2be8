"""What bounds the guessing of people's passwords: at every view that asks for one."""

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth import aauthenticate, authenticate
from django.contrib.auth.hashers import PBKDF2PasswordHasher, check_password, get_hasher, make_password
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from prometheus_client import REGISTRY

from devices import passwords
from devices.passwords import FAILED_OF_ADDRESS, FAILED_OF_USER, IN_HAND, IN_HAND_OF_ADDRESS, Guesses

PASSWORD = "correct horse"
COUNTER = "gateway_password_logins_refused_total"


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def guesses(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Guesses:
    made = Guesses(clock=clock)
    monkeypatch.setattr(passwords, "guesses", made)
    return made


@pytest.fixture
def quick(settings: Any) -> None:
    """Hashes that cost nothing."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def admin(quick: None, db: None) -> User:
    return User.objects.create_superuser("admin", password=PASSWORD)


def addresses(patterns: list[Any], prefix: str = "") -> Iterator[str]:
    """The addresses of the pages that take no arguments."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from addresses(pattern.url_patterns, prefix + str(pattern.pattern))
        elif isinstance(pattern, URLPattern) and not pattern.pattern.converters and "(" not in str(pattern.pattern):
            yield f"/{prefix}{pattern.pattern}"


LOGINS = ["/login/", "/admin/login/"]


def log_in(client: Client, path: str, username: str, password: str, address: str = "192.0.2.1") -> Any:
    fields = {"username": username, "password": password, "next": "/"}
    return client.post(path, fields, REMOTE_ADDR=address)


def count(reason: str) -> float:
    return REGISTRY.get_sample_value(COUNTER, {"reason": reason}) or 0


def test_the_views_that_strangers_give_a_password_to_are_those_tested_here(client: Client, db: None) -> None:
    found = [path for path in addresses(get_resolver().url_patterns) if b'type="password"' in client.get(path).content]

    assert sorted(found) == sorted(LOGINS)


@pytest.mark.parametrize("path", LOGINS)
class TestGuessing:
    def test_who_guesses_is_answered_429_and_is_in_the_log_and_at_metrics(
        self, client: Client, admin: User, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        failed, refused = count("failed"), count("too many failed logins")

        answers = [log_in(client, path, "admin", f"guess {number}") for number in range(FAILED_OF_USER + 1)]

        assert [answer.status_code for answer in answers] == [200] * FAILED_OF_USER + [429]
        assert answers[-1]["Retry-After"] == "12"
        assert "Wait 12 s" in answers[-1].content.decode()
        assert caplog.messages[0] == "refused a login as admin from 192.0.2.1: wrong password"
        assert caplog.messages[-1] == "refused a login as admin from 192.0.2.1: too many failed logins"
        assert count("failed") == failed + FAILED_OF_USER
        assert count("too many failed logins") == refused + 1

    def test_the_right_password_is_not_looked_at_there_and_is_elsewhere(
        self, client: Client, admin: User, path: str
    ) -> None:
        for number in range(FAILED_OF_USER):
            log_in(client, path, "admin", f"guess {number}")

        assert log_in(client, path, "admin", PASSWORD).status_code == 429
        assert log_in(Client(), path, "admin", PASSWORD, "192.0.2.2").status_code == 302

    def test_a_password_is_looked_at_again_as_the_minute_passes(
        self, client: Client, admin: User, path: str, clock: Clock
    ) -> None:
        for number in range(FAILED_OF_USER):
            log_in(client, path, "admin", f"guess {number}")
        clock.now_s += 12.5

        assert log_in(client, path, "admin", PASSWORD).status_code == 302

    def test_users_who_do_not_exist_count_for_the_address(self, client: Client, admin: User, path: str) -> None:
        answers = [log_in(client, path, f"user-{number}", "guess") for number in range(FAILED_OF_ADDRESS + 1)]

        assert [answer.status_code for answer in answers] == [200] * FAILED_OF_ADDRESS + [429]
        assert log_in(client, path, "admin", PASSWORD).status_code == 429

    def test_right_passwords_do_not_count(self, client: Client, admin: User, path: str) -> None:
        answers = {log_in(Client(), path, "admin", PASSWORD).status_code for _ in range(2 * FAILED_OF_ADDRESS)}

        assert answers == {302}

    @pytest.mark.parametrize(
        ("username", "password", "line"),
        [
            ("nobody", "x", "refused a login as nobody from 192.0.2.1: no such user"),
            ("left", PASSWORD, "refused a login as left from 192.0.2.1: the user is not active"),
            ("left", "x", "refused a login as left from 192.0.2.1: wrong password"),
            ("a\x1b[2J\nforged", "x", r"refused a login as a\x1b[2J\nforged from 192.0.2.1: no such user"),
        ],
    )
    def test_the_log_says_why_and_the_page_says_the_same_of_all(
        self, admin: User, path: str, username: str, password: str, line: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        User.objects.create_user("left", password=PASSWORD, is_active=False)
        client = Client()

        text = log_in(client, path, username, password).content.decode()

        assert caplog.messages == [line]
        assert "enter" in text.lower()
        assert "correct" in text
        assert "active" not in text

    def test_a_client_of_a_unix_socket_has_an_account_too(self, client: Client, admin: User, path: str) -> None:
        statuses = [log_in(client, path, "admin", f"guess {number}", "").status_code for number in range(6)]

        assert statuses[-1] == 429


def test_code_that_authenticates_without_a_request_is_bounded_as_well(admin: User) -> None:
    assert authenticate(username="admin", password=PASSWORD) == admin
    for _ in range(FAILED_OF_USER):
        assert authenticate(username="admin", password="guess") is None

    with pytest.raises(passwords.TooManyPasswordsError):
        authenticate(username="admin", password=PASSWORD)


@pytest.mark.django_db(transaction=True)
async def test_asynchronous_code_is_too(quick: None) -> None:
    user = await User.objects.acreate(username="admin", password=make_password(PASSWORD))
    assert await aauthenticate(username="admin", password=PASSWORD) == user
    for _ in range(FAILED_OF_USER):
        assert await aauthenticate(username="admin", password="guess") is None

    with pytest.raises(passwords.TooManyPasswordsError):
        await aauthenticate(username="admin", password=PASSWORD)


class TestAtOnce:
    def test_one_address_has_a_share_of_the_logins_that_are_under_way(
        self, client: Client, admin: User, guesses: Guesses, caplog: pytest.LogCaptureFixture
    ) -> None:
        attempts = [guesses.attempt("192.0.2.1", f"user-{number}") for number in range(IN_HAND_OF_ADDRESS)]
        for attempt in attempts:
            attempt.__enter__()

        answer = log_in(client, "/login/", "admin", PASSWORD)
        elsewhere = log_in(Client(), "/login/", "admin", PASSWORD, "192.0.2.2")
        for attempt in attempts:
            attempt.__exit__(None, None, None)

        assert (answer.status_code, answer["Retry-After"]) == (503, "2")
        assert "Too many people log in at once" in answer.content.decode()
        assert caplog.messages == ["refused a login as admin from 192.0.2.1: too many logins at once"]
        assert elsewhere.status_code == 302
        assert log_in(client, "/login/", "admin", PASSWORD).status_code == 302
        assert not guesses._under_way

    def test_a_login_that_was_not_looked_at_is_none_that_failed(
        self, client: Client, admin: User, monkeypatch: pytest.MonkeyPatch, settings: Any
    ) -> None:
        settings.PASSWORD_HASHERS = ["devices.passwords.OneAtATimeHasher"]
        User.objects.filter(pk=admin.pk).update(password=make_password(PASSWORD))
        monkeypatch.setattr(passwords._hashing, "_room", threading.BoundedSemaphore(1))
        with passwords._hashing._room:
            statuses = {log_in(client, "/login/", "admin", PASSWORD).status_code for _ in range(2 * FAILED_OF_USER)}

        assert statuses == {503}
        assert log_in(client, "/login/", "admin", PASSWORD).status_code == 302

    def test_whoever_changes_a_password_meanwhile_is_asked_to_come_again(
        self, admin: User, monkeypatch: pytest.MonkeyPatch, settings: Any
    ) -> None:
        """A view that hashes without logging anybody in."""
        settings.PASSWORD_HASHERS = ["devices.passwords.OneAtATimeHasher"]
        admin.set_password(PASSWORD)
        admin.save()
        client = Client()
        client.force_login(admin)
        monkeypatch.setattr(passwords._hashing, "_room", threading.BoundedSemaphore(1))
        fields = {"old_password": PASSWORD, "new_password1": "battery staple", "new_password2": "battery staple"}
        with passwords._hashing._room:
            answer = client.post("/admin/password_change/", fields)

        assert answer.status_code == 503


class TestHashing:
    def test_hashes_are_those_of_django(self) -> None:
        old = PBKDF2PasswordHasher().encode(PASSWORD, "salt", 1_000)

        assert get_hasher("default").encode(PASSWORD, "salt", 1_000) == old
        assert check_password(PASSWORD, old)
        assert not check_password("wrong", old)

    def test_one_is_made_at_a_time_in_a_thread_that_gives_way(self) -> None:
        niceness = set()

        def hash_one() -> str:
            if sys.platform == "linux":
                niceness.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return threading.current_thread().name

        with ThreadPoolExecutor(IN_HAND) as callers:
            threads = set(callers.map(lambda _: passwords._hashing.call(hash_one), range(IN_HAND)))

        assert len(threads) == 1
        if sys.platform == "linux":
            assert niceness == {os.getpriority(os.PRIO_PROCESS, 0) + passwords.NICENESS}
