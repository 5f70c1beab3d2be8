"""Ingest, as far as it is the same on every database; what it does with each is in tests/conformance."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devices import metrics
from devices.credentials import Identity
from devices.ingest import Ingest
from devices.limits import DeviceOptions
from devices.models import Reading
from devices.profiles import profile_of
from devices.refusals import MessageRefusal, RefusedError
from devices.writers import make_writer
from gateway.db import database_sync_to_async

TS = 1_700_000_000_000
OPTIONS = DeviceOptions()
DEVICE = Identity(1, "thermo-1", profile_of("thingsboard"), 0)


@pytest.fixture
async def ingest(sqlite_database: Path) -> AsyncIterator[Ingest]:
    ingest = Ingest(make_writer(OPTIONS.max_clock_skew_ms), on_commit=lambda batch: None, options=OPTIONS)
    ingest.start()
    yield ingest
    await ingest.close()


async def test_nothing_is_believed_of_a_database_that_was_replaced_and_nothing_that_waits_is_acknowledged(
    sqlite_database: Path, sqlite_template: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replaced = 0

    def note() -> None:
        nonlocal replaced
        replaced += 1

    ingest = Ingest(
        make_writer(OPTIONS.max_clock_skew_ms), on_commit=lambda batch: None, on_replaced=note, options=OPTIONS
    )
    ingest.start()
    for key in ("a", "t"):
        await ingest.store(DEVICE, [(key, TS, 1.0, None)])
    shutil.copy(sqlite_template, tmp_path / "other").replace(sqlite_database)

    waiting = [asyncio.create_task(ingest.store(DEVICE, [(key, TS + 1, 1.0, None)])) for key in ("t", "new")]
    for refused in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(refused, RefusedError)
        assert refused.refusal is MessageRefusal.REPLACED
    assert replaced == 1
    assert caplog.text.count("was replaced by another database") == 1

    await ingest.store(DEVICE, [("t", TS + 2, 2.0, None)])

    rows = await database_sync_to_async(lambda: list(Reading.objects.values_list("key__name", "ts")))()
    assert rows == [("t", TS + 2)], "the key has the number that it has in this database"
    assert ingest.failure is None
    assert ingest.has_room
    await ingest.close()


async def count() -> int:
    return await database_sync_to_async(Reading.objects.count)()


async def test_store_returns_when_it_is_stored(ingest: Ingest) -> None:
    await ingest.store(DEVICE, [("t", TS, 1.0, None)])

    assert await count() == 1


async def test_a_waiter_that_gives_up_takes_nothing_from_the_others(ingest: Ingest) -> None:
    impatient = asyncio.create_task(ingest.store(DEVICE, [("t", TS, 1.0, None)]))
    patient = asyncio.create_task(ingest.store(DEVICE, [("t", TS + 1, 1.0, None)]))
    await asyncio.sleep(0)

    impatient.cancel()
    await patient

    assert await count() == 2


async def test_a_future_that_somebody_cancels_stops_no_commit(ingest: Ingest) -> None:
    other = Identity(2, "thermo-2", profile_of("thingsboard"), 0)

    ingest.submit(DEVICE, [("t", TS, 1.0, None)], TS).cancel()
    await ingest.store(other, [("t", TS, 1.0, None)])
    await ingest.store(DEVICE, [("t", TS + 1, 1.0, None)])

    assert await count() == 3


async def test_a_message_without_readings_is_acknowledged_as_any_other(ingest: Ingest) -> None:
    await ingest.store(DEVICE, [])

    assert await count() == 0


async def test_a_time_in_seconds_is_stored_as_it_is_counted_and_logged_with_the_device(
    ingest: Ingest, caplog: pytest.LogCaptureFixture
) -> None:
    before = metrics.timestamps_in_seconds._value.get()

    for number in range(3):
        await ingest.store(DEVICE, [("t", TS // 1000 + number, 1.0, None)])

    assert await count() == 3
    assert metrics.timestamps_in_seconds._value.get() == before + 3
    assert "thermo-1 (1) sends the time 1700000000, which in milliseconds is 1970" in caplog.text


async def test_what_was_committed_is_counted(ingest: Ingest) -> None:
    before = metrics.readings_committed._value.get()

    await ingest.store(DEVICE, [("t", TS, 1.0, None), ("u", TS, 1.0, None)])

    assert metrics.readings_committed._value.get() == before + 2
