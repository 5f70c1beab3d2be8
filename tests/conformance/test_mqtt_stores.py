"""What the MQTT broker relies on in a store: in memory, SQLite and Redis side by side."""

import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import redis

from protocols.durable_sqlite import DatabaseFile
from protocols.mqtt.storage import redis as redis_store
from protocols.mqtt.storage import sqlite as sqlite_store
from protocols.mqtt.storage.redis import RedisStore
from protocols.mqtt.storage.rows import (
    DELIVERIES,
    KINDS,
    MESSAGES,
    RECEIVED,
    RELEASED,
    RETAINED,
    SESSIONS,
    SUBSCRIPTIONS,
    Changes,
    DeliveryRow,
    MessageRow,
    NewerFormatError,
    ReceivedRow,
    ReleasedRow,
    RetainedRow,
    Row,
    RowKind,
    SessionRow,
    Store,
    StoreError,
    StoreTakenError,
    SubscriptionRow,
)
from protocols.mqtt.storage.sqlite import SqliteStore
from tests.support.mqtt_store import MemoryStore
from tests.support.redis import RedisServer

OpenStore = Callable[[], Store]

ONE_OF_EACH: Mapping[RowKind, Row] = {
    SESSIONS: SessionRow(1, "thermo-1", 3_600, 1_700_000_000.25, b"\x00will", None, "device/7"),
    SUBSCRIPTIONS: SubscriptionRow(1, "$share/g/räume/+/t", 2, 1, 0, 268_435_455),
    MESSAGES: MessageRow(1, "räume/1/t", b"\x00\xff\x80", b"\x05\x02\x00\x00\x00\x09", 1_700_000_000.5),
    DELIVERIES: DeliveryRow(1, 1, 1, 2, 1, 0, "7,8", 65_535, "$share/g/räume/+/t"),
    RELEASED: ReleasedRow(2, 1, 3),
    RECEIVED: ReceivedRow(1, 9),
    RETAINED: RetainedRow("räume/1/t", b"", 1, b"\x00", None, "thermo-1", "device/7"),
}


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """A database of this test's own."""
    url = f"{redis_server.url}/7"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the store as a process that starts does; the one before it may be open still, if it was killed."""
    opened: list[Store] = []
    memory = MemoryStore()

    def open_one() -> Store:
        match request.param:
            case "memory":
                store: Store = memory
            case "sqlite":
                store = SqliteStore(tmp_path / "mqtt.sqlite3")
            case _:
                store = RedisStore(request.getfixturevalue("redis_url"), place="here")
        store.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


def rows(store: Store) -> dict[RowKind, list[Row]]:
    """All that the store has, without the kinds of which there is nothing."""
    return {kind: [tuple(row) for row in some] for kind, some in store.load().items() if some}


def put(kind: RowKind, *some: Row) -> Changes:
    return Changes(put={kind: some})


class TestKeeping:
    def test_a_new_store_is_empty_in_every_kind(self, open_store: OpenStore) -> None:
        loaded = open_store().load()

        assert set(loaded) == set(KINDS)
        assert not any(list(some) for some in loaded.values())

    def test_every_kind_of_row_comes_back_as_it_was_to_another_process(self, open_store: OpenStore) -> None:
        open_store().write(Changes(put={kind: [row] for kind, row in ONE_OF_EACH.items()}))

        assert rows(open_store()) == {kind: [tuple(row)] for kind, row in ONE_OF_EACH.items()}

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
    def test_a_row_replaces_that_of_its_key_and_is_removed_by_it(self, open_store: OpenStore, kind: RowKind) -> None:
        store, row = open_store(), tuple(ONE_OF_EACH[kind])
        key = row[: kind.key_width]
        store.write(put(kind, row))
        store.write(put(kind, row))
        assert rows(store) == {kind: [row]}

        store.write(Changes(removed={kind: [key]}))
        store.write(Changes(removed={kind: [key]}))

        assert rows(store) == {}

    def test_rows_come_in_the_order_of_their_numbers(self, open_store: OpenStore) -> None:
        numbers = [2, 10, 9, 1, 100, 2_000_000_000_000]
        open_store().write(put(RELEASED, *(ReleasedRow(number, 1, 1) for number in numbers)))

        assert [row[0] for row in rows(open_store())[RELEASED]] == sorted(numbers)

    def test_one_group_puts_and_removes_rows_of_many_kinds(self, open_store: OpenStore) -> None:
        store = open_store()
        store.write(
            put(DELIVERIES, *(DeliveryRow(number, 1, number, 1, 0, 1, "", 0, "") for number in range(1, 5_001)))
        )

        store.write(
            Changes(
                put={RELEASED: [ReleasedRow(1, 1, 7)]},
                removed={DELIVERIES: [(number,) for number in range(1, 5_000)], RECEIVED: [(1, 1)]},
            )
        )

        assert rows(open_store()) == {
            DELIVERIES: [(5_000, 1, 5_000, 1, 0, 1, "", 0, "")],
            RELEASED: [(1, 1, 7)],
        }

    def test_a_store_holds_what_a_dict_would_whatever_the_order_of_changes(self, open_store: OpenStore) -> None:
        chance = random.Random(7)
        store, model = open_store(), {}
        for _ in range(30):
            keys = chance.sample(range(20), 8)
            there = [RetainedRow(f"t/{key}", chance.randbytes(4), 0, b"\0", None, "", "") for key in keys[:5]]
            gone: list[Row] = [(f"t/{key}",) for key in keys[5:]]
            store.write(Changes(put={RETAINED: there}, removed={RETAINED: gone}))
            model.update({row.topic: row for row in there})
            for (topic,) in gone:
                model.pop(topic, None)

        assert {row[0]: row for row in rows(open_store())[RETAINED]} == model

    def test_a_closed_store_can_be_opened_again(self, open_store: OpenStore) -> None:
        store = open_store()
        store.write(put(RELEASED, ReleasedRow(1, 1, 1)))
        store.close()
        store.close()

        store.open()

        assert rows(store) == {RELEASED: [(1, 1, 1)]}


class TestSqliteFailures:
    def test_a_file_that_is_none_of_sqlite_is_refused_with_its_name(self, tmp_path: Path) -> None:
        path = tmp_path / "mqtt.sqlite3"
        path.write_bytes(b"not a database, but long enough to be looked at" * 100)

        with pytest.raises(StoreError, match=r"cannot use .*mqtt\.sqlite3: file is not a database"):
            SqliteStore(path).open()

    def test_what_could_not_be_written_can_be_written_again(self, tmp_path: Path) -> None:
        path = tmp_path / "mqtt.sqlite3"
        store = SqliteStore(path)
        store.open()
        with sqlite3.connect(path) as other:
            other.execute("DROP TABLE released")
            changes = Changes(put={RETAINED: [ONE_OF_EACH[RETAINED]], RELEASED: [ONE_OF_EACH[RELEASED]]})
            other.commit()
            with pytest.raises(StoreError, match="released"):
                store.write(changes)
            assert other.execute("SELECT count(*) FROM retained").fetchone() == (0,)
            other.execute("CREATE TABLE released (seq INTEGER PRIMARY KEY, session_id, packet_id)")
            other.commit()
        other.close()

        store.write(changes)

        assert rows(store) == {kind: [tuple(some[0])] for kind, some in changes.put.items()}
        store.close()

    def test_nothing_is_kept_of_a_group_that_the_disk_has_no_room_for(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "mqtt.sqlite3")
        store.open()
        store._file.open().execute("PRAGMA max_page_count = 30")
        changes = put(
            RETAINED, *(RetainedRow(f"t/{number}", b"x" * 1_000, 1, b"\0", None, "", "") for number in range(200))
        )

        with pytest.raises(StoreError, match="database or disk is full"):
            store.write(changes)
        other = SqliteStore(store.path)
        other.open()
        assert rows(other) == {}
        other.close()

        store.write(changes)  # a new connection, without the limit
        assert len(rows(store)[RETAINED]) == 200
        store.close()

    def test_what_is_written_to_a_file_that_was_moved_away_is_not_kept_until_it_is_back(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "mqtt.sqlite3")
        store.open()
        store.path.rename(tmp_path / "away")

        for change in (lambda: store.write(put(RETAINED, ONE_OF_EACH[RETAINED])), store.keep):
            with pytest.raises(StoreError, match=r"mqtt\.sqlite3"):
                change()
        (tmp_path / "away").rename(store.path)
        store.write(put(SESSIONS, ONE_OF_EACH[SESSIONS]))

        assert rows(store)[SESSIONS] == [tuple(ONE_OF_EACH[SESSIONS])]
        store.close()

    def test_a_file_that_takes_its_place_is_anothers(self, tmp_path: Path) -> None:
        """What is in it is not what the process has in memory, and only changes of that are written."""
        store = SqliteStore(tmp_path / "mqtt.sqlite3")
        store.open()
        backup = SqliteStore(tmp_path / "backup")
        backup.open()
        backup.close()
        backup.path.rename(store.path)

        with pytest.raises(StoreError, match="was replaced by another file"):
            store.keep()
        for _ in range(2):
            with pytest.raises(StoreTakenError, match="was replaced by another file"):
                store.write(put(RETAINED, ONE_OF_EACH[RETAINED]))

        again = SqliteStore(store.path)
        again.open()
        assert rows(again) == {}
        again.close()
        store.close()

    def test_keeping_finds_a_file_that_is_locked(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "mqtt.sqlite3")
        store._file = DatabaseFile(store.path, timeout_s=0)
        store.open()
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")

            with pytest.raises(StoreError, match="locked"):
                store.keep()
        store.keep()
        store.close()

    def test_the_file_is_its_users_alone(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "mqtt.sqlite3")
        store.open()
        store.close()

        assert store.path.stat().st_mode & 0o777 == 0o600

    def test_rows_are_removed_by_their_keys_without_reading_the_table(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "mqtt.sqlite3")
        store.open()
        store.close()

        with closing(sqlite3.connect(store.path)) as connection:
            for kind, statement in sqlite_store._REMOVE.items():
                row = f"({', '.join('?' * kind.key_width)})"
                sql = f"EXPLAIN QUERY PLAN {statement.before} {row}, {row} {statement.after}"
                plan = [step for *_, step in connection.execute(sql, (1,) * kind.key_width * 2)]
                assert any(step.startswith(f"SEARCH {kind.name} USING") for step in plan), plan

    def test_a_commit_survives_a_power_cut(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "mqtt.sqlite3")
        store.open()

        connection = store._file.open()
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        store.close()


class TestFormats:
    def test_sqlite_brings_an_older_format_up_to_date_and_keeps_the_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "mqtt.sqlite3"
        old = SqliteStore(path)
        old.open()
        old.write(put(RETAINED, ONE_OF_EACH[RETAINED]))
        old.close()

        def to_the_next(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE retained SET qos = 2")

        new = SqliteStore(path, migrations=(*sqlite_store.MIGRATIONS, to_the_next))
        new.open()
        assert rows(new)[RETAINED][0][2] == 2
        new.write(put(RETAINED, ONE_OF_EACH[RETAINED]))
        new.close()
        new.open()
        assert rows(new)[RETAINED][0][2] == 1, "a step is done once"
        new.close()

        newest = len(sqlite_store.MIGRATIONS)
        with pytest.raises(
            NewerFormatError, match=rf"{path} has format {newest + 1}, of a later version; .* formats up to {newest}"
        ):
            old.open()

    def test_sqlite_fills_what_rows_of_the_first_format_lack(self, tmp_path: Path) -> None:
        path = tmp_path / "mqtt.sqlite3"
        first = SqliteStore(path, migrations=sqlite_store.MIGRATIONS[:1])
        first.open()
        first.close()
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO delivery VALUES (1, 1, 1, 2, 1, 0, '7,8', 65535)")
            connection.execute("INSERT INTO retained VALUES ('a', x'01', 1, x'00', NULL)")
            connection.execute("INSERT INTO session VALUES (1, 'thermo-1', 60, NULL, NULL, NULL)")

        store = SqliteStore(path)
        store.open()

        assert rows(store) == {
            SESSIONS: [(1, "thermo-1", 60, None, None, None, "")],
            DELIVERIES: [(1, 1, 1, 2, 1, 0, "7,8", 65_535, "")],
            RETAINED: [("a", b"\1", 1, b"\0", None, "", "")],
        }
        store.close()

    def test_a_step_that_fails_leaves_the_format_of_before(self, tmp_path: Path) -> None:
        path = tmp_path / "mqtt.sqlite3"

        def fails_halfway(connection: sqlite3.Connection) -> None:
            connection.execute("DROP TABLE retained")
            connection.execute("DROP TABLE nothing_of_that_name")

        with pytest.raises(StoreError, match="nothing_of_that_name"):
            SqliteStore(path, migrations=(*sqlite_store.MIGRATIONS, fails_halfway)).open()

        store = SqliteStore(path)
        store.open()
        assert rows(store) == {}
        store.close()

    def test_redis_brings_an_older_format_up_to_date_and_refuses_a_newer(self, redis_url: str) -> None:
        old = RedisStore(redis_url, place="here")
        old.open()
        old.write(put(RETAINED, ONE_OF_EACH[RETAINED]))
        old.close()
        steps: list[str] = []
        new = RedisStore(
            redis_url, place="here", migrations=(*redis_store.MIGRATIONS, lambda client: steps.append("to the next"))
        )

        for _ in range(2):
            new.open()
            assert rows(new) == {RETAINED: [tuple(ONE_OF_EACH[RETAINED])]}
            new.close()

        assert steps == ["to the next"]
        with pytest.raises(NewerFormatError, match=f"Redis has format {len(redis_store.MIGRATIONS) + 1}"):
            old.open()

    def test_redis_fills_what_rows_of_the_first_format_lack(self, redis_url: str) -> None:
        first = RedisStore(redis_url, place="here", migrations=redis_store.MIGRATIONS[:1])
        first.open()
        old = (1, 1, 1, 2, 1, 0, "7,8", 65_535)
        first.write(put(DELIVERIES, old, (2, *old[1:])))
        first.write(put(RETAINED, ("a", b"\1", 1, b"\0", None)))
        first.write(put(SESSIONS, (1, "thermo-1", 60, None, None, None)))
        first.close()
        store = RedisStore(redis_url, place="here")

        store.open()
        for step in redis_store.MIGRATIONS[1:]:  # once more, as after an interruption
            step(store._client)

        assert rows(store) == {
            SESSIONS: [(1, "thermo-1", 60, None, None, None, "")],
            DELIVERIES: [(*old, ""), (2, *old[1:], "")],
            RETAINED: [("a", b"\1", 1, b"\0", None, "", "")],
        }
        store.close()


class TestOneOwnerInRedis:
    def test_a_process_that_starts_where_the_last_one_was_killed_does_not_wait(self, redis_url: str) -> None:
        killed, next_one = RedisStore(redis_url, place="here"), RedisStore(redis_url, place="here")
        killed.open()
        killed.write(put(RELEASED, ReleasedRow(1, 1, 1)))

        next_one.open()

        assert rows(next_one) == {RELEASED: [(1, 1, 1)]}
        with pytest.raises(StoreTakenError):
            killed.write(put(RELEASED, ReleasedRow(2, 1, 1)))
        with pytest.raises(StoreTakenError):
            killed.keep()
        killed.close()
        next_one.write(put(RELEASED, ReleasedRow(3, 1, 1)))
        assert rows(next_one) == {RELEASED: [(1, 1, 1), (3, 1, 1)]}
        next_one.close()

    def test_elsewhere_it_waits_until_the_owner_has_gone(self, redis_url: str) -> None:
        owner, other = RedisStore(redis_url, place="here"), RedisStore(redis_url, place="there")
        owner.open()
        assert not other._take()

        owner.close()

        other.open()
        other.keep()
        other.close()

    def test_a_store_in_redis_gives_up_when_the_owner_stays(self, redis_url: str, redis_server: RedisServer) -> None:
        owner = RedisStore(redis_url, place="here")
        other = RedisStore(redis_url, place="there", wait_s=0.1)
        owner.open()

        with pytest.raises(StoreTakenError, match="in use by another gateway"):
            other.open()

        owner.keep()
        owner.close()
        other.close()

    def test_an_owner_whose_time_ran_out_goes_on_if_nobody_has_come(self, redis_url: str) -> None:
        owner = RedisStore(redis_url, place="here")
        owner.open()
        with redis.Redis.from_url(redis_url) as client:
            client.delete(redis_store.PREFIX + "owner")

        owner.write(put(RELEASED, ReleasedRow(1, 1, 1)))

        owner.close()

    def test_an_owner_whose_time_ran_out_stops_if_somebody_has_come_and_gone(self, redis_url: str) -> None:
        owner, other = RedisStore(redis_url, place="here"), RedisStore(redis_url, place="there")
        owner.open()
        with redis.Redis.from_url(redis_url) as client:
            client.delete(redis_store.PREFIX + "owner")
        other.open()
        other.close()

        with pytest.raises(StoreTakenError, match="another gateway has taken over"):
            owner.write(put(RELEASED, ReleasedRow(1, 1, 1)))

        owner.close()

    def test_a_redis_that_has_lost_its_rows_is_not_written_to_as_if_it_had_them(self, redis_url: str) -> None:
        owner = RedisStore(redis_url, place="here")
        owner.open()
        with redis.Redis.from_url(redis_url) as client:
            client.flushdb()

        with pytest.raises(StoreTakenError, match="Redis has lost"):
            owner.write(put(RELEASED, ReleasedRow(1, 1, 1)))

        owner.close()

    def test_a_server_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="cannot use Redis"):
            RedisStore(f"unix://{tmp_path}/nothing.sock", place="here").open()
