"""What every writer of readings does, and ingest with it: SQLite and PostgreSQL side by side."""

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import connections

from devices import metrics
from devices.credentials import Identity
from devices.ingest import MAX_WAITING, SEEN_INTERVAL_MS, Group, Ingest
from devices.models import Device, DeviceType, Key, LatestValue, Reading
from devices.profiles import PROFILES, Point
from devices.writers import Batch, Row, Writer, make_writer
from devices.writers.base import DEVICES
from devices.writers.postgresql import PostgresqlWriter
from gateway.db import database_sync_to_async
from gateway.exceptions import Reject
from tests.support.postgres import PostgresServer
from tests.support.silent_proxy import SilentProxy, silent_proxy

TS = 1_700_000_000_000
BEYOND_INT64 = 2**63


@pytest.fixture
def writer(database: str) -> Iterator[Writer]:
    writer = make_writer()
    yield writer
    writer.close()


@pytest.fixture
def device(database: str) -> Identity:
    return make_device("thermo-1")


def make_device(name: str) -> Identity:
    device_type, _ = DeviceType.objects.get_or_create(name="default")
    device = Device.objects.create(name=name, type=device_type)
    return Identity(device.pk, device.name, PROFILES["thingsboard"], 0)


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
    latest: Sequence[Row] = ()
    seen: Sequence[tuple[int, int]] = field(default_factory=list)


class TestWriter:
    def test_gives_each_key_a_number_that_stays(self, writer: Writer) -> None:
        first = writer.key_ids(["temperature", "humidity"])
        second = writer.key_ids(["humidity", "grün"])

        assert second["humidity"] == first["humidity"]
        assert len({*first.values(), *second.values()}) == 3
        assert dict(Key.objects.values_list("name", "id")) == first | second

    def test_writes_all_of_a_batch(self, writer: Writer, device: Identity) -> None:
        key = writer.key_ids(["t"])["t"]
        row: Row = (device.device_id, key, TS, 1, TS + 5, 21.5, None)

        writer.write(Written([row], [row], [(TS + 5, device.device_id)]))

        assert stored() == [(TS, 21.5, None)]
        assert latest(device.device_id) == (TS, 21.5, None)
        assert last_seen(device.device_id) == TS + 5

    def test_or_nothing_of_it(self, writer: Writer, device: Identity) -> None:
        key = writer.key_ids(["t"])["t"]
        good: Row = (device.device_id, key, TS, 1, TS, 21.5, None)
        bad: Row = (device.device_id, key, BEYOND_INT64, 1, TS, 21.5, None)

        with pytest.raises(writer.data_errors):
            writer.write(Written([good, bad], [good], [(TS, device.device_id)]))

        assert stored() == []
        assert last_seen(device.device_id) is None

    def test_goes_on_after_a_fault_in_the_data(self, writer: Writer, device: Identity) -> None:
        self.test_or_nothing_of_it(writer, device)

        self.test_writes_all_of_a_batch(writer, device)

    def test_leaves_a_reading_that_is_stored_as_it_is(self, writer: Writer, device: Identity) -> None:
        key = writer.key_ids(["t"])["t"]
        writer.write(Written([(device.device_id, key, TS, 1, TS, 1.0, None)]))

        writer.write(Written([(device.device_id, key, TS, 1, TS + 9, 2.0, None)]))

        assert stored() == [(TS, 1.0, None)]

    def test_never_puts_last_seen_back(self, writer: Writer, device: Identity) -> None:
        writer.write(Written([], [], [(TS, device.device_id)]))

        writer.write(Written([], [], [(TS - 1, device.device_id)]))

        assert last_seen(device.device_id) == TS

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
    def test_keeps_every_value_exactly(
        self, writer: Writer, device: Identity, number: float | None, text: str | None
    ) -> None:
        key = writer.key_ids(["t"])["t"]
        row: Row = (device.device_id, key, TS, 1, TS, number, text)

        writer.write(Written([row], [row]))

        assert stored() == [(TS, number, text)]
        assert latest(device.device_id) == (TS, number, text)

    def test_takes_a_reading_of_a_device_that_was_deleted_meanwhile(self, writer: Writer) -> None:
        key = writer.key_ids(["t"])["t"]

        writer.write(Written([(4711, key, TS, 1, TS, 1.0, None)], seen=[(TS, 4711)]))

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

    def key_ids(self, names: Sequence[str]) -> dict[str, int]:
        return self._writer.key_ids(names)

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
    """Ingest at work on the writer of the test's database."""

    def __init__(self) -> None:
        self.writer = Unsteady(make_writer())
        self.committed: list[Group] = []
        self.ingest = Ingest(self.writer, on_commit=self.committed.append)
        self.is_closed = False

    def send(self, device: Identity, *points: Point, received_ms: int = TS) -> "asyncio.Future[None]":
        return self.ingest.submit(device, points, received_ms)

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


