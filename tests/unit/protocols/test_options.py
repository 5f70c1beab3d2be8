"""Options are declared and checked in one way."""

import dataclasses
import math
from importlib.metadata import entry_points
from typing import Any, get_type_hints

import pytest

from gateway.config import Config, ListenerConfig, TlsOptions, section_types
from protocols.bridge.topic_map import ReceiveRule, SendRule
from protocols.mqtt.options import BrokerOptions, MqttOptions
from protocols.options import checked, option
from protocols.server import ENTRY_POINT_GROUP, load_protocol

PROTOCOLS = [load_protocol(entry.name) for entry in entry_points(group=ENTRY_POINT_GROUP)]
CLASSES = [
    *(cls for cls in get_type_hints(Config).values() if dataclasses.is_dataclass(cls)),
    *section_types().values(),
    *(server.Options for server in PROTOCOLS),
    *{server.ServerOptions for server in PROTOCOLS},
    *(TlsOptions, ReceiveRule, SendRule),
]
NEEDED: dict[str, Any] = {
    "url": "mqtt://localhost",
    "receive": (ReceiveRule(upstream="a"),),
    "certfile": "file",
    "upstream": "a",
    "local": "a",
}
"""Values for what has no default, or has to be given by what holds between options."""
OPTIONS = [
    pytest.param(cls, declared, id=f"{cls.__name__}.{declared.name}")
    for cls in CLASSES
    for declared in dataclasses.fields(cls)  # type: ignore[arg-type]
]
NUMBERS = [each for each in OPTIONS if isinstance(each.values[1].default, int | float)]  # type: ignore[attr-defined]
NUMBERS = [each for each in NUMBERS if not isinstance(each.values[1].default, bool)]  # type: ignore[attr-defined]


def made(cls: Any, **values: Any) -> Any:
    names = {declared.name for declared in dataclasses.fields(cls)}
    needed = {} if cls.__module__ == "gateway.config.model" else NEEDED
    return cls(**{name: value for name, value in needed.items() if name in names} | values)


@pytest.mark.parametrize(("cls", "declared"), OPTIONS)
def test_every_option_says_what_it_is_for(cls: Any, declared: "dataclasses.Field[Any]") -> None:
    assert declared.metadata["help"]


@pytest.mark.parametrize(("cls", "declared"), NUMBERS)
def test_a_number_below_its_range_is_refused_with_the_name_of_the_option(
    cls: Any, declared: "dataclasses.Field[Any]"
) -> None:
    least = max(declared.metadata["at_least"], declared.metadata["more_than"])
    assert math.isfinite(least), "every number has a least value"

    with pytest.raises(ValueError, match=f"^{declared.name}: must be "):
        made(cls, **{declared.name: least - 1})


@pytest.mark.parametrize(("cls", "declared"), NUMBERS)
def test_a_number_above_its_range_and_one_that_is_infinite_are_refused(
    cls: Any, declared: "dataclasses.Field[Any]"
) -> None:
    for value in (declared.metadata["at_most"] + 1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"^{declared.name}: must be "):
            made(cls, **{declared.name: value})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"receive_maximum": 0}, "receive_maximum: must be at least 1, not 0"),
        ({"receive_maximum": 65_536}, "receive_maximum: must be at most 65535, not 65536"),
        ({"connect_timeout_s": 0.0}, "connect_timeout_s: must be at least 0.01, not 0.0"),
    ],
)
def test_the_message_says_what_may_be_written(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        MqttOptions(**given)


def test_a_value_is_kept_as_its_check_returns_it() -> None:
    @dataclasses.dataclass
    class Options:
        url: str = option("", "an address", check=lambda url: url.rstrip("/"))

    [declared] = dataclasses.fields(Options)

    assert checked(declared, "http://host/") == "http://host"


@pytest.mark.parametrize("store", ["memory", "sqlite", "redis://host:6379/1", "rediss://host/1", "unix:///run/redis"])
def test_the_stores_of_the_broker_are_names_and_urls(store: str) -> None:
    assert BrokerOptions(store=store).store == store


@pytest.mark.parametrize("store", ["", "sqlite:///x", "disk", "http://host"])
def test_what_is_no_store_of_the_broker_is_refused(store: str) -> None:
    with pytest.raises(ValueError, match='store: expected "sqlite", "memory" or "redis://host:port/db"'):
        BrokerOptions(store=store)


def test_the_keys_of_every_listener_are_checked_alike() -> None:
    with pytest.raises(ValueError, match="max_handshakes: must be at least 1, not 0"):
        ListenerConfig(protocol="http", bind="127.0.0.1:0", options=None, max_handshakes=0)
