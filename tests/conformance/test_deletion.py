"""Readings that are deleted, on SQLite and PostgreSQL: what was ordered and nothing else, in slices; what follows."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction

from devices.credentials import Identity
from devices.deletion import Deleter, delete_readings, delete_slice, find_orphans, free_keys
from devices.ingest import Ingest
from devices.limits import DeviceOptions
from devices.models import Deletion, Device, DeviceType, Key, LatestValue, Reading, now_ms
from devices.profiles import profile_of
from devices.writers import make_writer
from gateway.db import database_sync_to_async

T = TypeVar("T")
DAY = 86_400_000
TS = 1_700_000_000_000


def make_device(name: str) -> Device:
    device_type, _ = DeviceType.objects.get_or_create(name="default")
    return Device.objects.create(name=name, type=device_type)


def store(device: Device, name: str, times: Iterable[int], received: int = TS) -> Key:
    """Stores readings at these times, each with its time as value, and what follows from them."""
    key, _ = Key.objects.get_or_create(name=name)
    rows = [
        Reading(device=device, key=key, ts=ts, seq=seq, received=received, number=float(ts))
        for seq, ts in enumerate(times)
    ]
    Reading.objects.bulk_create(rows)
    newest = max(row.ts for row in rows)
    LatestValue.with_future.update_or_create(
        device=device, key=key, defaults={"ts": newest, "received": received, "number": float(newest)}
    )
    return key


def times(device_id: int, name: str) -> list[int]:
    """Of the readings that there are."""
    return list(Reading.objects.filter(device_id=device_id, key__name=name).order_by("ts").values_list("ts", flat=True))


def latest(device_id: int) -> dict[str, float | None]:
    """The latest values of a device."""
    return dict(LatestValue.objects.filter(device_id=device_id).values_list("key__name", "number"))


def delete_all(limit: int = 7) -> list[int]:
    """Carries out what was ordered, and returns how many readings each slice has deleted."""
    done = []
    while (part := delete_slice(limit)) is not None:
        done.append(part.deleted)
    return done


@pytest.fixture
def device(database: str) -> Device:
    return make_device("thermo-1")


@pytest.fixture
def other(database: str) -> Device:
    return make_device("thermo-2")


class TestReadings:
    def test_readings_of_a_key_are_deleted_in_slices_and_the_device_has_it_no_more(
        self, device: Device, other: Device
    ) -> None:
        key = store(device, "t", range(100))
        store(device, "u", range(5))
        store(other, "t", range(5))

        deletion = delete_readings(device, key=key)
        sizes = delete_all()

        assert max(sizes) == 7
        assert sum(sizes) == 100
        assert times(device.pk, "t") == []
        assert latest(device.pk) == {"u": 4.0}
        assert len(times(device.pk, "u")) == len(times(other.pk, "t")) == 5
        deletion.refresh_from_db()
        assert deletion.deleted == 100
        assert deletion.finished_at is not None

    @pytest.mark.parametrize(
        ("since", "until", "left"),
        [
            (None, 20, range(20, 100)),
            (20, None, range(20)),
            (20, 30, [*range(20), *range(30, 100)]),
            (20, 20, range(100)),
        ],
    )
    def test_readings_of_a_period_are_deleted_and_the_latest_value_is_the_newest_that_is_left(
        self, device: Device, since: int | None, until: int | None, left: Iterable[int]
    ) -> None:
        key = store(device, "t", range(100))
        store(device, "u", range(100))

        delete_readings(device, key=key, since_ms=since, until_ms=until)
        delete_all()

        assert times(device.pk, "t") == list(left)
        assert latest(device.pk) == {"t": float(max(left)), "u": 99.0}

    def test_readings_of_all_keys_are_deleted_in_the_period(self, device: Device) -> None:
        for name in "tuv":
            store(device, name, range(0, 100, 10))

        delete_readings(device, since_ms=50, until_ms=90)
        delete_all()

        assert [times(device.pk, name) for name in "tuv"] == [[0, 10, 20, 30, 40, 90]] * 3

    def test_readings_of_one_time_are_deleted_however_many_they_are(self, device: Device) -> None:
        key = store(device, "t", [5] * 50)

        delete_readings(device, key=key)

        assert sum(delete_all()) == 50
        assert not Reading.objects.exists()

    def test_readings_received_after_the_order_stay(self, device: Device) -> None:
        key = store(device, "t", range(10))

        delete_readings(device, key=key)
        Reading.objects.create(device=device, key=key, ts=3, seq=99, received=now_ms() + 1000, number=3.5)
        LatestValue.with_future.update(ts=3, received=now_ms() + 1000, number=3.5)
        delete_all()

        assert times(device.pk, "t") == [3]
        assert latest(device.pk) == {"t": 3.5}

    def test_readings_of_a_wrong_clock_can_be_deleted_and_the_latest_value_is_a_plausible_one(
        self, device: Device
    ) -> None:
        key = store(device, "t", [TS, TS + 900 * DAY, TS + 10_000 * DAY])

        delete_readings(device, key=key, since_ms=TS + 5_000 * DAY)
        delete_all()

        assert times(device.pk, "t") == [TS, TS + 900 * DAY]
        assert latest(device.pk) == {"t": float(TS)}

    def test_if_only_those_of_a_clock_ahead_are_left_the_device_still_has_the_key(self, device: Device) -> None:
        key = store(device, "t", [TS, TS + 10_000 * DAY])

        delete_readings(device, key=key, until_ms=TS + 1)
        LatestValue.with_future.update(ts=TS)
        delete_all()

        assert latest(device.pk) == {}
        assert LatestValue.with_future.count() == 1

    @pytest.mark.parametrize("seed", range(6))
    def test_what_is_left_is_what_was_not_ordered_whatever_the_slices(self, device: Device, seed: int) -> None:
        chance = random.Random(seed)
        model: dict[str, list[int]] = {}
        for name in "tuvw":
            model[name] = sorted(chance.choices(range(50), k=chance.randrange(1, 120)))
            store(device, name, model[name])
        for _ in range(chance.randrange(1, 4)):
            name = chance.choice([None, *"tuvw"])
            since, until = chance.choice([None, chance.randrange(50)]), chance.choice([None, chance.randrange(50)])
            key = None if name is None else Key.objects.get(name=name)
            delete_readings(device, key=key, since_ms=since, until_ms=until)
            for each in model if name is None else [name]:
                model[each] = [
                    ts for ts in model[each] if not ((since is None or ts >= since) and (until is None or ts < until))
                ]
        delete_all(chance.randrange(1, 30))

        assert {name: times(device.pk, name) for name in model} == model
        assert latest(device.pk) == {name: float(max(left)) for name, left in model.items() if left}


class TestOrders:
    def test_deletions_are_told_in_the_log_and_to_the_auditor_with_how_many(
        self, device: Device, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = store(device, "t", range(10))
        user = User.objects.create_user("olga")
        caplog.set_level(logging.INFO)

        delete_readings(device, key=key, since_ms=TS, until_ms=TS + 60_000, user=user)
        delete_readings(device, key=key, user=user)
        delete_all()

        assert "deleted 10 readings: t of thermo-1, ordered by olga" in caplog.text
        assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == [
            "Deleted 0 readings: t of thermo-1 from 2023-11-14 22:13:20 UTC until 2023-11-14 22:14:20 UTC.",
            "Deleted 10 readings: t of thermo-1.",
        ]

    def test_deletions_that_were_begun_go_on_where_they_were_after_a_crash(self, device: Device) -> None:
        store(device, "t", range(100))
        delete_readings(device)
        delete_slice(10)

        with transaction.atomic():
            delete_slice(10)
            transaction.set_rollback(True)
        assert len(times(device.pk, "t")) == 90

        assert sum(delete_all()) == 90
        assert Deletion.objects.get().deleted == 100

    async def test_several_gateways_at_once_delete_each_reading_once(self, device: Device, other: Device) -> None:
        def prepare() -> None:
            for each in (device, other):
                store(each, "t", range(1_000))
                delete_readings(each)

        def work() -> int:
            try:
                return sum(delete_all(50))
            finally:
                connection.close()

        await database_sync_to_async(prepare)()
        done = await asyncio.gather(*(asyncio.to_thread(work) for _ in range(3)))

        # One that found every order in the hands of others went away; as a gateway it would have come again.
        await asyncio.to_thread(work)
        assert sum(done) <= 2_000
        assert await database_sync_to_async(Reading.objects.count)() == 0
        orders = await database_sync_to_async(list)(Deletion.objects.values_list("deleted", flat=True))
        assert orders == [1_000, 1_000]


class TestDevice:
    @pytest.mark.parametrize(
        "delete", [lambda device: device.delete(), lambda device: Device.objects.filter(pk=device.pk).delete()]
    )
    def test_a_deleted_device_is_gone_at_once_and_its_data_follow(
        self, device: Device, other: Device, delete: Callable[[Device], Any]
    ) -> None:
        for name in "tu":
            store(device, name, [*range(50), TS + 10_000 * DAY])
        store(other, "t", range(5))
        pk = device.pk

        delete(device)

        assert not Device.objects.filter(name="thermo-1").exists()
        assert make_device("thermo-1").pk != pk
        assert Reading.objects.filter(device_id=pk).count() == 102
        assert sum(delete_all()) == 102
        assert not LatestValue.with_future.filter(device_id=pk).exists()
        assert len(times(other.pk, "t")) == 5

    @pytest.mark.parametrize("came", [{"reading"}, {"latest"}, {"reading", "latest"}])
    def test_a_deleted_device_leaves_nothing_of_what_came_late(self, device: Device, came: set[str]) -> None:
        pk = device.pk
        device.delete()
        delete_all()
        key = Key.objects.create(name="late")
        if "reading" in came:
            Reading.objects.create(device_id=pk, key=key, ts=1, seq=1, received=1, number=1.0)
        if "latest" in came:
            LatestValue.objects.create(device_id=pk, key=key, ts=1, received=1, number=1.0)
        store(make_device("thermo-2"), "t", range(3))

        _go_through(find_orphans)
        _go_through(find_orphans)
        assert Deletion.objects.filter(finished_at=None).count() == 1
        delete_all()

        assert Reading.objects.count() == 3
        assert LatestValue.with_future.count() == 1


class TestKeys:
    def test_keys_that_no_device_has_are_freed_and_no_others(self, device: Device, other: Device) -> None:
        key = store(device, "t", range(5))
        store(other, "u", range(5))
        store(device, "w", [TS + 10_000 * DAY])
        Key.objects.bulk_create(Key(name=f"unused {number}") for number in range(1_200))
        delete_readings(device, key=key)
        delete_all()

        _go_through(free_keys)

        assert set(Key.objects.values_list("name", flat=True)) == {"u", "w"}


def _go_through(step: Callable[[int], int | None]) -> None:
    place: int | None = 0
    while place is not None:
        place = step(place)


@pytest.fixture
async def ingest(database: str) -> AsyncIterator[Ingest]:
    ingest = Ingest(make_writer(DAY), on_commit=lambda group: None, options=DeviceOptions())
    ingest.start()
    yield ingest
    await ingest.close()


async def test_deletions_are_carried_out_between_commits_and_keys_that_are_free_may_come_again(ingest: Ingest) -> None:
    device = await database_sync_to_async(make_device)("thermo-1")
    identity = Identity(device.pk, device.name, profile_of("thingsboard"), 0)
    await ingest.store(identity, [("t", TS + number, 1.0, None) for number in range(2_000)] + [("u", TS, 1.0, None)])
    deleter = Deleter(ingest.between_commits, forget_keys=ingest.forget_keys)
    deleter.start()
    freed = database_sync_to_async(lambda: not Key.objects.filter(name="t").exists())

    await database_sync_to_async(delete_readings)(device, key=await database_sync_to_async(Key.objects.get)(name="t"))
    while not await freed():
        await ingest.store(identity, [("u", None, 1.0, None)])
    await ingest.store(identity, [("t", TS, 3.0, None)])
    await deleter.close()

    assert await database_sync_to_async(times)(device.pk, "t") == [TS]
    assert (await database_sync_to_async(latest)(device.pk))["t"] == 3.0


async def test_a_key_that_comes_while_it_is_deleted_and_freed_is_never_lost(ingest: Ingest) -> None:
    device = await database_sync_to_async(make_device)("thermo-1")
    identity = Identity(device.pk, device.name, profile_of("thingsboard"), 0)
    stored = database_sync_to_async(lambda: sorted(Reading.objects.filter(key__name="t").values_list("ts", flat=True)))
    unreadable = database_sync_to_async(lambda: Reading.objects.exclude(key__in=Key.objects.all()).count())

    for round_number in range(10):
        await ingest.store(identity, [("t", TS, 1.0, None)])
        await database_sync_to_async(delete_readings)(device)
        # As another gateway would: in a thread of its own, beside the commits.
        working = asyncio.ensure_future(asyncio.to_thread(_delete_and_free))
        sent = []
        while not working.done():
            sent.append(TS + 10 * DAY + round_number * 1_000 + len(sent))
            await asyncio.shield(ingest.submit(identity, [("t", sent[-1], 1.0, None)], now_ms() + 60_000))
        await working
        assert set(sent) <= set(await stored())
        assert await unreadable() == 0


def _delete_and_free() -> None:
    try:
        for _ in range(5):
            try:
                delete_all()
                _go_through(free_keys)
            except IntegrityError:  # on PostgreSQL: a key has come back in this moment
                pass
    finally:
        connection.close()


def test_a_slice_costs_the_same_however_many_readings_there_are(sqlite_database: object) -> None:
    steps = []
    for count in (500, 20_000):
        device = make_device(f"thermo-{count}")
        store(device, "t", range(count))
        delete_readings(device)
        delete_slice(50)
        counted: list[None] = []
        connection.ensure_connection()
        connection.connection.set_progress_handler(lambda counted=counted: counted.append(None), 10)
        delete_slice(50)
        connection.connection.set_progress_handler(None, 0)
        steps.append(len(counted))
        Deletion.objects.all().delete()

    assert steps[1] < 1.2 * steps[0]


def test_the_table_of_readings_is_still_the_clustered_one(sqlite_database: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT sql FROM sqlite_master WHERE name = 'gateway_devices_reading'")
        (sql,) = cursor.fetchone()

    assert sql.endswith("WITHOUT ROWID")
