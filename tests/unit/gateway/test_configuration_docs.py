"""docs/configuration.md names every key, and no others."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from gateway.config import Config, ListenerConfig, TlsOptions, load
from protocols.mqtt.options import BrokerOptions

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "configuration.md").read_text()


def keys(cls: type[Any], path: str = "") -> Iterator[str]:
    for name, wanted in get_type_hints(cls).items():
        if dataclasses.is_dataclass(wanted):
            yield from keys(wanted, f"{name}.")  # type: ignore[arg-type]
        elif name not in ("sections", "protocols"):
            yield path + name


def test_the_table_of_keys_is_that_of_the_code() -> None:
    section = DOCUMENT.partition("## Keys")[2].partition("##")[0]

    assert set(re.findall(r"^\| `([a-z_.]+)` \|", section, re.MULTILINE)) == set(keys(Config))


@pytest.mark.parametrize(
    ("heading", "cls", "told_above"),
    [
        ("key of a listener", ListenerConfig, {"protocol", "bind", "tls", "options"}),
        ("key of `[listeners.tls]`", TlsOptions, set()),
        ("key of `[mqtt]`", BrokerOptions, {name for name in get_type_hints(BrokerOptions) if name.startswith("max_")}),
    ],
)
def test_the_tables_of_listeners_and_of_the_broker_are_those_of_the_code(
    heading: str, cls: type[Any], told_above: set[str]
) -> None:
    table = DOCUMENT.partition(f"| {heading} |")[2].partition("\n\n")[0]

    assert set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)) == {*get_type_hints(cls)} - told_above


def test_the_example_for_production_is_valid(tmp_path: Path) -> None:
    environ = {
        "GATEWAY_DATABASE__URL": "postgresql://gateway:p@db.example.org/gateway?sslmode=verify-full",
        "GATEWAY_LAYER__URL": "rediss://:p@redis.example.org:6379/0",
        "GATEWAY_SERVER__SECRET_KEY": "k" * 50,
    }

    config = load(ROOT / "config" / "production.toml", environ=environ).config

    assert all(listener.tls for listener in config.listeners)
