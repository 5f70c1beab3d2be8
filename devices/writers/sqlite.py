"""Readings into SQLite: one transaction per batch, durable when it returns (WAL, synchronous=FULL)."""

import json
import sqlite3
from collections.abc import Sequence
from os import PathLike
from typing import Final

from devices.writers.base import (
    DEVICES,
    KEYS,
    LATEST,
    LATEST_COLUMNS,
    READINGS,
    ROW_COLUMNS,
    Batch,
    DatabaseReplacedError,
    UnknownKeyError,
)
from protocols.durable_sqlite import DatabaseFile, Identity, RowsStatement, execute_with_rows

BUSY_TIMEOUT_S: Final = 2.0
"""How long one attempt waits for a lock. devices.ingest retries for ever, and logs that it does."""

_INSERT = RowsStatement(f"INSERT OR IGNORE INTO {READINGS} ({ROW_COLUMNS}) VALUES")
_UPSERT = RowsStatement(
    f"INSERT INTO {LATEST} ({LATEST_COLUMNS}) VALUES",
    f"""
    ON CONFLICT (device_id, key_id) DO UPDATE SET
        ts = excluded.ts, received = excluded.received, number = excluded.number, text = excluded.text
    WHERE excluded.ts >= {LATEST}.ts
        OR {LATEST}.ts = {LATEST}.received AND {LATEST}.ts > max(?, excluded.received)
        OR {LATEST}.ts - ? > min(max(?, excluded.received), {LATEST}.received)
    """,
)
_INSERT_LATEST = RowsStatement(_UPSERT.before, "ON CONFLICT (device_id, key_id) DO NOTHING")
_SEEN = f"""
    UPDATE {DEVICES} SET last_seen_ms = :at, clock_skew_ms = :skew
    WHERE id = :id AND (last_seen_ms IS NULL OR last_seen_ms <= :at OR last_seen_ms > :now)
"""  # noqa: S608


class SqliteWriter:
    """Writes through the sqlite3 module, which lets go of the GIL in each step."""

    data_errors: tuple[type[Exception], ...] = (
        sqlite3.DataError,
        sqlite3.IntegrityError,
        sqlite3.InterfaceError,
        sqlite3.ProgrammingError,
        OverflowError,
        TypeError,
        ValueError,  # UnicodeEncodeError is one
    )

    def __init__(self, path: str | PathLike[str], max_clock_skew_ms: int) -> None:
        self._file = DatabaseFile(path, timeout_s=BUSY_TIMEOUT_S, pragmas=("foreign_keys=ON",))
        self._max_clock_skew_ms = max_clock_skew_ms
        self._known: Identity | None = None
        """The file whose numbers of devices and keys are those that callers know."""

    def find_keys(self, names: Sequence[str]) -> dict[str, int]:
        query = f"SELECT name, id FROM {KEYS} WHERE name IN (SELECT value FROM json_each(?))"  # noqa: S608
        return dict(self._open().execute(query, (json.dumps(names, ensure_ascii=False),)))

    def held_pairs(self, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        query = f"""
            SELECT device_id, key_id FROM json_each(?) AS pair CROSS JOIN {LATEST}
            ON device_id = json_extract(pair.value, '$[0]') AND key_id = json_extract(pair.value, '$[1]')
        """  # noqa: S608  CROSS JOIN: the pairs are to be looked up in the index, one by one
        return set(self._open().execute(query, (json.dumps(pairs),)))

    def count_held(self, device_ids: Sequence[int]) -> dict[int, int]:
        query = f"""
            SELECT device_id, count(*) FROM {LATEST} WHERE device_id IN (SELECT value FROM json_each(?)) GROUP BY 1
        """  # noqa: S608
        return dict(self._open().execute(query, (json.dumps(device_ids),)))

    def count_keys(self) -> int:
        count: int = self._open().execute(f"SELECT count(*) FROM {KEYS}").fetchone()[0]  # noqa: S608
        return count

    def key_ids(self, names: Sequence[str]) -> dict[str, int]:
        connection = self._open()
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                f"INSERT OR IGNORE INTO {KEYS} (name) VALUES (?)",  # noqa: S608
                [(name,) for name in names],
            )
            query = f"SELECT id FROM {KEYS} WHERE name = ?"  # noqa: S608
            numbers = {name: connection.execute(query, (name,)).fetchone()[0] for name in names}
        self._file.check()
        return numbers

    def write(self, batch: Batch) -> None:
        try:
            self._write(self._open(), batch)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                raise UnknownKeyError from error
            raise

    def _write(self, connection: sqlite3.Connection, batch: Batch) -> None:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            execute_with_rows(connection, _INSERT, batch.rows)
            now_ms = batch.now_ms
            for step in batch.latest:
                latest = [row[:3] + row[4:] for row in step]
                execute_with_rows(connection, _UPSERT, latest, now_ms, self._max_clock_skew_ms, now_ms)
            execute_with_rows(connection, _INSERT_LATEST, [row[:3] + row[4:] for row in batch.ahead])
            connection.executemany(
                _SEEN,
                [{"id": device_id, "at": at, "skew": skew, "now": now_ms} for device_id, at, skew in batch.seen],
            )
        self._file.check()

    def abort(self) -> None:
        """A disk that does not answer is waited for all the same."""
        self._file.interrupt()

    def close(self) -> None:
        self._file.close()

    def _open(self) -> sqlite3.Connection:
        connection = self._file.open()
        if self._file.identity != self._known:
            for table in (READINGS, LATEST, KEYS, DEVICES):
                connection.execute(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608
            known, self._known = self._known, self._file.identity
            if known is not None:
                raise DatabaseReplacedError(f"{self._file.path} was replaced by another database")
        return connection
