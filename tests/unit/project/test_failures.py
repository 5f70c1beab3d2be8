"""A page that cannot be made: 503 and words while the database cannot be used, 400 for a host that is none of ours."""

import logging
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.models import Session
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, path

from gateway.databases.sqlite.base import create_private
from gateway.serve.logs import RefusedRequests
from project.sessions import SessionStore
from protocols.log_lines import log_shares
from tests.support.databases import configuration_of, default_database, settings_of, sqlite_settings

HTML = "text/html,application/xhtml+xml,*/*;q=0.8"
COOKIES = {settings.SESSION_COOKIE_NAME: "a" * 32}


@contextmanager
def locked(file: Path) -> Iterator[dict[str, Any]]:
    settings = sqlite_settings(file)
    settings["OPTIONS"] = {**settings["OPTIONS"], "timeout": 0.01, "init_command": ""}
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")  # so that readers are locked out, too
        other.execute("BEGIN EXCLUSIVE")
        yield settings


@contextmanager
def missing(file: Path) -> Iterator[dict[str, Any]]:
    file.unlink()
    yield sqlite_settings(file)


@contextmanager
def corrupt(file: Path) -> Iterator[dict[str, Any]]:
    file.write_bytes(b"this is no database" * 1_000)
    yield sqlite_settings(file)


@contextmanager
def without_tables(file: Path) -> Iterator[dict[str, Any]]:
    file.unlink()
    create_private(file)
    yield sqlite_settings(file)


@contextmanager
def refusing(file: Path) -> Iterator[dict[str, Any]]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    yield settings_of(configuration_of(f"postgresql://somebody:secret@127.0.0.1:{port}/readings"))


Outage = Callable[[Path], AbstractContextManager[dict[str, Any]]]
OUTAGES: list[Outage] = [locked, missing, corrupt, without_tables, refusing]


@pytest.fixture(params=OUTAGES, ids=lambda outage: outage.__name__)
def outage(request: pytest.FixtureRequest, sqlite_database: Path) -> Iterator[None]:
    """`default` cannot be used."""
    log_shares.forget()
    with request.param(sqlite_database) as settings, default_database(settings):
        yield


