"""A configuration printed as TOML."""

import tomllib
from pathlib import Path

import pytest

from gateway.config import load
from gateway.config.show import mask_url, render


def printed(text: str, *, effective: bool, environ: dict[str, str] | None = None) -> str:
    Path("gateway.toml").write_text(text)
    loaded = load(Path("gateway.toml"), environ=environ or {})
    return render(loaded.config, loaded.origins, effective=effective)


def test_only_what_was_written_is_printed_with_its_origin() -> None:
    text = printed('data_dir = "x"\n[log]\nlevel = "info"', effective=False, environ={"GATEWAY_LOG__FORMAT": "json"})

    assert [line.split() for line in text.splitlines()] == [
        ["data_dir", "=", '"x"', "#", "gateway.toml:1"],
        [],
        ["[log]"],
        ["format", "=", '"json"', "#", "environment", "GATEWAY_LOG__FORMAT"],
        ["level", "=", '"info"', "#", "gateway.toml:3"],
    ]


def test_effective_is_all_of_it_defaults_and_listener_options_included() -> None:
    document = tomllib.loads(printed("", effective=True))

    assert document["data_dir"] == "var"
    assert document["layer"] == {"url": "memory://"}
    assert document["listeners"][0]["bind"] == "127.0.0.1:8000"
    assert document["listeners"][0]["trusted_proxies"] == []


def test_what_is_printed_means_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    text = (
        "[server]\nallowed_hosts = ['ö', 'b\"']\n"
        "[[listeners]]\nprotocol = 'http'\nbind = '[::1]:0'\naccess_log = true\n"
        "[listeners.tls]\ncertfile = 'a.pem'\n"
    )
    before = load(_write(tmp_path / "before.toml", text), environ={})

    after = load(_write(tmp_path / "after.toml", render(before.config, before.origins, effective=True)), environ={})

    assert after.config == before.config


def test_secrets_are_masked_wherever_they_came_from() -> None:
    text = "[server]\nsecret_key = 'hunter2'\n[database]\nurl = 'postgresql://gw:hunter2@db:5432/x?sslmode=require'"

    urls = {f"GATEWAY_{key}": "rediss://:hunter2@redis:6379/0" for key in ("LAYER__URL", "MQTT__STORE")}

    output = printed(text, effective=True, environ=urls)

    assert "hunter2" not in output
    assert 'store = "rediss://:***@redis:6379/0"' in output
    assert 'secret_key = "***"' in output
    assert 'url = "postgresql://gw:***@db:5432/x?sslmode=require"' in output
    assert 'url = "rediss://:***@redis:6379/0"' in output


def test_what_could_have_been_a_secret_and_is_none_is_shown() -> None:
    assert 'store = "sqlite"' in printed("", effective=True)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("memory://", "memory://"),
        ("sqlite:///var/x", "sqlite:///var/x"),
        ("postgresql://u:p%40ss@h/x", "postgresql://u:***@h/x"),
        ("postgresql://u@h/x?password=abc&sslmode=require", "postgresql://u@h/x?password=***&sslmode=require"),
    ],
)
def test_a_url_keeps_all_but_its_secrets(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
