"""One `gateway serve` for the tests of this directory, each of which has devices of its own."""

import asyncio
import json
import re
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.administrator import Administrator
from tests.support.fleet import FleetDevice, add_devices
from tests.support.serving import Serving
from tests.support.waiting import until


class Gateway:
    """A running gateway, its database, its log and its counters."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.host = "127.0.0.1"
        self.mqtt_port = serving.port("mqtt")
        self.http_port = serving.port("http")
        self.url = serving.url
        self._database = serving.directory / "var" / "gateway.sqlite3"

    def stored(self, device: FleetDevice) -> list[tuple[str, int, Any]]:
        """The readings of a device: key, time, value."""
        rows = self.query(
            "SELECT k.name, r.ts, r.number, r.text FROM gateway_devices_reading r"
            " JOIN gateway_devices_key k ON k.id = r.key_id JOIN gateway_devices_device d ON d.id = r.device_id"
            " WHERE d.name = ? ORDER BY r.ts, k.name",
            device.name,
        )
        return [(key, ts, number if text is None else json.loads(text)) for key, ts, number, text in rows]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else can write to the database."""
        connection = sqlite3.connect(self._database, timeout=30, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
            connection.close()

    def query(self, statement: str, *parameters: object) -> list[Any]:
        connection = sqlite3.connect(self._database, timeout=30)
        try:
            return connection.execute(statement, parameters).fetchall()
        finally:
            connection.close()

    def counters(self) -> dict[str, float]:
        """Every counter at /metrics, with its labels, as the text there names it."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as response:
            text = response.read().decode()
        return {
            name: float(value)
            for name, value in re.findall(r"^(gateway_\w+_total(?:{.*})?) (\S+)$", text, re.MULTILINE)
        }


class Watched:
    """What a test made happen: the lines of the log, and the counters that rose."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._counters = gateway.counters()
        self._lines = len(gateway.serving.log)

    def lines(self) -> list[str]:
        return [line.rstrip("\n") for line in self._gateway.serving.log[self._lines :]]

    async def line(self) -> str:
        """The one line that is logged."""
        await until(self.lines, "a line in the log")
        await asyncio.sleep(0.1)  # for a second one, that there is not to be
        (line,) = self.lines()
        return line

    def risen(self, counter: str) -> float:
        """By how much a counter, with its labels, has risen."""
        return self._gateway.counters().get(counter, 0) - self._counters.get(counter, 0)


@contextmanager
def running(directory: Path, *flags: str) -> Iterator[Gateway]:
    """A gateway with these flags, for the time of a block."""
    serving = Serving(directory, *flags)
    try:
        yield Gateway(serving.ready())
    finally:
        serving.kill()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), "--set", "listeners.1.max_packet_bytes=65536") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def devices(gateway: Gateway) -> Iterator[FleetDevice]:
    """Devices, one for each that is asked for."""
    return iter(add_devices(gateway.serving, *(f"device-{number}" for number in range(100))))


@pytest.fixture(scope="module")
def administrator(gateway: Gateway) -> Administrator:
    """Somebody at the admin of the gateway."""
    return Administrator(gateway.url, gateway.serving)


@pytest.fixture
def device(devices: Iterator[FleetDevice]) -> FleetDevice:
    """A device that no other test has."""
    return next(devices)


@pytest.fixture
def watched(gateway: Gateway) -> Watched:
    """What happens from now on."""
    return Watched(gateway)
