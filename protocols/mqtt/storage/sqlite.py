"""Sessions and retained messages in a SQLite file: what `gateway serve` does unless told otherwise.

The file is in WAL mode with synchronous=FULL: a commit that has returned survives a power cut, not only the end of the
process, which is what an acknowledgement says. It is paid once per group, not once per message.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from protocols.durable_sqlite import DatabaseFile, Identity, RowsStatement, execute_with_rows
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
    NewerFormatError,
    Row,
    RowKind,
    Store,
    StoreError,
    StoreTakenError,
)

BUSY_TIMEOUT_S: Final = 5.0
"""How long a commit waits for another program that has the file locked, before it counts as failed."""

_FIRST_TABLES: Final[Mapping[RowKind, str]] = {
    SESSIONS: """
        session_id INTEGER PRIMARY KEY, client_id TEXT NOT NULL, expiry_interval_s INTEGER NOT NULL,
        ends_at REAL, will BLOB, will_at REAL""",
    SUBSCRIPTIONS: """
        session_id INTEGER NOT NULL, topic_filter TEXT NOT NULL, qos INTEGER NOT NULL, no_local INTEGER NOT NULL,
        retain_as_published INTEGER NOT NULL, identifier INTEGER, PRIMARY KEY (session_id, topic_filter)""",
    MESSAGES: """
        message_id INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL, properties BLOB NOT NULL,
        expires_at REAL""",
    DELIVERIES: """
        seq INTEGER PRIMARY KEY, session_id INTEGER NOT NULL, message_id INTEGER NOT NULL, qos INTEGER NOT NULL,
        retain INTEGER NOT NULL, bounded INTEGER NOT NULL, identifiers TEXT NOT NULL, packet_id INTEGER NOT NULL""",
    RELEASED: "seq INTEGER PRIMARY KEY, session_id INTEGER NOT NULL, packet_id INTEGER NOT NULL",
    RECEIVED: "session_id INTEGER NOT NULL, packet_id INTEGER NOT NULL, PRIMARY KEY (session_id, packet_id)",
    RETAINED: """
        topic TEXT PRIMARY KEY, payload BLOB NOT NULL, qos INTEGER NOT NULL, properties BLOB NOT NULL,
        expires_at REAL""",
}
_CLUSTERED: Final = (SUBSCRIPTIONS, RECEIVED, RETAINED)
"""Those whose key is not a number: one B-tree instead of two."""


def _create(connection: sqlite3.Connection) -> None:
    for kind, columns in _FIRST_TABLES.items():
        connection.execute(f"CREATE TABLE {kind.name} ({columns}){' WITHOUT ROWID' if kind in _CLUSTERED else ''}")


def _add_share_and_publisher(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE delivery ADD COLUMN share TEXT NOT NULL DEFAULT ''")
    connection.execute("ALTER TABLE retained ADD COLUMN publisher TEXT NOT NULL DEFAULT ''")


def _add_owner(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE session ADD COLUMN owner TEXT NOT NULL DEFAULT ''")
    connection.execute("ALTER TABLE retained ADD COLUMN owner TEXT NOT NULL DEFAULT ''")


MIGRATIONS: Final[Sequence[Callable[[sqlite3.Connection], None]]] = (_create, _add_share_and_publisher, _add_owner)
"""What brings a file from the format of each index to the next; an empty file has format 0."""


# The names in these statements are those of `RowKind`s, which are constants.


def _put(kind: RowKind) -> RowsStatement:
    return RowsStatement(f"INSERT OR REPLACE INTO {kind.name} VALUES")


def _remove(kind: RowKind) -> RowsStatement:
    # Selected, because of bare VALUES SQLite does not look rows up by two columns: it would read the whole table.
    return RowsStatement(f"DELETE FROM {kind.name} WHERE ({_key(kind)}) IN (SELECT * FROM (VALUES", "))")  # noqa: S608


def _select(kind: RowKind) -> str:
    return f"SELECT {', '.join(kind.columns)} FROM {kind.name} ORDER BY {_key(kind)}"  # noqa: S608


def _key(kind: RowKind) -> str:
    return ", ".join(kind.columns[: kind.key_width])


_PUT: Final = {kind: _put(kind) for kind in KINDS}
_REMOVE: Final = {kind: _remove(kind) for kind in KINDS}
_SELECT: Final = {kind: _select(kind) for kind in KINDS}


class SqliteStore(Store):
    """Rows in the tables of one file."""

    def __init__(self, path: Path, *, migrations: Sequence[Callable[[sqlite3.Connection], None]] = MIGRATIONS) -> None:
        """`path` is created if it is not there, for its user alone; its directory has to be."""
        self.path = path
        self._migrations = migrations
        self._file = DatabaseFile(path, timeout_s=BUSY_TIMEOUT_S, cached_statements=64)
        self._restored: Identity | None = None
        """The file whose rows this process has taken over."""

    def open(self) -> None:
        try:
            self.path.touch(mode=0o600)
            self._migrate(self._file.open())
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StoreError(f"cannot use {self.path}: {error}") from error
        except StoreError:
            self.close()
            raise
        self._restored = self._file.identity

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Each step in a transaction with the number that says it was done."""
        [version] = connection.execute("PRAGMA user_version").fetchone()
        newest = len(self._migrations)
        if version > newest:
            raise NewerFormatError(str(self.path), version, newest)
        for number in range(version, newest):
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._migrations[number](connection)
                connection.execute(f"PRAGMA user_version = {number + 1}")
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def load(self) -> Mapping[RowKind, Iterable[Row]]:
        try:
            return {kind: self._file.open().execute(_SELECT[kind]).fetchall() for kind in KINDS}
        except sqlite3.Error as error:
            raise StoreError(f"cannot read {self.path}: {error}") from error

    def write(self, changes: Changes) -> None:
        self._commit(changes)

    def keep(self) -> None:
        """Finds a file that is locked, read-only, moved away or replaced while nothing is to be written."""
        self._commit(Changes())

    def _commit(self, changes: Changes) -> None:
        try:
            connection = self._file.open()
            if self._file.identity != self._restored:  # what is in it is not what this process has changed
                raise StoreTakenError(f"{self.path} was replaced by another file")
            self._write(connection, changes)
            self._file.check()
        except sqlite3.Error as error:
            self.close()  # whatever state it is in, the next one begins without it
            raise StoreError(f"cannot write {self.path}: {error}") from error

    def _write(self, connection: sqlite3.Connection, changes: Changes) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for kind, rows in changes.put.items():
            execute_with_rows(connection, _PUT[kind], rows)
        for kind, keys in changes.removed.items():
            execute_with_rows(connection, _REMOVE[kind], keys)
        connection.execute("COMMIT")

    def close(self) -> None:
        self._file.close()
