"""SQLite for a thread that writes what was promised to be kept, beside a busy event loop: commits that survive a power
cut and are in the file that has the name, and many rows in few statements."""

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from protocols import metrics
from protocols.log_lines import RateLimitedLog

logger = logging.getLogger("gateway.sqlite")

JOURNAL_SIZE_LIMIT: Final = 64 * 2**20
"""To how many bytes the write-ahead log is cut when all of it is in the database again. It grows while a reader keeps
its snapshot, and would stay as long as it has been."""
PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL", f"journal_size_limit={JOURNAL_SIZE_LIMIT}")
"""What every connection to a file of ours is set to."""
WAL_WARNING_BYTES: Final = 256 * 2**20
WAL_WARNING_INTERVAL_S: Final = 60.0
LOOK_INTERVAL_S: Final = 1.0
SET_ASIDE: Final = "-wal.replaced"
"""What the log of a file that was replaced is called from then on, after the name of the file."""

ROWS_PER_STATEMENT: Final = (100, 10, 1)
"""Each step of a statement lets go of the GIL and has to get it back, which takes long while the event loop is busy:
100 rows in a step take 0.6 to 0.75 of the processor time of one in each. More gain nothing. What is left over goes by
the smaller numbers; each is one statement that stays prepared."""

Identity: TypeAlias = tuple[int, int]
"""A file, whatever its name: device and inode."""


class FileMovedError(sqlite3.OperationalError):
    """Raised when the file that is open is not, or not any more, the one that has its name."""


class DatabaseFile:
    """A file of SQLite that is there, and its connection, for one thread at a time.

    A file that is moved away, deleted or replaced stays open: what is committed to it is lost. `check`, after each
    commit, says so before anything is acknowledged.
    """

    def __init__(
        self, path: str | PathLike[str], *, timeout_s: float, pragmas: Sequence[str] = (), **options: Any
    ) -> None:
        """`timeout_s` is how long a statement waits for a lock, `pragmas` are executed in each connection, `options`
        are further ones of sqlite3.connect."""
        self.path = Path(path).absolute()
        self._timeout_s = timeout_s
        self._pragmas = pragmas
        self._options = options
        self._connection: sqlite3.Connection | None = None
        self._looked_at = 0.0
        self._limited_log = RateLimitedLog(logger, WAL_WARNING_INTERVAL_S)
        self.identity: Identity | None = None
        """The file that was opened last."""

    def open(self) -> sqlite3.Connection:
        """The connection, made if there is none, whose commits survive a power cut; transactions are begun by hand.

        Raises sqlite3.Error, also if there is no file: none is created.
        """
        if self._connection is None:
            set_aside_log(self.path)
            here = identity_of(self.path)
            # mode=rw: a file that was moved away is an error to wait for, not a new and empty database.
            uri = f"{self.path.as_uri()}?mode=rw"
            connection = connect(uri, timeout_s=self._timeout_s, pragmas=self._pragmas, uri=True, **self._options)
            if here is None or here != identity_of(self.path):
                connection.close()
                raise FileMovedError(f"{self.path} was replaced while it was opened")
            note_log(self.path, here)
            self._connection = connection
            self.identity = here
            metrics.wal_bytes.labels(self.path.name).set_function(self.wal_bytes)
        return self._connection

    def check(self) -> None:
        """To be called after a commit, before it is acknowledged. Raises FileMovedError, with the connection closed."""
        here = identity_of(self.path)
        if here != self.identity:
            self.close()
            what = "is not there any more" if here is None else "was replaced by another file"
            raise FileMovedError(f"{self.path} {what}")
        now = time.monotonic()
        if now - self._looked_at >= LOOK_INTERVAL_S:
            self._looked_at = now
            self._look_at_log()

    def interrupt(self) -> None:
        """Makes a statement that another thread waits for fail. Blocks not, raises nothing."""
        connection = self._connection
        if connection is not None:
            with suppress(sqlite3.Error):  # it was closed in this moment
                connection.interrupt()

    def close(self) -> None:
        """Closes the connection; `open` makes a new one. Raises nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def wal_bytes(self) -> int:
        """The size of the write-ahead log."""
        try:
            return _log_of(self.path).stat().st_size
        except OSError:
            return 0

    def _look_at_log(self) -> None:
        size = self.wal_bytes()
        if size >= WAL_WARNING_BYTES:
            self._limited_log.warning(
                "%s has grown to %d MB: some program keeps reading a snapshot of %s and does not end (a forgotten"
                " sqlite3 shell, a backup); end it, or the log fills the disk",
                _log_of(self.path),
                size // 2**20,
                self.path.name,
            )


def connect(
    database: str | PathLike[str], *, timeout_s: float, pragmas: Sequence[str] = (), **options: Any
) -> sqlite3.Connection:
    """A connection for one thread at a time, whose commits survive a power cut (WAL, synchronous=FULL).

    `timeout_s` is how long a statement waits for a lock; `pragmas` are further ones than PRAGMAS, `options` those of
    sqlite3.connect. Transactions are begun by hand. Raises sqlite3.Error, with the name of the file: SQLite's own text
    has none.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            database, timeout=timeout_s, isolation_level=None, check_same_thread=False, **options
        )
        for pragma in (*PRAGMAS, *pragmas):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()  # opens the log
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise type(error)(f"{error} ({database})") from error
    return connection


# SQLite knows the log of a file by its name alone. The log of a file that was replaced is still there, and would be
# played into the file that has taken its place. What of this process has had the file open knows which log was whose.

_logs: dict[Path, tuple[Identity, Identity | None]] = {}
_logs_lock = threading.Lock()


def note_log(path: Path, file: Identity) -> None:
    """Remembers, after a connection to `file` was made by this name, which log is that of it."""
    with _logs_lock:
        log = identity_of(_log_of(path))
        if log is not None or _logs.get(path, (None, None))[0] != file:
            _logs[path] = file, log


def set_aside_log(path: Path) -> None:
    """Before a connection is made: renames the log of the file that had this name before, if another has it now."""
    with _logs_lock:
        file, log = _logs.get(path, (None, None))
        here = identity_of(path)
        if file is None or here is None or here == file:
            return
        del _logs[path]
        if log is not None and identity_of(_log_of(path)) == log:
            _log_of(path).replace(f"{path}{SET_ASIDE}")
            Path(f"{path}-shm").unlink(missing_ok=True)
            logger.warning(
                "%s was replaced by another file; what was in its log is now in %s", path, f"{path}{SET_ASIDE}"
            )


def identity_of(path: Path) -> Identity | None:
    """Which file has the name; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _log_of(path: Path) -> Path:
    return Path(f"{path}-wal")


class RowsStatement(NamedTuple):
    """SQL about any number of rows: what comes before and after `(?, ?), (?, ?)`. What is after may have parameters."""

    before: str
    after: str = ""


def execute_with_rows(
    connection: sqlite3.Connection, statement: RowsStatement, rows: Sequence[tuple[Any, ...]], *after: Any
) -> None:
    """Executes `statement` with all of `rows`, as many at a time as ROWS_PER_STATEMENT says.

    `after` are the parameters of what comes after the rows.
    """
    start = 0
    for count in ROWS_PER_STATEMENT:
        while start + count <= len(rows):
            some = rows[start : start + count]
            connection.execute(_sql(statement, count, len(some[0])), [*chain.from_iterable(some), *after])
            start += count


@cache
def _sql(statement: RowsStatement, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{statement.before} {', '.join([row] * rows)} {statement.after}"
