"""What dashboards are told of a commit, and what a layer that is slow or away costs: dashboards, and nobody else."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from devices import metrics
from devices.credentials import Identity
from devices.fanout import FLEET_GROUP, KEYS_PER_ROW, MAX_WAITING, Fanout, device_group
from devices.ingest import Ingest
from devices.limits import ANY_SKEW_MS, DeviceOptions
from devices.profiles import Point, profile_of
from devices.reading_batch import NEWEST_PER_DEVICE
from devices.writers import make_writer
from gateway.layers import InMemoryChannelLayer
from gateway.layers.base import GroupSendResult
from tests.support.waiting import until

TS = 1_700_000_000_000
ONE = Identity(1, "thermo-1", profile_of("thingsboard"), 0)
TWO = Identity(2, "thermo-2", profile_of("thingsboard"), 0)


class CountingLayer(InMemoryChannelLayer):
    """An in-memory layer that counts what it is asked to send, and fails or waits if told to."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.fault: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    def group_is_empty(self, group: str) -> bool:
        if isinstance(self.fault, ZeroDivisionError):
            raise self.fault
        return super().group_is_empty(group)

    async def group_send(self, group: str, message: dict[str, Any]) -> GroupSendResult:
        self.sent.append(group)
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        return await super().group_send(group, message)


class Setting:
    """Ingest, a fan-out behind it, and those who watch."""

    def __init__(self) -> None:
        self.layer = CountingLayer()
        self.fanout = Fanout(self.layer)
        self.ingest = Ingest(
            make_writer(ANY_SKEW_MS),
            on_commit=self.fanout.committed,
            options=DeviceOptions(max_clock_skew_s=0),
        )

    async def watch(self, group: str) -> "Watcher":
        channel = await self.layer.new_channel()
        await self.layer.group_add(group, channel)
        return Watcher(self.layer, channel)

    async def send(self, device: Identity, *points: Point) -> None:
        await self.ingest.submit(device, points, TS)


class Watcher:
    """Somebody in a group."""

    def __init__(self, layer: InMemoryChannelLayer, channel: str) -> None:
        self._layer = layer
        self._channel = channel

    async def message(self) -> dict[str, Any]:
        async with asyncio.timeout(30):
            message = await self._layer.receive(self._channel)
        assert message["type"] == "readings.committed"
        content: dict[str, Any] = json.loads(message["text"])
        assert isinstance(content.pop("now"), int)
        return content


@pytest.fixture
async def setting(sqlite_database: Path) -> AsyncIterator[Setting]:
    setting = Setting()
    setting.ingest.start()
    yield setting
    await setting.ingest.close()
    await setting.fanout.close()


async def test_the_fleet_gets_the_newest_of_each_key(setting: Setting) -> None:
    fleet = await setting.watch(FLEET_GROUP)

    await setting.send(ONE, ("t", TS, 1.0, None), ("t", TS + 1, 2.0, None), ("on", TS, 1.0, "true"))

    assert await fleet.message() == {
        "type": "readings",
        "devices": {"1": {"name": "thermo-1", "readings": [["t", TS + 1, 2.0], ["on", TS, True]]}},
    }


async def test_who_watches_a_device_gets_every_reading_of_it_and_of_no_other(setting: Setting) -> None:
    watcher = await setting.watch(device_group(1))

    setting.ingest.submit(TWO, [("t", TS, 9.0, None)], TS)
    await setting.send(ONE, ("t", TS, 1.0, None), ("t", TS + 1, None, '{"a":[1]}'))

    assert await watcher.message() == {
        "type": "readings",
        "devices": {"1": {"name": "thermo-1", "readings": [["t", TS, 1.0], ["t", TS + 1, {"a": [1]}, '{"a":[1]}']]}},
    }


async def test_subscribers_get_the_newest_of_a_commit_with_very_many(setting: Setting) -> None:
    watcher = await setting.watch(device_group(1))

    await setting.send(ONE, *[("t", TS + number, float(number), None) for number in range(NEWEST_PER_DEVICE + 50)])

    readings = (await watcher.message())["devices"]["1"]["readings"]
    assert len(readings) == NEWEST_PER_DEVICE
    assert readings[-1] == ["t", TS + NEWEST_PER_DEVICE + 49, NEWEST_PER_DEVICE + 49]


