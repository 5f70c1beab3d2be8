"""Readings into PostgreSQL: COPY into a temporary table, then one INSERT ... SELECT; one transaction per batch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import psycopg

from devices.writers.base import (
    DEVICES,
    KEYS,
    LATEST,
    LATEST_COLUMNS,
    READINGS,
    ROW_COLUMNS,
    Batch,
    Row,
    UnknownKeyError,
)
from gateway.databases.abortable import AbortableConnection

STATEMENT_TIMEOUT_S: Final = 30
OPTIONS: Final = f"-c statement_timeout={STATEMENT_TIMEOUT_S}s -c synchronous_commit=on"
"""Settings of the writer's sessions. A reading that is acknowledged survives a power cut, whatever the database or its
user is set to."""

_KEYWORDS: Final = frozenset(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults())

_STAGING = """
    CREATE TEMPORARY TABLE IF NOT EXISTS incoming (
        device_id bigint, key_id bigint, ts bigint, seq integer, received bigint, number double precision, text text
    ) ON COMMIT DELETE ROWS
"""
_COPY = f"COPY incoming ({ROW_COLUMNS}) FROM STDIN"
_INSERT = f"INSERT INTO {READINGS} ({ROW_COLUMNS}) SELECT {ROW_COLUMNS} FROM incoming ON CONFLICT DO NOTHING"  # noqa: S608
_INSERT_LATEST = f"""
    INSERT INTO {LATEST} ({LATEST_COLUMNS})
    SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::double precision[], %s::text[])
    ON CONFLICT (device_id, key_id) DO NOTHING
"""  # noqa: S608
_UPSERT = _INSERT_LATEST.replace(
    "DO NOTHING",
    f"""DO UPDATE SET
        ts = excluded.ts, received = excluded.received, number = excluded.number, text = excluded.text
    WHERE excluded.ts >= {LATEST}.ts
        OR {LATEST}.ts = {LATEST}.received AND {LATEST}.ts > greatest(%s, excluded.received)
        OR {LATEST}.ts - %s > least(greatest(%s, excluded.received), {LATEST}.received)
    """,
)
_SEEN = f"""
    UPDATE {DEVICES} SET last_seen_ms = seen.at, clock_skew_ms = seen.skew FROM (
        SELECT id, at, skew FROM {DEVICES}
        JOIN unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS heard (device_id, at, skew) ON id = device_id
        WHERE last_seen_ms IS NULL OR last_seen_ms <= at OR last_seen_ms > %s
        ORDER BY id FOR NO KEY UPDATE OF {DEVICES} SKIP LOCKED
    ) AS seen WHERE {DEVICES}.id = seen.id
"""  # noqa: S608
"""Skips a locked row, which the next message marks: readings do not wait for it."""


class PostgresqlWriter:
    """Writes through a psycopg connection of its own."""

    data_errors: tuple[type[Exception], ...] = (
        psycopg.DataError,
        psycopg.IntegrityError,
        OverflowError,
        TypeError,
        ValueError,  # UnicodeEncodeError is one
    )

    def __init__(self, parameters: Mapping[str, Any], max_clock_skew_ms: int) -> None:
        """`parameters` are those Django connects with; what libpq knows of them is used, the rest is Django's own."""
        own = {name: value for name, value in parameters.items() if name in _KEYWORDS}
        options = f"{own.get('options', '')} {OPTIONS}".strip()
        self._parameters = {"application_name": "fieldgate ingest"} | own | {"options": options}
        self._max_clock_skew_ms = max_clock_skew_ms
        self._connection: psycopg.Connection | None = None
        self._abortable = AbortableConnection()

    def find_keys(self, names: Sequence[str]) -> dict[str, int]:
        return dict(self._rows(f"SELECT name, id FROM {KEYS} WHERE name = ANY(%s)", list(names)))  # noqa: S608

    def held_pairs(self, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        query = f"""
            SELECT device_id, key_id FROM {LATEST}
            JOIN unnest(%s::bigint[], %s::bigint[]) AS pair (device, key) ON device_id = device AND key_id = key
        """  # noqa: S608
        return set(self._rows(query, *_columns(pairs))) if pairs else set()

    def count_held(self, device_ids: Sequence[int]) -> dict[int, int]:
        query = f"SELECT device_id, count(*) FROM {LATEST} WHERE device_id = ANY(%s) GROUP BY 1"  # noqa: S608
        return dict(self._rows(query, list(device_ids)))

    def count_keys(self) -> int:
        ((count,),) = self._rows(f"SELECT count(*) FROM {KEYS}")  # noqa: S608
        return int(count)

    def _rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._open().transaction(), self._open().cursor() as cursor:
            cursor.execute(query.encode(), parameters)
            return cursor.fetchall()

    def key_ids(self, names: Sequence[str]) -> dict[str, int]:
        with self._open().transaction(), self._open().cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {KEYS} (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING",
                [sorted(names)],
            )
            cursor.execute(f"SELECT name, id FROM {KEYS} WHERE name = ANY(%s)", [list(names)])  # noqa: S608
            return dict(cursor.fetchall())

    def write(self, batch: Batch) -> None:
        try:
            self._write(self._open(), batch)
        except psycopg.errors.ForeignKeyViolation as error:
            raise UnknownKeyError from error

    def _write(self, connection: psycopg.Connection, batch: Batch) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            with cursor.copy(_COPY) as copy:
                for row in batch.rows:
                    copy.write_row(row)
            cursor.execute(_INSERT)
            now_ms = batch.now_ms
            for step in batch.latest:
                cursor.execute(_UPSERT, [*_latest_columns(step), now_ms, self._max_clock_skew_ms, now_ms])
            if batch.ahead:
                cursor.execute(_INSERT_LATEST, _latest_columns(batch.ahead))
            if batch.seen:
                cursor.execute(_SEEN, [*_columns(batch.seen), now_ms])

    def abort(self) -> None:
        """Making a connection is not aborted: it has `connect_timeout`."""
        self._abortable.abort()

    def close(self) -> None:
        self._abortable.release()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self.close()
            self._connection = psycopg.connect(**self._parameters, autocommit=True)
            self._abortable.hold(self._connection)
            self._connection.execute(_STAGING)
        return self._connection


def _latest_columns(rows: Sequence[Row]) -> list[list[Any]]:
    # In the order of device and key: two gateways that write the same devices lock rows in the same order.
    return _columns(row[:3] + row[4:] for row in sorted(rows, key=_device_and_key))


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _device_and_key(row: Row) -> tuple[int, int]:
    return row[:2]
