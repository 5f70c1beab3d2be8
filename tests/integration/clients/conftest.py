"""One `gateway serve`, as a user starts it, and what its database has."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.support.fleet import FleetDevice, add_devices
from tests.support.serving import Serving
from tests.support.waiting import until

TELEMETRY = "v1/devices/me/telemetry"


class Gateway:
    """A running gateway. Clients without credentials are ordinary clients of its broker."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.host = "127.0.0.1"
        self.port = serving.port("mqtt")
        self.web_port = serving.port("http")
        self.websocket = f"ws://127.0.0.1:{self.web_port}/mqtt"

    async def stored(self, device: FleetDevice) -> list[Any]:
        """The values of a device, in order, once there are some."""
        await until(lambda: self._values(device), f"readings of {device.name}")
        return self._values(device)

    def _values(self, device: FleetDevice) -> list[Any]:
        with closing(sqlite3.connect(self.serving.directory / "var/gateway.sqlite3", timeout=30)) as database:
            rows = database.execute(
                "SELECT number, text FROM gateway_devices_reading WHERE device_id = ? ORDER BY ts, seq", [device.pk]
            ).fetchall()
        return [number if text is None else json.loads(text) for number, text in rows]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    serving = Serving(tmp_path_factory.mktemp("gateway"), "--set", "listeners.1.allow_anonymous=true")
    try:
        yield Gateway(serving.ready())
    finally:
        serving.kill()


@pytest.fixture(scope="module")
def _devices(gateway: Gateway) -> Iterator[FleetDevice]:
    return iter(add_devices(gateway.serving, *(f"device-{number}" for number in range(40))))


@pytest.fixture
def device(_devices: Iterator[FleetDevice]) -> FleetDevice:
    """A device that no other test has."""
    return next(_devices)


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Names that no other test has, for topics."""
    return lambda name: f"{abs(hash(request.node.nodeid))}/{name}"