def addresses(patterns: list[Any] | None = None, prefix: str = "/") -> Iterator[str]:
    """Every address that Django serves, with 1 for what is variable."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + re.sub(r"<(\w+:)?\w+>", "1", str(pattern.pattern))
        if isinstance(pattern, URLResolver):
            yield from addresses(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern) and "(?P" not in route:
            yield route.replace("^", "").removesuffix("$")


def browser() -> Client:
    client = Client(raise_request_exception=False, headers={"accept": HTML})
    client.cookies.load(COOKIES)
    return client


class TestWithoutADatabase:
    def test_every_address_is_answered_in_words_or_needs_none(self, outage: None) -> None:
        answers = {address: browser().get(address) for address in addresses()}

        assert {"/", "/login/", "/admin/", "/admin/gateway_devices/device/", "/devices/1/history"} <= set(answers)
        assert {address: answer.status_code for address, answer in answers.items() if answer.status_code == 500} == {}
        for answer in answers.values():
            if answer.status_code == 503:
                assert answer["Retry-After"] == "5"
                assert "The database cannot be used" in answer.content.decode()
                assert "default-src 'none'" in answer["Content-Security-Policy"]
        assert answers["/"].status_code == answers["/admin/"].status_code == 503

    def test_a_login_is_told_to_try_again(self, outage: None) -> None:
        answer = browser().post("/login/", {"username": "admin", "password": "secret"})

        assert answer.status_code == 503

    def test_a_program_is_told_in_json(self, outage: None) -> None:
        client = Client(raise_request_exception=False)
        client.cookies.load(COOKIES)
        answer = client.get("/devices/1/history?key=temperature&range=1h")

        assert (answer.status_code, answer["Retry-After"]) == (503, "5")
        assert "try again" in answer.json()["error"]

    def test_the_log_has_one_line_with_the_reason_and_no_password(
        self, outage: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        browser().get("/")

        (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert re.match(
            r"cannot answer GET /: the database cannot be used: .+ \(.+\)|.+ 127\.0\.0\.1", line.getMessage()
        )
        assert "secret" not in caplog.text
        assert not line.exc_info
        assert "\n" not in line.getMessage()


def fails(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("nobody has foreseen this")


def remembers(request: HttpRequest) -> HttpResponse:
    request.session["remembered"] = True
    return HttpResponse("remembered")


urlpatterns = [path("fails/", fails), path("remembers/", remembers)]


@contextmanager
def read_only_sqlite(request: pytest.FixtureRequest) -> Iterator[None]:
    settings = sqlite_settings(request.getfixturevalue("sqlite_database"))
    settings["OPTIONS"] = {**settings["OPTIONS"], "init_command": "PRAGMA query_only = ON"}
    with default_database(settings):
        yield


@contextmanager
def locked_sqlite(request: pytest.FixtureRequest) -> Iterator[None]:
    file = request.getfixturevalue("sqlite_database")
    settings = sqlite_settings(file)
    settings["OPTIONS"] = {**settings["OPTIONS"], "timeout": 0.01}
    with closing(sqlite3.connect(file, isolation_level=None)) as other, default_database(settings):
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def read_only_postgresql(request: pytest.FixtureRequest) -> Iterator[None]:
    server, name = request.getfixturevalue("postgres_server"), request.getfixturevalue("postgresql_database")
    settings = settings_of(configuration_of(f"{server.url(name)}?options=-c%20default_transaction_read_only%3Don"))
    with default_database(settings):
        yield


@contextmanager
def locked_postgresql(request: pytest.FixtureRequest) -> Iterator[None]:
    server, name = request.getfixturevalue("postgres_server"), request.getfixturevalue("postgresql_database")
    settings = settings_of(configuration_of(f"{server.url(name)}?options=-c%20lock_timeout%3D50ms"))
    with server.connect(name) as other, other.transaction(), default_database(settings):
        other.execute("LOCK TABLE auth_user, django_session IN SHARE MODE")
        yield


class TestADatabaseThatCanBeReadAndNotWritten:
    @pytest.mark.parametrize(
        ("database", "outage"),
        [
            ("sqlite_database", read_only_sqlite),
            ("sqlite_database", locked_sqlite),
            ("postgresql_database", read_only_postgresql),
            ("postgresql_database", locked_postgresql),
        ],
    )
    def test_a_login_and_whatever_changes_a_session_are_told_to_try_again_and_the_rest_is_answered(
        self, database: str, outage: Any, request: pytest.FixtureRequest, settings: Any
    ) -> None:
        request.getfixturevalue(database)
        user = get_user_model().objects.create_superuser("admin", password="secret")
        known = browser()
        known.force_login(user)

        with outage(request):
            assert browser().post("/login/", {"username": "admin", "password": "secret"}).status_code == 503
            assert known.get("/").status_code == 200
            settings.ROOT_URLCONF = __name__
            assert known.get("/remembers/").status_code == 503
        assert known.get("/remembers/").status_code == 200

    def test_a_session_that_was_deleted_meanwhile_is_no_outage(self, sqlite_database: Path) -> None:
        store = SessionStore()
        store.create()
        Session.objects.all().delete()

        with pytest.raises(UpdateError):
            store.save()


class TestAnError:
    @pytest.mark.parametrize(("accept", "words"), [(HTML, "The gateway failed"), ("*/*", '{"error": "this failed')])
    def test_an_error_is_a_page_or_json_and_a_traceback_in_the_log(
        self, accept: str, words: str, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.ROOT_URLCONF = __name__
        log_shares.forget()

        answer = Client(raise_request_exception=False, headers={"accept": accept}).get("/fails/")

        assert answer.status_code == 500
        assert words in answer.content.decode()
        assert "Traceback" in caplog.text
        assert "nobody has foreseen this" in caplog.text


class TestAHostThatIsNoneOfOurs:
    def test_the_page_names_the_keys_and_what_to_write(self) -> None:
        answer = Client(headers={"accept": HTML, "host": "192.168.1.5:8000"}).get("/")

        page = answer.content.decode()
        assert answer.status_code == 400
        assert "192.168.1.5:8000" in page
        assert "public_url = &quot;http://192.168.1.5:8000&quot;" in page
        assert "allowed_hosts = [&quot;192.168.1.5&quot;]" in page

    def test_a_program_that_names_another_host_is_told_in_json(self) -> None:
        answer = Client(headers={"host": "gateway.example"}).get("/")

        assert answer.status_code == 400
        assert "server.allowed_hosts" in answer.json()["error"]

    @pytest.mark.parametrize("host", ["192.168.1.5", "[fe80::1]:8000", "", "a b", "<script>", "x\x1b[31m", "\u202ex"])
    def test_whatever_is_asked_for_is_one_printable_line_and_no_markup(
        self, host: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        log_shares.forget()
        answer = Client(headers={"accept": HTML, "host": host}).get("/")

        assert answer.status_code == 400
        (line,) = [record.getMessage() for record in caplog.records]
        assert "server.public_url" in line
        assert line.isprintable()
        assert "<script>" not in answer.content.decode()

    def test_somebody_who_asks_again_and_again_gets_a_few_lines(self, caplog: pytest.LogCaptureFixture) -> None:
        log_shares.forget()
        for number in range(50):
            Client(headers={"host": f"host-{number}.example"}).get("/")

        assert len(caplog.records) < 10


def test_a_request_that_django_refuses_is_a_line_within_the_share_of_its_peer_and_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log_shares.forget()
    caplog.handler.addFilter(refused := RefusedRequests())
    try:
        for _ in range(50):
            too_many = {f"field-{number}": "x" for number in range(2_000)}
            assert Client().post("/login/", too_many).status_code == 400
            assert Client(enforce_csrf_checks=True).post("/login/", {"username": "admin"}).status_code == 403
    finally:
        caplog.handler.removeFilter(refused)

    lines = [record.getMessage() for record in caplog.records if record.name == "gateway.pages"]
    assert any(re.fullmatch(r"refused POST /login/ of .* with 400: .*", line) for line in lines)
    assert any(re.fullmatch(r"refused POST /login/ of .* with 403: .*CSRF.*", line) for line in lines)
    assert len(lines) < 12
    assert "Traceback" not in caplog.text
    assert {record.name for record in caplog.records} == {"gateway.pages"}
