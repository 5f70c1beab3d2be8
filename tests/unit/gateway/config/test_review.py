"""What `gateway check` says about configurations that are valid."""

import os
from pathlib import Path

import pytest

from gateway.config import load
from gateway.config.review import Finding, review


def findings(text: str, environ: dict[str, str] | None = None) -> dict[str, Finding]:
    """By key; the file can be read by its owner only."""
    file = Path("gateway.toml")
    file.write_text(text)
    file.chmod(0o600)
    return {finding.key: finding for finding in review(load(file, environ=environ or {}))}


def listener(bind: str, more: str = "") -> str:
    return f'[[listeners]]\nprotocol = "http"\nbind = "{bind}"\n{more}\n'


def test_the_defaults_have_no_findings() -> None:
    assert findings("") == {}


@pytest.mark.parametrize("bind", ["127.0.0.1:8000", "[::1]:8000", "localhost:8000", "unix:/run/gateway.sock"])
def test_a_plain_listener_on_this_machine_alone_is_fine(bind: str) -> None:
    assert findings(listener(bind)) == {}


@pytest.mark.parametrize("bind", ["192.0.2.1:8000", "gateway.example.org:8000"])
def test_a_plain_listener_that_others_reach_is_a_risk(bind: str) -> None:
    finding = findings(listener(bind))["listeners.0.bind"]

    assert (finding.level, finding.subject) == ("warning", "security")
    assert "not encrypted" in finding.message


def test_a_dashboard_open_to_all_networks_needs_a_name_by_which_it_may_be_asked_for() -> None:
    everywhere = listener("0.0.0.0:8000")

    assert "no other host name" in findings(everywhere)["listeners.0.bind"].message
    assert "not encrypted" in findings(everywhere + "[server]\nallowed_hosts = ['gw']")["listeners.0.bind"].message


def test_a_certificate_that_cannot_be_used_keeps_the_gateway_from_starting() -> None:
    finding = findings(listener("0.0.0.0:8000", "[listeners.tls]\ncertfile = 'absent.pem'"))["listeners.0.tls"]

    assert finding.level == "error"


BRIDGE = '[[listeners]]\nprotocol = "mqtt-bridge"\nreceive = [{upstream = "a/#"}]\n'


def test_a_file_that_a_listener_names_and_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    bridge = BRIDGE + 'url = "mqtts://broker.example.org"\npassword_file = "upstream.password"'
    finding = findings(bridge)["listeners.0.password_file"]

    assert finding.level == "error"
    assert "upstream.password is not there" in finding.message
    (tmp_path / "upstream.password").write_text("secret")
    assert findings(bridge) == {}


def test_a_bridge_to_another_machine_that_is_not_encrypted_is_a_risk() -> None:
    finding = findings(BRIDGE + 'url = "mqtt://broker.example.org"')["listeners.0.url"]

    assert (finding.level, finding.subject) == ("warning", "security")
    assert findings(BRIDGE + 'url = "mqtt://127.0.0.1:1884"') == {}


def test_a_short_secret_key_is_a_risk() -> None:
    assert "7 characters" in findings("[server]\nsecret_key = 'hunter2'")["server.secret_key"].message


def test_processes_that_share_a_layer_need_one_secret_key() -> None:
    environ = {"GATEWAY_LAYER__URL": "redis://127.0.0.1/0"}

    assert "each process generates its own" in findings("", environ)["server.secret_key"].message
    assert findings("", environ | {"GATEWAY_SERVER__SECRET_KEY": "x" * 50}) == {}


@pytest.mark.parametrize(
    ("url", "risky"),
    [
        ("postgresql://u:p@127.0.0.1/x", False),
        ("postgresql:///x", False),
        ("postgresql://u:p@db.example.org/x", True),
        ("postgresql://u:p@db.example.org/x?sslmode=prefer", True),
        ("postgresql://u:p@db.example.org/x?sslmode=verify-full", False),
    ],
)
def test_a_database_elsewhere_is_to_be_reached_encrypted(url: str, risky: bool) -> None:
    assert ("database.url" in findings("", {"GATEWAY_DATABASE__URL": url})) == risky


@pytest.mark.parametrize("redis", ["layer.url", "mqtt.store"])
def test_a_redis_elsewhere_is_to_be_encrypted_and_have_a_password(redis: str) -> None:
    def said(url: str) -> str:
        variable = f"GATEWAY_{redis.upper().replace('.', '__')}"
        found = findings("", {"GATEWAY_SERVER__SECRET_KEY": "x" * 50, variable: url})
        return found.pop(redis).message if found else ""

    assert "password" in said("rediss://redis.example.org/0")
    assert "encrypted" in said("redis://:p@redis.example.org/0")
    assert said("rediss://:p@redis.example.org/0") == ""


def test_secrets_in_a_file_that_others_can_read_are_a_risk() -> None:
    file = Path("gateway.toml")
    file.write_text("[database]\nurl = 'postgresql://u:p@127.0.0.1/x'")
    file.chmod(0o644)

    (finding,) = review(load(file, environ={}))

    assert finding.key == "database.url"
    assert "GATEWAY_DATABASE__URL_FILE" in finding.hint


def test_a_data_directory_that_others_can_read_is_a_risk() -> None:
    Path("var").mkdir(mode=0o755)

    assert "can be read by other users" in findings("")["data_dir"].message


@pytest.mark.parametrize(
    ("name", "key"),
    [("secret_key", "server.secret_key"), ("gateway.sqlite3", "database.url"), ("mqtt.sqlite3", "data_dir")],
)
def test_a_file_that_others_can_read_is_a_risk_if_one_could_log_in_with_it(name: str, key: str) -> None:
    Path("var").mkdir(mode=0o700)
    file = Path("var", name)
    file.touch(0o600)
    assert key not in findings("")
    file.chmod(0o644)

    assert "can be read by other users" in findings("")[key].message


def test_a_data_directory_that_is_a_file_is_an_error() -> None:
    Path("var").touch()

    assert findings("")["data_dir"].level == "error"


def test_every_host_name_is_too_many() -> None:
    assert findings('[server]\nallowed_hosts = ["*"]')["server.allowed_hosts"].subject == "security"


def test_a_review_changes_nothing() -> None:
    findings(listener("0.0.0.0:8000"))

    assert os.listdir() == ["gateway.toml"]  # noqa: PTH208
