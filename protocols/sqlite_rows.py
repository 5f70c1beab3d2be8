"""Many rows in few statements, for a thread that shares the GIL with a busy event loop."""

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, Final, NamedTuple

ROWS_PER_STATEMENT: Final = (100, 10, 1)
"""Each step of a statement lets go of the GIL and has to get it back, which takes long while the event loop is busy:
100 rows in a step take 0.6 to 0.75 of the processor time of one in each. More gain nothing. What is left over goes by
the smaller numbers; each is one statement that stays prepared."""


class RowsStatement(NamedTuple):
    """SQL about any number of rows: what comes before and after `(?, ?), (?, ?)`."""

    before: str
    after: str = ""


def execute_with_rows(
    connection: sqlite3.Connection, statement: RowsStatement, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Executes `statement` with all of `rows`, as many at a time as ROWS_PER_STATEMENT says."""
    start = 0
    for count in ROWS_PER_STATEMENT:
        while start + count <= len(rows):
            some = rows[start : start + count]
            connection.execute(_sql(statement, count, len(some[0])), list(chain.from_iterable(some)))
            start += count


@cache
def _sql(statement: RowsStatement, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{statement.before} {', '.join([row] * rows)} {statement.after}"