async def ask(query: Callable[..., Any], *arguments: Any) -> Any:
    return await database_sync_to_async(query)(*arguments)


class TestIngest:
    async def test_what_is_acknowledged_is_stored(self, running: Running, device: Identity) -> None:
        await running.send(device, ("t", TS, 21.5, None), ("open", TS, 1.0, "true"))

        assert await ask(stored) == [(TS, 21.5, None)]
        assert await ask(stored, "open") == [(TS, 1.0, "true")]

    async def test_a_message_sent_again_is_stored_once(self, running: Running, device: Identity) -> None:
        for _ in range(2):
            await running.send(device, ("t", TS, 21.5, None), ("s", TS, None, '"x"'))

        assert len(await ask(stored)) == len(await ask(stored, "s")) == 1

    async def test_so_is_one_that_comes_twice_in_one_commit(self, running: Running, device: Identity) -> None:
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

    async def test_of_equal_times_it_is_the_last_to_arrive(self, running: Running, device: Identity) -> None:
        for values in ((1.0, 2.0), (5.0, 4.0)):
            await running.send(device, *(("t", TS, value, None) for value in values))
            assert await ask(latest, device.device_id) == (TS, values[-1], None)

    async def test_a_device_is_marked_as_heard_of_once_a_second(self, running: Running, device: Identity) -> None:
        await running.send(device, ("t", None, 1.0, None), received_ms=TS)
        await running.send(device, ("t", None, 1.0, None), received_ms=TS + SEEN_INTERVAL_MS - 1)
        assert await ask(last_seen, device.device_id) == TS

        await running.send(device, ("t", None, 1.0, None), received_ms=TS + SEEN_INTERVAL_MS)
        assert await ask(last_seen, device.device_id) == TS + SEEN_INTERVAL_MS

    async def test_so_is_one_that_sends_nothing_in_its_message(self, running: Running, device: Identity) -> None:
        await running.send(device)

        assert await ask(last_seen, device.device_id) == TS

    async def test_what_comes_while_a_commit_runs_is_committed_together(
        self, running: Running, device: Identity
    ) -> None:
        first = running.send(device, ("t", TS, 0.0, None))
        while running.writer.attempts == 0:
            await asyncio.sleep(0)
        futures = [running.send(device, ("t", TS + number, 1.0, None)) for number in range(1, 100)]
        await first
        await futures[-1]

        assert all(future is futures[0] for future in futures)
        assert [len(group.rows) for group in running.committed] == [1, 99]

    async def test_a_new_key_is_known_to_other_processes(self, running: Running, device: Identity) -> None:
        other = Running()
        other.ingest.start()

        await asyncio.gather(*(one.send(device, ("t", TS, 1.0, None)) for one in (running, other)))
        await other.close()

        assert await ask(Key.objects.count) == 1
        assert len(await ask(stored)) == 1


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

    async def test_those_who_ask_for_room_wait_when_too_much_waits(self, running: Running, device: Identity) -> None:
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
        writer = Hanging(make_writer())
        writer.hangs = 1
        before = metrics.commits_slow._value.get()
        ingest = Ingest(writer, on_commit=lambda group: None, slow_s=0.01)
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
        writer = Hanging(make_writer())
        writer.hangs = 2
        ingest = Ingest(writer, on_commit=lambda group: None, attempt_s=0.05)
        ingest.start()

        await ingest.submit(device, [("t", TS, 1.0, None), ("t", None, 2.0, None)], TS + 5)
        await ingest.close()

        assert writer.attempts == 3
        assert await ask(stored) == [(TS, 1.0, None), (TS + 5, 2.0, None)]

    async def test_to_abort_a_writer_that_does_nothing_does_no_harm(self, writer: Writer) -> None:
        writer.abort()
        writer.key_ids(["t"])
        writer.close()
        writer.abort()

        assert writer.key_ids(["t"])


