"""docs/limits.md names every bound, with its default, and no others."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from devices.limits import DeviceOptions
from gateway.config import ListenerConfig
from protocols.http import HttpOptions
from protocols.mqtt.options import BrokerOptions, MqttOptions

DOCUMENT = (Path(__file__).parents[3] / "docs" / "limits.md").read_text()

NO_BOUNDS = {"sys_interval_s"}


def bounds(cls: type[Any]) -> dict[str, str]:
    """The options that are numbers."""
    numbers = [
        item for item in dataclasses.fields(cls) if isinstance(item.default, int | float) and item.default is not False
    ]
    return {item.name: str(item.default) for item in numbers if item.name not in NO_BOUNDS}


@pytest.mark.parametrize(
    ("heading", "cls"),
    [
        ("Every listener", ListenerConfig),
        ("MQTT", MqttOptions),
        ("The MQTT broker", BrokerOptions),
        ("HTTP and WebSocket", HttpOptions),
        ("Devices", DeviceOptions),
    ],
)
def test_the_tables_are_those_of_the_code(heading: str, cls: type[Any]) -> None:
    section = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]

    assert dict(re.findall(r"^\| `([a-z_]+)` \| ([\d.]+) \|", section, re.MULTILINE)) == bounds(cls)


def test_the_counters_are_there() -> None:
    from devices import metrics as device_metrics
    from gateway import metrics as gateway_metrics
    from protocols import metrics

    known = {
        f"{each._name}_total"
        for module in (metrics, gateway_metrics, device_metrics)
        for value in vars(module).values()
        for each in (value if isinstance(value, tuple) else (value,))
        if hasattr(each, "_name")
    }

    assert set(re.findall(r"`(gateway_\w+_total)", DOCUMENT)) <= known
