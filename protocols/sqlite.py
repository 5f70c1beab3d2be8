"""SQLite for a thread that writes what was promised to be kept, beside a busy event loop: commits that survive a power
cut, and many rows in few statements."""

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from os import PathLike
from typing import Any, Final, NamedTuple

ROWS_PER_STATEMENT: Final = (100, 10, 1)
"""Each step of a statement lets go of the GIL and has to get it back, which takes long while the event loop is busy:
100 rows in a step take 0.6 to 0.75 of the processor time of one in each. More gain nothing. What is left over goes by
the smaller numbers; each is one statement that stays prepared."""


def connect(database: str | PathLike[str], *, timeout_s: float, **options: Any) -> sqlite3.Connection:
    """A connection for one thread at a time, whose commits survive a power cut (WAL, synchronous=FULL).

    `timeout_s` is how long a statement waits for a lock; `options` are further ones of sqlite3.connect. Transactions
    are begun by hand. Raises sqlite3.Error, with the name of the file: SQLite's own text has none.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            database, timeout=timeout_s, isolation_level=None, check_same_thread=False, **options
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise type(error)(f"{error} ({database})") from error
    return connection


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