@pytest.fixture
async def proxied(
    postgresql_database: str, postgres_server: PostgresServer
) -> AsyncIterator[tuple[SilentProxy, PostgresqlWriter]]:
    """A writer to PostgreSQL behind a proxy."""
    async with silent_proxy(postgres_server.port) as proxy:
        parameters = {**connections["default"].get_connection_params(), "port": proxy.port}
        writer = PostgresqlWriter(parameters)
        yield proxy, writer


async def test_readings_go_through_a_new_connection_when_postgresql_has_fallen_silent(
    proxied: tuple[SilentProxy, PostgresqlWriter], postgresql_database: str
) -> None:
    proxy, writer = proxied
    device = await ask(make_device, "thermo-1")
    ingest = Ingest(writer, on_commit=lambda group: None, slow_s=0.1, attempt_s=2)
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
    writer = make_writer()
    key = writer.key_ids(["t"])["t"]
    seen = [(TS, locked.device_id), (TS, other.device_id)]
    with postgres_server.connect(postgresql_database) as holder, holder.transaction():
        holder.execute(f"SELECT 1 FROM {DEVICES} WHERE id = {locked.device_id} FOR UPDATE".encode())

        writer.write(Written([(locked.device_id, key, TS, 1, TS, 1.0, None)], [], seen))

        assert stored() == [(TS, 1.0, None)]
        assert [last_seen(device.device_id) for device in (locked, other)] == [None, TS]
    writer.write(Written([], [], seen))
    writer.close()
    assert last_seen(locked.device_id) == TS


class TestPostgresqlSession:
    def test_has_all_that_libpq_knows_of_the_parameters(self, postgresql_database: str) -> None:
        given = {
            "tcp_user_timeout": "12345",
            "keepalives_idle": "7",
            "application_name": "mine",
            "target_session_attrs": "read-write",
        }
        writer = PostgresqlWriter(connections["default"].get_connection_params() | given)
        writer.key_ids(["t"])

        assert writer._connection is not None
        used = writer._connection.info.get_parameters()
        assert {name: used[name] for name in given} == given
        writer.close()

    def test_keeps_what_it_acknowledges_through_a_power_cut_whatever_the_database_is_set_to(
        self, postgresql_database: str, postgres_server: PostgresServer
    ) -> None:
        parameters = connections["default"].get_connection_params()
        writer = PostgresqlWriter(parameters | {"options": "-c synchronous_commit=off -c work_mem=5MB"})
        writer.key_ids(["t"])

        assert writer._connection is not None
        for name, value in (("synchronous_commit", "on"), ("statement_timeout", "30s"), ("work_mem", "5MB")):
            assert writer._connection.execute(f"SHOW {name}".encode()).fetchone() == (value,)
        writer.close()


class TestDataThatTheDatabaseRefuses:
    async def test_is_refused_to_its_device_alone(self, running: Running, device: Identity) -> None:
        other = await ask(make_device, "thermo-2")
        running.writer.failures = 1  # so that both are in the second group
        running.send(device)
        while running.writer.attempts == 0:
            await asyncio.sleep(0)

        bad = running.send(device, ("t", BEYOND_INT64, 1.0, None))
        good = running.send(other, ("t", TS, 2.0, None))
        await good
        with pytest.raises(Reject) as refused:
            await bad

        assert (refused.value.reason_code, refused.value.disconnect) == (0x83, True)
        assert await ask(stored) == [(TS, 2.0, None)]
        assert await ask(last_seen, other.device_id) == TS

    async def test_and_what_comes_after_it_is_stored(self, running: Running, device: Identity) -> None:
        with pytest.raises(Reject):
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
