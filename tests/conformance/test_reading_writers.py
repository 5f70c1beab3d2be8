"""What every writer of readings does, and ingest with it: SQLite and PostgreSQL side by side."""

import asyncio
import logging
import os
import random
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from django.db import connections

from devices import metrics
from devices.credentials import Identity
from devices.ingest import MAX_WAITING, SEEN_INTERVAL_S, Ingest
from devices.limits import DeviceOptions
from devices.models import Device, DeviceType, Key, LatestValue, Reading
from devices.profiles import Point, profile_of
from devices.reading_batch import ReadingBatch
from devices.refusals import MessageRefusal, RefusedError
from devices.writers import Batch, Row, Seen, Writer, make_writer
from devices.writers.base import DEVICES
from devices.writers.postgresql import PostgresqlWriter
from gateway.config import load
from gateway.db import database_sync_to_async
from project.settings import database as database_settings
from tests.support.databases import default_database
from tests.support.postgres import PostgresServer
from tests.support.silent_proxy import SilentProxy, silent_proxy

TS = 1_700_000_000_000
BEYOND_INT64 = 2**63
HOUR = 3_600_000
DAY = 24 * HOUR
OPTIONS = DeviceOptions(max_clock_skew_s=DAY // 1000)


@pytest.fixture
def writer(database: str) -> Iterator[Writer]:
    writer = make_writer(DAY)
    yield writer
    writer.close()


@pytest.fixture
def device(database: str) -> Identity:
    return make_device("thermo-1")


def make_device(name: str) -> Identity:
    device_type, _ = DeviceType.objects.get_or_create(name="default")
    device = Device.objects.create(name=name, type=device_type)
    return Identity(device.pk, device.name, profile_of("thingsboard"), 0)


def stored(key: str = "t") -> list[tuple[int, float | None, str | None]]:
    """The readings of a key: (ts, number, text)."""
    return list(Reading.objects.filter(key__name=key).order_by("ts", "seq").values_list("ts", "number", "text"))


def latest(device_id: int, key: str = "t") -> tuple[int, float | None, str | None]:
    return LatestValue.objects.values_list("ts", "number", "text").get(device_id=device_id, key__name=key)


def last_seen(device_id: int) -> int | None:
    return Device.objects.get(pk=device_id).last_seen_ms


@dataclass
class Written:
    """A batch by hand."""

    rows: Sequence[Row]
    latest: Sequence[Sequence[Row]] = ()
    seen: Sequence[Seen] = ()
    ahead: Sequence[Row] = ()
    now_ms: int = TS


class TestWriter:
    def test_a_writer_gives_each_key_a_number_that_stays(self, writer: Writer) -> None:
        first = writer.key_ids(["temperature", "humidity"])
        second = writer.key_ids(["humidity", "grün"])

        assert second["humidity"] == first["humidity"]
        assert len({*first.values(), *second.values()}) == 3
        assert dict(Key.objects.values_list("name", "id")) == first | second

    def test_a_writer_writes_all_of_a_batch(self, writer: Writer, device: Identity) -> None:
        key = writer.key_ids(["t"])["t"]
        row: Row = (device.device_id, key, TS, 1, TS + 5, 21.5, None)

        writer.write(Written([row], [[row]], [Seen(device.device_id, TS + 5)]))

        assert stored() == [(TS, 21.5, None)]
        assert latest(device.device_id) == (TS, 21.5, None)
        assert last_seen(device.device_id) == TS + 5

    def test_a_writer_writes_nothing_of_a_batch_that_fails(self, writer: Writer, device: Identity) -> None:
        key = writer.key_ids(["t"])["t"]
        good: Row = (device.device_id, key, TS, 1, TS, 21.5, None)
        bad: Row = (device.device_id, key, BEYOND_INT64, 1, TS, 21.5, None)

        with pytest.raises(writer.data_errors):
            writer.write(Written([good, bad], [[good]], [Seen(device.device_id, TS)]))

        assert stored() == []
        assert last_seen(device.device_id) is None

    def test_a_writer_goes_on_after_a_fault_in_the_data(self, writer: Writer, device: Identity) -> None:
        self.test_a_writer_writes_nothing_of_a_batch_that_fails(writer, device)

        self.test_a_writer_writes_all_of_a_batch(writer, device)

    def test_a_writer_leaves_a_reading_that_is_stored_as_it_is(self, writer: Writer, device: Identity) -> None:
        key = writer.key_ids(["t"])["t"]
        writer.write(Written([(device.device_id, key, TS, 1, TS, 1.0, None)]))

        writer.write(Written([(device.device_id, key, TS, 1, TS + 9, 2.0, None)]))

        assert stored() == [(TS, 1.0, None)]

    def test_a_writer_does_not_put_last_seen_back_by_what_was_committed_late(
        self, writer: Writer, device: Identity
    ) -> None:
        writer.write(Written([], seen=[Seen(device.device_id, TS)]))

        writer.write(Written([], seen=[Seen(device.device_id, TS - 1)], now_ms=TS + 1))

        assert last_seen(device.device_id) == TS

    @pytest.mark.parametrize("ahead_ms", [1, HOUR, 40 * DAY])
    def test_puts_last_seen_back_with_the_clock(self, writer: Writer, device: Identity, ahead_ms: int) -> None:
        writer.write(Written([], seen=[Seen(device.device_id, TS + ahead_ms)], now_ms=TS + ahead_ms))

        writer.write(Written([], seen=[Seen(device.device_id, TS)], now_ms=TS))

        assert last_seen(device.device_id) == TS

    def test_notes_by_how_much_a_clock_is_ahead_and_that_it_is_no_longer(
        self, writer: Writer, device: Identity
    ) -> None:
        for skew in (5, 7, None):
            writer.write(Written([], seen=[Seen(device.device_id, TS, skew)]))
            assert Device.objects.get().clock_skew_ms == skew

    @pytest.mark.parametrize(
        ("number", "text"),
        [
            (0.1, None),
            (-1.7976931348623157e308, None),
            (5e-324, None),
            (float(2**53), "9007199254740993"),
            (None, '"tab\\tquote\\"backslash\\\\ newline\\n nul\\u0000 €"'),
            (None, "[1,{}]"),
            (None, '"\t\\N"'),
        ],
    )
    def test_a_writer_keeps_every_value_exactly(
        self, writer: Writer, device: Identity, number: float | None, text: str | None
    ) -> None:
        key = writer.key_ids(["t"])["t"]
        row: Row = (device.device_id, key, TS, 1, TS, number, text)

        writer.write(Written([row], [[row]]))

        assert stored() == [(TS, number, text)]
        assert latest(device.device_id) == (TS, number, text)

    def test_a_writer_takes_a_reading_of_a_device_that_was_deleted_meanwhile(self, writer: Writer) -> None:
        key = writer.key_ids(["t"])["t"]

        writer.write(Written([(4711, key, TS, 1, TS, 1.0, None)], seen=[Seen(4711, TS)]))

        assert len(stored()) == 1

    def test_opens_a_connection_anew_after_close(self, writer: Writer) -> None:
        writer.key_ids(["t"])
        writer.close()
        writer.close()

        assert writer.key_ids(["t"])


class Unsteady:
    """A writer in front of a real one, which fails as often as it is told to, as a driver would."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.data_errors = writer.data_errors
        self.failures = 0
        self.attempts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def write(self, batch: Batch) -> None:
        self.attempts += 1
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the database is away")
        self._writer.write(batch)

    def abort(self) -> None:
        self._writer.abort()

    def close(self) -> None:
        self._writer.close()


class Hanging(Unsteady):
    """A writer in front of a real one, which hangs after what it wrote as often as it is told to, until it is aborted:
    whether the attempt has come to its end is not known."""

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer)
        self.hangs = 0
        self.is_hanging = threading.Event()
        self._aborted = threading.Event()

    def write(self, batch: Batch) -> None:
        super().write(batch)
        if self.hangs:
            self.hangs -= 1
            self.is_hanging.set()
            self._aborted.wait()
            self._aborted.clear()
            self.is_hanging.clear()
            raise ConnectionError("aborted")

    def abort(self) -> None:
        self._aborted.set()


class Running:
    """Ingest at work on the writer of the test's database. Its clocks stand still, until they are put."""

    def __init__(self, options: DeviceOptions = OPTIONS) -> None:
        self.writer = Unsteady(make_writer(DAY))
        self.committed: list[ReadingBatch] = []
        self.now_ms = TS
        self.monotonic_s = 0.0
        self.ingest = Ingest(
            self.writer,
            on_commit=self.committed.append,
            options=options,
            now_ms=lambda: self.now_ms,
            monotonic=lambda: self.monotonic_s,
        )
        self.is_closed = False

    def send(self, device: Identity, *points: Point) -> "asyncio.Future[None]":
        return self.ingest.submit(device, points, self.now_ms)

    async def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            await self.ingest.close()


@pytest.fixture
async def running(database: str) -> AsyncIterator[Running]:
    running = Running()
    running.ingest.start()
    yield running
    await running.close()


async def ask(query: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return await database_sync_to_async(query)(*arguments, **named)


class TestIngest:
    async def test_what_is_acknowledged_is_stored(self, running: Running, device: Identity) -> None:
        await running.send(device, ("t", TS, 21.5, None), ("open", TS, 1.0, "true"))

        assert await ask(stored) == [(TS, 21.5, None)]
        assert await ask(stored, "open") == [(TS, 1.0, "true")]

    async def test_a_message_sent_again_is_stored_once(self, running: Running, device: Identity) -> None:
        for _ in range(2):
            await running.send(device, ("t", TS, 21.5, None), ("s", TS, None, '"x"'))

        assert len(await ask(stored)) == len(await ask(stored, "s")) == 1

    async def test_a_message_that_comes_twice_in_one_commit_is_stored_once(
        self, running: Running, device: Identity
    ) -> None:
        running.send(device, ("t", TS, 21.5, None))
        await running.send(device, ("t", TS, 21.5, None))

        assert len(await ask(stored)) == 1

    async def test_one_sent_again_to_another_process_too(self, running: Running, device: Identity) -> None:
        await running.send(device, ("t", TS, 21.5, None))
        other = Running()
        other.ingest.start()

        await other.send(device, ("t", TS, 21.5, None))
        await other.close()

        assert len(await ask(stored)) == 1

    async def test_two_values_at_one_time_are_both_kept(self, running: Running, device: Identity) -> None:
        await running.send(device, ("t", TS, 1.0, None), ("t", TS, 2.0, None), ("t", TS, None, '"2.0"'))

        assert sorted(await ask(stored), key=str) == [(TS, 1.0, None), (TS, 2.0, None), (TS, None, '"2.0"')]

    async def test_equal_values_that_the_server_stamps_in_one_millisecond_are_both_kept(
        self, running: Running, device: Identity
    ) -> None:
        await running.send(device, ("t", None, 1.0, None), ("t", None, 1.0, None))
        await running.send(device, ("t", None, 1.0, None))

        assert await ask(stored) == [(TS, 1.0, None)] * 3

    async def test_the_latest_is_that_of_the_greatest_time_not_the_last_to_arrive(
        self, running: Running, device: Identity
    ) -> None:
        await running.send(device, ("t", TS, 2.0, None), ("t", TS - 1, 1.0, None))
        assert await ask(latest, device.device_id) == (TS, 2.0, None)

        await running.send(device, ("t", TS - 2, 0.0, None))
        assert await ask(latest, device.device_id) == (TS, 2.0, None)

        await running.send(device, ("t", TS + 1, None, '"off"'))
        assert await ask(latest, device.device_id) == (TS + 1, None, '"off"')

    async def test_the_latest_of_equal_times_is_the_last_to_arrive(self, running: Running, device: Identity) -> None:
        for values in ((1.0, 2.0), (5.0, 4.0)):
            await running.send(device, *(("t", TS, value, None) for value in values))
            assert await ask(latest, device.device_id) == (TS, values[-1], None)

    async def test_a_device_is_marked_as_heard_of_once_a_second(self, running: Running, device: Identity) -> None:
        await running.send(device, ("t", None, 1.0, None))
        running.now_ms += 999
        running.monotonic_s += SEEN_INTERVAL_S - 0.001
        await running.send(device, ("t", None, 1.0, None))
        assert await ask(last_seen, device.device_id) == TS

        running.monotonic_s += 0.001
        await running.send(device, ("t", None, 1.0, None))
        assert await ask(last_seen, device.device_id) == TS + 999

    async def test_a_device_that_sends_nothing_in_its_message_is_marked_as_heard_of(
        self, running: Running, device: Identity
    ) -> None:
        await running.send(device)

        assert await ask(last_seen, device.device_id) == TS

    async def test_what_comes_while_a_commit_runs_is_committed_together(
        self, running: Running, device: Identity
    ) -> None:
        await running.send(device, ("t", TS, 0.0, None))
        first = running.send(device, ("t", TS, 0.5, None))
        while running.writer.attempts == 1:
            await asyncio.sleep(0)
        futures = [running.send(device, ("t", TS + number, 1.0, None)) for number in range(1, 100)]
        await first
        await futures[-1]

        assert all(future is futures[0] for future in futures)
        assert [len(batch.rows) for batch in running.committed] == [1, 1, 99]

    async def test_a_new_key_is_known_to_other_processes(self, running: Running, device: Identity) -> None:
        other = Running()
        other.ingest.start()

        await asyncio.gather(*(one.send(device, ("t", TS, 1.0, None)) for one in (running, other)))
        await other.close()

        assert await ask(Key.objects.count) == 1
        assert len(await ask(stored)) == 1


BOUNDS = DeviceOptions(max_keys_per_device=10, max_keys=25)


@pytest.fixture
async def bounded(database: str) -> AsyncIterator[Running]:
    running = Running(BOUNDS)
    running.ingest.start()
    yield running
    await running.close()


def points(names: Iterable[str]) -> list[Point]:
    return [(name, TS, 1.0, None) for name in names]


def numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def refused_keys(bound: str) -> float:
    value: float = metrics.keys_refused.labels(bound)._value.get()
    return value


class TestKeys:
    """The bounds of keys: of one device, told to it alone, and of all; what is known is never refused."""

    async def test_one_device_has_no_more_than_its_share_and_others_notice_nothing(
        self, bounded: Running, device: Identity, caplog: pytest.LogCaptureFixture
    ) -> None:
        other = await ask(make_device, "thermo-2")
        await bounded.send(device, *points(numbered("a", 10)))
        before = refused_keys("max_keys_per_device")

        refused, taken = bounded.send(device, *points(["a0", "new"])), bounded.send(other, *points(["new"]))
        await taken
        with pytest.raises(
            RefusedError, match=r"more than 10 different keys of one device \(max_keys_per_device\)"
        ) as error:
            await refused

        assert error.value.refusal is MessageRefusal.KEYS_OF_DEVICE
        assert len(bounded.committed) == 2
        assert len(await ask(stored, "a0")) == len(await ask(stored, "new")) == 1
        assert await ask(last_seen, other.device_id) == TS
        assert refused_keys("max_keys_per_device") == before + 1
        assert f"thermo-1 ({device.device_id}) has 10 of 10 different keys (max_keys_per_device)" in caplog.text

    async def test_what_a_device_has_it_may_send_whatever_the_bounds_and_after_a_restart(
        self, running: Running, device: Identity
    ) -> None:
        other = await ask(make_device, "thermo-2")
        await running.send(device, *points(numbered("a", 50)))
        await running.close()
        bounded = Running(BOUNDS)
        bounded.ingest.start()

        with pytest.raises(RefusedError, match="max_keys_per_device"):
            await bounded.send(device, *points(numbered("b", 1)))
        with pytest.raises(RefusedError, match=r"more than 25 different keys of all devices \(max_keys\)"):
            await bounded.send(other, *points(numbered("b", 1)))
        await bounded.send(device, *[("a49", TS + 1, 2.0, None)])
        await bounded.send(other, *points(numbered("a", 10)))  # known, if not of this device
        await bounded.close()

        assert await ask(Key.objects.count) == 50
        assert len(await ask(stored, "a49")) == 2

    async def test_all_devices_have_no_more_than_the_bound_in_all_whoever_has_them(self, bounded: Running) -> None:
        devices = [await ask(make_device, f"thermo-{number}") for number in range(4)]
        before = refused_keys("max_keys")

        sent = [bounded.send(device, *points(numbered(device.name, 8))) for device in devices]
        results = await asyncio.gather(*sent, return_exceptions=True)

        assert [isinstance(result, RefusedError) for result in results] == [False, False, False, True]
        assert await ask(Key.objects.count) == 24
        assert await ask(Reading.objects.count) == 24
        assert refused_keys("max_keys") == before + 1
        assert metrics.keys._value.get() == 24

    async def test_a_message_with_one_key_too_many_is_refused_as_a_whole_and_the_next_is_not(
        self, bounded: Running, device: Identity
    ) -> None:
        results = await asyncio.gather(
            bounded.send(device, *points(numbered("a", 9))),
            bounded.send(device, *points(["a0", "b0", "b1"])),
            bounded.send(device, *points(["b2"])),
            bounded.send(device, *points(["a1", "b2"])),
            bounded.send(device, *points(["b3"])),
            return_exceptions=True,
        )

        assert [isinstance(result, RefusedError) for result in results] == [False, True, False, False, True]
        assert await ask(LatestValue.objects.count) == 10
        assert not await ask(Key.objects.filter(name__in=["b0", "b1", "b3"]).exists)

    async def test_messages_with_new_keys_keep_their_place(self, running: Running, device: Identity) -> None:
        await running.send(device, *points("t"))

        for number, key in enumerate(["t", "u", "t", "v", "u", "t"]):
            submitted = running.send(device, ("t", TS, float(number), None), (key, TS, float(number), None))
        await submitted

        assert await ask(latest, device.device_id) == (TS, 5.0, None)
        assert await ask(latest, device.device_id, "u") == (TS, 4.0, None)
        assert [row[5] for row in running.committed[-1].rows if row[1] == running.committed[0].rows[0][1]] == [
            0,
            0,
            1,
            2,
            2,
            3,
            4,
            5,
            5,
        ]

    async def test_a_bound_of_0_is_none(self, database: str, device: Identity) -> None:
        running = Running(DeviceOptions(max_keys_per_device=0, max_keys=0))
        running.ingest.start()

        await running.send(device, *points(numbered("a", 3_000)))
        await running.close()

        assert await ask(Key.objects.count) == 3_000

    async def test_a_refusal_is_made_once_however_often_the_database_is_asked(
        self, bounded: Running, device: Identity
    ) -> None:
        bounded.writer.failures = 3
        before = refused_keys("max_keys_per_device")

        taken, refused = bounded.send(device, *points("t")), bounded.send(device, *points(numbered("a", 10)))
        await taken

        with pytest.raises(RefusedError):
            await refused
        assert refused_keys("max_keys_per_device") == before + 1

    async def test_a_key_that_was_given_up_is_written_under_its_name_all_the_same(
        self, running: Running, device: Identity
    ) -> None:
        await running.send(device, *points("tu"))
        await ask(give_up, device.device_id, "t")
        await ask(Key.objects.create, name="other")

        await running.send(device, ("t", TS + 1, 2.0, None), ("u", TS + 1, 2.0, None))
        await running.send(device, ("t", TS + 2, 3.0, None))

        assert await ask(stored) == [(TS + 1, 2.0, None), (TS + 2, 3.0, None)]
        assert await ask(latest, device.device_id) == (TS + 2, 3.0, None)
        assert len(await ask(stored, "u")) == 2

    async def test_usual_messages_ask_nobody(self, running: Running, device: Identity) -> None:
        await running.send(device, *points("tu"))
        await running.send(device, *points("t"))

        assert [len(batch.new_keys) for batch in running.committed] == [1, 0]


def give_up(device_id: int, key: str) -> None:
    """Deletes a key of the only device that has it."""
    key_id = Key.objects.get(name=key).pk
    Reading.objects.filter(device_id=device_id, key_id=key_id).delete()
    LatestValue.objects.filter(device_id=device_id, key_id=key_id).delete()
    Key.objects.filter(pk=key_id).delete()


class TestClocks:
    """Whatever clocks say, of the gateway or of devices: the latest value follows them back."""

    @pytest.mark.parametrize("ahead_ms", [1, HOUR, 40 * DAY, 1_500 * DAY])
    async def test_what_the_gateway_stamped_while_its_clock_was_ahead_is_followed_by_what_comes_later(
        self, running: Running, device: Identity, ahead_ms: int
    ) -> None:
        running.now_ms = TS + ahead_ms
        await running.send(device, ("t", None, 1.0, None))
        running.now_ms = TS
        running.monotonic_s += SEEN_INTERVAL_S

        await running.send(device, ("t", None, 2.0, None))

        assert await ask(latest, device.device_id) == (TS, 2.0, None)
        assert await ask(last_seen, device.device_id) == TS

    async def test_what_the_gateway_stamped_while_its_clock_was_ahead_is_followed_by_what_comes_later_in_one_commit(
        self, running: Running, device: Identity
    ) -> None:
        for number, now_ms in enumerate((TS, TS + DAY, TS - DAY, TS + HOUR, TS + 1)):
            running.now_ms = now_ms
            submitted = running.send(device, ("t", None, float(number), None))
        await submitted

        assert len(running.committed) == 1
        assert await ask(latest, device.device_id) == (TS + 1, 4.0, None)

    async def test_what_another_gateway_commits_late_is_not_later(self, running: Running, device: Identity) -> None:
        other = Running()
        other.ingest.start()
        other.writer.failures = 2
        late = other.send(device, ("t", None, 1.0, None))
        running.now_ms = other.now_ms = TS + HOUR
        await running.send(device, ("t", None, 2.0, None))

        await late
        await other.close()

        assert await ask(latest, device.device_id) == (TS + HOUR, 2.0, None)
        assert await ask(last_seen, device.device_id) == TS + HOUR

    @pytest.mark.parametrize("ahead_ms", [DAY + 1, 73 * 365 * DAY])
    async def test_a_time_too_far_ahead_is_stored_counted_logged_flagged_and_not_the_latest_value(
        self, running: Running, device: Identity, caplog: pytest.LogCaptureFixture, ahead_ms: int
    ) -> None:
        before = metrics.timestamps_in_the_future._value.get()
        await running.send(device, ("t", TS, 1.0, None))

        await running.send(device, ("t", TS + ahead_ms, 99.0, None), ("u", TS + ahead_ms, 99.0, None))

        assert await ask(stored) == [(TS, 1.0, None), (TS + ahead_ms, 99.0, None)]
        assert await ask(latest, device.device_id) == (TS, 1.0, None)
        with pytest.raises(LatestValue.DoesNotExist):
            await ask(latest, device.device_id, "u")
        assert (await ask(Device.objects.get)).clock_skew_ms == ahead_ms
        assert metrics.timestamps_in_the_future._value.get() == before + 2
        assert f"thermo-1 ({device.device_id}) sends the time {TS + ahead_ms}" in caplog.text

    async def test_a_time_ahead_by_no_more_than_is_allowed_is_the_latest_value(
        self, running: Running, device: Identity
    ) -> None:
        await running.send(device, ("t", TS, 1.0, None), ("t", TS + DAY, 2.0, None))

        assert await ask(latest, device.device_id) == (TS + DAY, 2.0, None)
        assert (await ask(Device.objects.get)).clock_skew_ms is None

    @pytest.mark.parametrize("ts", [None, TS])
    async def test_when_the_clock_is_right_again_the_flag_goes_at_once(
        self, running: Running, device: Identity, ts: int | None
    ) -> None:
        await running.send(device, ("t", TS + 2 * DAY, 99.0, None))

        await running.send(device, ("t", ts, 1.0, None))

        assert await ask(latest, device.device_id) == (TS, 1.0, None)
        assert (await ask(Device.objects.get)).clock_skew_ms is None

    async def test_a_flag_of_before_the_start_goes_too(self, running: Running, device: Identity) -> None:
        await ask(Device.objects.update, clock_skew_ms=DAY)

        await running.send(device, ("t", TS, 1.0, None))

        assert (await ask(Device.objects.get)).clock_skew_ms is None

    async def test_a_latest_value_from_the_future_that_is_stored_already_is_not_shown_and_replaced(
        self, running: Running, device: Identity
    ) -> None:
        key = await ask(Key.objects.create, name="t")
        wrong = LatestValue(device_id=device.device_id, key=key, ts=TS + 2 * DAY, received=TS, number=99.0)
        await ask(wrong.save)
        assert not await ask(LatestValue.objects.exists)

        await running.send(device, ("t", TS - 5, 1.0, None))

        assert await ask(latest, device.device_id) == (TS - 5, 1.0, None)

    @pytest.mark.parametrize("seed", range(12))
    async def test_the_latest_value_is_what_the_specification_says(
        self, running: Running, device: Identity, seed: int
    ) -> None:
        chance = random.Random(seed)
        model: dict[str, Stored] = {}
        heard = TS
        for step in range(150):
            sent: list[tuple[str, Stored]] = []
            for number in range(chance.choice([1, 1, 1, 4])):
                running.now_ms += chance.choice([0, 0, 1, 500, HOUR, -1, -500, -HOUR, 3 * DAY, -3 * DAY])
                running.monotonic_s += SEEN_INTERVAL_S
                key = chance.choice("tu")
                offset = chance.choice([0, 1, 700, -700, -HOUR, HOUR, DAY, DAY + 1, -9 * DAY, 9 * DAY])
                ts = chance.choice([None, None, running.now_ms + offset])
                value = step + number / 10
                submitted = running.send(device, (key, ts, value, None))
                arrived = Stored(running.now_ms if ts is None else ts, running.now_ms, value)
                sent.append((key, arrived))
            await submitted
            for key, arrived in sent:
                model[key] = later(model.get(key), arrived, running.now_ms)
            heard = running.now_ms
            assert await ask(shown, device.device_id) == {
                key: value for key, value in model.items() if value.ts - DAY <= value.received
            }
            assert await ask(last_seen, device.device_id) == heard


class Stored(NamedTuple):
    """A reading, as far as the latest value is concerned."""

    ts: int
    received: int
    value: float


def later(latest: Stored | None, arrived: Stored, now_ms: int) -> Stored:
    """Which of the two is the latest value, by devices.writers.base."""
    if latest is None:
        return arrived
    if arrived.ts - DAY > arrived.received:
        return latest
    now_ms = max(now_ms, arrived.received)
    is_stamped_ahead = latest.ts == latest.received > now_ms
    is_too_far_ahead = latest.ts - DAY > min(now_ms, latest.received)
    return arrived if arrived.ts >= latest.ts or is_stamped_ahead or is_too_far_ahead else latest


def shown(device_id: int) -> dict[str, Stored]:
    """The latest values of a device."""
    rows = LatestValue.objects.filter(device_id=device_id).values_list("key__name", "ts", "received", "number")
    return {key: Stored(*values) for key, *values in rows}


class TestDatabaseAway:
    async def test_nothing_is_acknowledged_and_nothing_lost(
        self, running: Running, device: Identity, caplog: pytest.LogCaptureFixture
    ) -> None:
        running.writer.failures = 4
        early = running.send(device, ("t", TS, 1.0, None))
        while running.writer.failures:
            assert not early.done()
            assert await ask(stored) == []
            late = running.send(device, ("t", TS + 1, 2.0, None))
            await asyncio.sleep(0.01)

        await early
        await late

        assert await ask(stored) == [(TS, 1.0, None), (TS + 1, 2.0, None)]
        assert running.writer.attempts == 6
        failed, over = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert (
            failed == "cannot commit, devices wait; trying again until it works: ConnectionError: the database is away"
        )
        assert re.fullmatch(r"readings are committed again, after \d+\.\d s and 4 failed attempts", over)

    async def test_ingest_says_why_until_it_is_over(self, running: Running, device: Identity) -> None:
        running.writer.failures = 2
        submitted = running.send(device, ("t", TS, 1.0, None))
        while running.ingest.failure is None:
            await asyncio.sleep(0)
        assert running.ingest.failure == "ConnectionError: the database is away"

        await submitted

        assert running.ingest.failure is None

    async def test_who_asks_for_room_waits_when_too_much_waits(self, running: Running, device: Identity) -> None:
        running.writer.failures = 1_000
        submitted = [running.send(device, *[("t", None, 1.0, None)] * 1_000) for _ in range(MAX_WAITING // 1_000)]
        assert not running.ingest.has_room
        waiting = asyncio.ensure_future(running.ingest.ready())
        await asyncio.sleep(0.1)
        assert not waiting.done()

        running.writer.failures = 0
        await waiting
        await submitted[-1]

        assert len(await ask(stored)) == MAX_WAITING

    async def test_long_texts_count_for_many_readings(self, running: Running, device: Identity) -> None:
        running.writer.failures = 1
        submitted = running.send(device, ("t", None, None, '"' + "x" * 64 * MAX_WAITING + '"'))

        assert not running.ingest.has_room
        await submitted
        await running.ingest.ready()

    async def test_closing_commits_the_rest_first(self, running: Running, device: Identity) -> None:
        running.writer.failures = 2
        early = running.send(device, ("t", TS, 1.0, None))
        await asyncio.sleep(0)
        late = running.send(device, ("t", TS + 1, 2.0, None))

        await running.close()

        assert early.done()
        assert late.done()
        assert len(await ask(stored)) == 2

    async def test_closing_that_is_given_up_acknowledges_nothing(self, running: Running, device: Identity) -> None:
        running.writer.failures = 1_000
        submitted = running.send(device, ("t", TS, 1.0, None))

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await running.close()

        assert not submitted.done()
        assert await ask(stored) == []
        await asyncio.to_thread(running.writer.close)


class TestDatabaseSilent:
    """No attempt is waited for without limit, and none is waited for in silence."""

    async def test_a_slow_attempt_is_a_failure_that_is_told_and_counted_while_it_goes_on(
        self, database: str, device: Identity, caplog: pytest.LogCaptureFixture
    ) -> None:
        writer = Hanging(make_writer(DAY))
        writer.hangs = 1
        before = metrics.commits_slow._value.get()
        ingest = Ingest(writer, on_commit=lambda batch: None, options=OPTIONS, slow_s=0.01)
        ingest.start()

        submitted = ingest.submit(device, [("t", TS, 1.0, None)], TS)
        while ingest.failure is None:
            await asyncio.sleep(0.005)

        assert ingest.failure == "no answer from the database for 0.01 s"
        assert not submitted.done()
        assert metrics.commits_slow._value.get() == before + 1
        assert [record.getMessage() for record in caplog.records] == [
            "cannot commit, devices wait; trying again until it works: no answer from the database for 0.01 s"
        ]
        writer.abort()
        await submitted
        await ingest.close()
        assert ingest.failure is None

    async def test_an_attempt_that_hangs_is_ended_and_what_it_may_have_stored_is_stored_once(
        self, database: str, device: Identity
    ) -> None:
        writer = Hanging(make_writer(DAY))
        writer.hangs = 2
        ingest = Ingest(writer, on_commit=lambda batch: None, options=OPTIONS, attempt_s=0.05)
        ingest.start()

        await ingest.submit(device, [("t", TS, 1.0, None), ("t", None, 2.0, None)], TS + 5)
        await ingest.close()

        assert writer.attempts == 3
        assert await ask(stored) == [(TS, 1.0, None), (TS + 5, 2.0, None)]

    async def test_aborting_a_writer_that_does_nothing_does_no_harm(self, writer: Writer) -> None:
        writer.abort()
        writer.key_ids(["t"])
        writer.close()
        writer.abort()

        assert writer.key_ids(["t"])


@pytest.fixture
def proxied(
    postgresql_database: str, postgres_server: PostgresServer
) -> Iterator[tuple[SilentProxy, PostgresqlWriter]]:
    """A writer to PostgreSQL behind a proxy."""
    with silent_proxy(postgres_server.port) as proxy:
        parameters = {**connections["default"].get_connection_params(), "port": proxy.port}
        yield proxy, PostgresqlWriter(parameters, DAY)


async def test_readings_go_through_a_new_connection_when_postgresql_has_fallen_silent(
    proxied: tuple[SilentProxy, PostgresqlWriter], postgresql_database: str
) -> None:
    proxy, writer = proxied
    device = await ask(make_device, "thermo-1")
    ingest = Ingest(writer, on_commit=lambda batch: None, options=OPTIONS, slow_s=0.1, attempt_s=2)
    ingest.start()
    await ingest.submit(device, [("t", TS, 1.0, None)], TS)

    proxy.silence_established()
    submitted = ingest.submit(device, [("t", TS + 1, 2.0, None), ("new", TS, 3.0, None)], TS)
    while ingest.failure is None:
        await asyncio.sleep(0.01)
    await submitted
    await ingest.close()

    assert proxy.connections == 2
    assert await ask(stored) == [(TS, 1.0, None), (TS + 1, 2.0, None)]
    assert await ask(stored, "new") == [(TS, 3.0, None)]


def test_a_device_whose_row_somebody_has_locked_holds_up_no_reading(
    postgresql_database: str, postgres_server: PostgresServer
) -> None:
    locked, other = make_device("thermo-1"), make_device("thermo-2")
    writer = make_writer(DAY)
    key = writer.key_ids(["t"])["t"]
    seen = [Seen(locked.device_id, TS), Seen(other.device_id, TS)]
    with postgres_server.connect(postgresql_database) as holder, holder.transaction():
        holder.execute(f"SELECT 1 FROM {DEVICES} WHERE id = {locked.device_id} FOR UPDATE".encode())

        writer.write(Written([(locked.device_id, key, TS, 1, TS, 1.0, None)], [], seen))

        assert stored() == [(TS, 1.0, None)]
        assert [last_seen(device.device_id) for device in (locked, other)] == [None, TS]
    writer.write(Written([], [], seen))
    writer.close()
    assert last_seen(locked.device_id) == TS


class TestPostgresqlSession:
    def test_a_postgresql_session_has_all_that_libpq_knows_of_the_parameters(self, postgresql_database: str) -> None:
        given = {
            "tcp_user_timeout": "12345",
            "keepalives_idle": "7",
            "application_name": "mine",
            "target_session_attrs": "read-write",
        }
        writer = PostgresqlWriter(connections["default"].get_connection_params() | given, DAY)
        writer.key_ids(["t"])

        assert writer._connection is not None
        used = writer._connection.info.get_parameters()
        assert {name: used[name] for name in given} == given
        writer.close()

    @pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
    @pytest.mark.parametrize(("query", "expected_ms"), [("", 20_000), ("?tcp_user_timeout=5000", 5_000)])
    def test_every_connection_to_postgresql_is_given_up_when_its_packets_are_swallowed(
        self, postgresql_database: str, postgres_server: PostgresServer, query: str, expected_ms: int
    ) -> None:
        config = load(None, environ={"GATEWAY_DATABASE__URL": postgres_server.url(postgresql_database) + query}).config
        with default_database(database_settings(config)):
            writer = PostgresqlWriter(connections["default"].get_connection_params(), DAY)
            writer.key_ids(["t"])
            connections["default"].ensure_connection()
            assert writer._connection is not None

            for connection in (writer._connection, connections["default"].connection):
                with socket.socket(fileno=os.dup(connection.fileno())) as of_connection:
                    assert of_connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == expected_ms
            writer.close()

    def test_a_postgresql_session_keeps_what_it_acknowledges_through_a_power_cut_whatever_the_database_is_set_to(
        self, postgresql_database: str, postgres_server: PostgresServer
    ) -> None:
        parameters = connections["default"].get_connection_params()
        writer = PostgresqlWriter(parameters | {"options": "-c synchronous_commit=off -c work_mem=5MB"}, DAY)
        writer.key_ids(["t"])

        assert writer._connection is not None
        for name, value in (("synchronous_commit", "on"), ("statement_timeout", "30s"), ("work_mem", "5MB")):
            assert writer._connection.execute(f"SHOW {name}".encode()).fetchone() == (value,)
        writer.close()


class TestDataThatTheDatabaseRefuses:
    async def test_data_that_the_database_refuses_are_refused_to_their_device_alone(
        self, running: Running, device: Identity
    ) -> None:
        other = await ask(make_device, "thermo-2")
        running.writer.failures = 1  # so that both are in the second batch
        running.send(device)
        while running.writer.attempts == 0:
            await asyncio.sleep(0)

        bad = running.send(device, ("t", BEYOND_INT64, 1.0, None))
        good = running.send(other, ("t", TS, 2.0, None))
        await good
        with pytest.raises(RefusedError) as refused:
            await bad

        assert refused.value.refusal is MessageRefusal.UNSTORABLE
        assert await ask(stored) == [(TS, 2.0, None)]
        assert await ask(last_seen, other.device_id) == TS

    async def test_what_comes_after_data_that_the_database_refuses_is_stored(
        self, running: Running, device: Identity
    ) -> None:
        with pytest.raises(RefusedError):
            await running.send(device, ("t", BEYOND_INT64, 1.0, None))

        await running.send(device, ("t", TS, 1.0, None))

        assert await ask(stored) == [(TS, 1.0, None)]

    @pytest.mark.parametrize("text", ['"\ud800"', '"nul \0"'])
    async def test_a_text_that_is_none_for_the_database_ends_nothing(
        self, running: Running, device: Identity, text: str
    ) -> None:
        submitted = running.send(device, ("t", None, None, text))
        await asyncio.wait([submitted])

        await running.send(device, ("u", TS, 1.0, None))

        assert await ask(stored, "u") == [(TS, 1.0, None)]


async def test_a_connection_that_the_server_ends_is_replaced(
    postgresql_database: str, device_on_postgresql: Identity
) -> None:
    running = Running()
    running.ingest.start()
    await running.send(device_on_postgresql, ("t", TS, 1.0, None))

    await ask(_end_all_other_connections)
    await running.send(device_on_postgresql, ("t", TS + 1, 2.0, None))
    await running.close()

    assert len(await ask(stored)) == 2


@pytest.fixture
def device_on_postgresql(postgresql_database: str) -> Identity:
    return make_device("thermo-1")


def _end_all_other_connections() -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
