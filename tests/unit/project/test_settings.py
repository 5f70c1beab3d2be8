"""Django's settings follow from the gateway's configuration."""

from pathlib import Path

import pytest

from gateway.config import Config, load
from gateway.config.model import POSTGRESQL_PARAMETERS
from project import settings

PARAMETERS = {**POSTGRESQL_PARAMETERS, "options": "-c lock_timeout=5s"}
ENCRYPTED = "[[listeners]]\nprotocol='http'\nbind='h:1'\n[listeners.tls]\ncertfile='x'\n"


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def configured(text: str = "", **environ: str) -> Config:
    Path("gateway.toml").write_text(text)
    return load(Path("gateway.toml"), environ=environ).config


class TestDatabase:
    def test_sqlite_keeps_what_is_acknowledged_through_a_power_cut(self) -> None:
        database = settings.database(configured())

        assert database["NAME"] == Path("var/gateway.sqlite3")
        assert "journal_mode=WAL" in database["OPTIONS"]["init_command"]
        assert "synchronous=FULL" in database["OPTIONS"]["init_command"]

    def test_people_wait_seconds_for_a_lock_and_for_a_server_that_does_not_answer(self) -> None:
        sqlite = settings.database(configured())["OPTIONS"]
        postgresql = settings.database(configured("[database]\nurl = 'postgresql://h/x'"))["OPTIONS"]

        assert sqlite["timeout"] <= 5
        assert "lock_timeout=5s" in postgresql["options"]
        assert int(postgresql["connect_timeout"]) <= 5

    def test_an_absolute_path_has_four_slashes(self) -> None:
        assert settings.database(configured("[database]\nurl = 'sqlite:////srv/x'"))["NAME"] == Path("/srv/x")

    def test_postgresql_gets_every_part_of_its_url(self) -> None:
        url = "postgresql://gate%40way:p%2Fss@db.example.org:6432/readings?sslmode=require&application_name=gw"

        database = settings.database(configured("", GATEWAY_DATABASE__URL=url))

        assert database["ENGINE"] == "django.db.backends.postgresql"
        assert (database["USER"], database["PASSWORD"]) == ("gate@way", "p/ss")
        assert (database["HOST"], database["PORT"], database["NAME"]) == ("db.example.org", 6432, "readings")
        assert database["OPTIONS"] == PARAMETERS | {"sslmode": "require", "application_name": "gw"}

    def test_postgresql_without_a_host_is_the_local_socket(self) -> None:
        database = settings.database(configured("[database]\nurl = 'postgresql:///readings?host=/run/postgresql'"))

        assert (database["HOST"], database["NAME"]) == ("", "readings")
        assert database["OPTIONS"] == PARAMETERS | {"host": "/run/postgresql"}

    def test_what_its_url_says_of_time_limits_counts(self) -> None:
        database = settings.database(configured("[database]\nurl = 'postgresql://h/x?tcp_user_timeout=5000'"))

        assert database["OPTIONS"] == PARAMETERS | {"tcp_user_timeout": "5000"}

    def test_what_its_url_says_of_options_comes_last_and_counts(self) -> None:
        database = settings.database(configured("[database]\nurl = 'postgresql://h/x?options=-c%20lock_timeout%3D1s'"))

        assert database["OPTIONS"]["options"] == "-c lock_timeout=5s -c lock_timeout=1s"


class TestAllowedHosts:
    def test_by_default_only_this_machine_may_be_named(self) -> None:
        assert settings.allowed_hosts(configured()) == ["127.0.0.1", "[::1]", "localhost"]

    def test_what_is_listened_at_may_be_asked_for_but_every_interface_is_no_name(self) -> None:
        text = "[[listeners]]\nprotocol='http'\nbind='%s:80'\n"

        assert "192.0.2.1" in settings.allowed_hosts(configured(text % "192.0.2.1"))
        assert "[2001:db8::1]" in settings.allowed_hosts(configured(text % "[2001:db8::1]"))
        assert "0.0.0.0" not in settings.allowed_hosts(configured(text % "0.0.0.0"))

    def test_the_public_address_and_further_names_may_too(self) -> None:
        text = "[server]\npublic_url = 'https://gw.example.org:8443'\nallowed_hosts = ['.example.net']"

        assert {"gw.example.org", ".example.net"} <= set(settings.allowed_hosts(configured(text)))

    def test_an_ipv6_address_may_be_asked_for_in_brackets_however_it_is_configured(self) -> None:
        text = "[server]\npublic_url = 'http://[2001:db8::1]:8000'\nallowed_hosts = ['2001:db8::2', '[2001:DB8::3]']"

        expected = {"[2001:db8::1]", "[2001:db8::2]", "[2001:db8::3]"}
        assert expected <= set(settings.allowed_hosts(configured(text)))


class TestEncryption:
    @pytest.mark.parametrize(
        ("text", "encrypted"),
        [
            ("", False),
            ("[server]\npublic_url = 'https://gw.example.org'", True),
            ("[server]\npublic_url = 'http://gw.example.org'", False),
            (ENCRYPTED, True),
            (f"{ENCRYPTED}[[listeners]]\nprotocol='http'\nbind='h:2'", False),
        ],
    )
    def test_cookies_are_for_https_alone_where_browsers_come_by_nothing_else(self, text: str, encrypted: bool) -> None:
        assert settings.is_encrypted(configured(text)) == encrypted


def test_messages_to_people_are_in_no_cookie_of_their_own() -> None:
    assert "Cookie" not in settings.MESSAGE_STORAGE