async def test_a_value_is_cut_before_it_is_announced(setting: Setting) -> None:
    fleet, watcher = await setting.watch(FLEET_GROUP), await setting.watch(device_group(1))

    await setting.send(ONE, ("deep", TS, None, "[" * 900 + "]" * 900), ("long", TS, None, f'"{"x" * 250_000}"'))

    for told in (await fleet.message(), await watcher.message()):
        assert told["devices"]["1"]["readings"] == [
            ["deep", TS, None, "[" * 200 + "…", 1_800],
            ["long", TS, None, "x" * 199 + "…", 250_002],
        ]


async def test_the_fleet_gets_as_many_keys_of_a_device_as_a_row_has(setting: Setting) -> None:
    fleet = await setting.watch(FLEET_GROUP)

    await setting.send(ONE, *[(f"k{number:03}", TS, 1.0, None) for number in reversed(range(500))])

    readings = (await fleet.message())["devices"]["1"]["readings"]
    assert [key for key, *_ in readings] == [f"k{number:03}" for number in range(KEYS_PER_ROW)]


async def test_one_commit_is_one_message(setting: Setting) -> None:
    fleet = await setting.watch(FLEET_GROUP)

    setting.ingest.submit(ONE, [("t", TS, 1.0, None)], TS)
    await setting.send(TWO, ("t", TS, 2.0, None))

    assert set((await fleet.message())["devices"]) == {"1", "2"}
    assert setting.layer.sent == [FLEET_GROUP]


async def test_what_nobody_watches_costs_nothing(setting: Setting) -> None:
    await setting.send(ONE, ("t", TS, 1.0, None))
    setting.fanout.connection(1, True)
    await until(lambda: not setting.fanout._waiting)

    assert setting.layer.sent == []


async def test_a_connection_is_told_to_the_fleet_and_to_who_watches_the_device(setting: Setting) -> None:
    fleet, watcher = await setting.watch(FLEET_GROUP), await setting.watch(device_group(1))

    setting.fanout.connection(1, True)

    expected = {"type": "connection", "id": 1, "connected": True}
    assert await fleet.message() == expected
    assert await watcher.message() == expected


async def test_a_layer_that_fails_stops_neither_ingest_nor_what_comes_later(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = await setting.watch(FLEET_GROUP)
    failures = metrics.fanout_failures._value.get()
    setting.layer.fault = ConnectionError("away")

    for number in range(3):
        await setting.send(ONE, ("t", TS + number, 1.0, None))
    await until(lambda: len(setting.layer.sent) == 3)
    setting.layer.fault = None
    await setting.send(ONE, ("t", TS + 10, 2.0, None))

    assert (await fleet.message())["devices"]["1"]["readings"] == [["t", TS + 10, 2.0]]
    assert metrics.fanout_failures._value.get() == failures + 3
    assert [record.getMessage() for record in caplog.records] == [
        "dashboards fall behind: the channel layer does not take messages: away"
    ]


async def test_an_announcement_that_fails_where_nobody_expects_it_does_not_end_the_fanout(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = await setting.watch(FLEET_GROUP)
    setting.layer.fault = ZeroDivisionError()
    await setting.send(ONE, ("t", TS, 1.0, None))
    await until(lambda: caplog.records)

    setting.layer.fault = None
    await setting.send(ONE, ("t", TS + 10, 2.0, None))

    assert (await fleet.message())["devices"]["1"]["readings"] == [["t", TS + 10, 2.0]]
    assert "announcing to dashboards failed" in caplog.text


async def test_a_layer_that_hangs_holds_up_no_device_and_a_bounded_number_of_commits(setting: Setting) -> None:
    await setting.watch(FLEET_GROUP)
    setting.layer.open.clear()

    for number in range(MAX_WAITING + 20):
        async with asyncio.timeout(30):
            await setting.send(ONE, ("t", TS + number, 1.0, None))

    assert len(setting.fanout._waiting) == MAX_WAITING
