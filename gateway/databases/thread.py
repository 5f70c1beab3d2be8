"""A thread with a database connection of its own, for regular work that must not wait long.

Django's connections wait as long as people wait for a page: 20 s for SQLite's lock, forever for a locked row of
PostgreSQL. Work that keeps other things alive cannot wait so long.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections

from gateway.databases.abortable import AbortableConnection

P = ParamSpec("P")
R = TypeVar("R")

SLOW_S: Final = 4.0
"""How long a call may take before `on_slow` is called."""
CALL_S: Final = 10.0
"""How long a call may take before its connection is ended. More than a statement may, see _LIMITS."""

_LIMITS: Final = {
    "sqlite": "PRAGMA busy_timeout = 1000",
    "postgresql": "SET lock_timeout = '1s'; SET statement_timeout = '5s'",
}


class DatabaseThread:
    """Runs calls that use Django's default database, one at a time. The connection is kept until a call fails."""

    def __init__(self, name: str, *, slow_s: float = SLOW_S, call_s: float = CALL_S) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._slow_s = slow_s
        self._call_s = call_s
        self._abortable = AbortableConnection()
        self._sqlite: sqlite3.Connection | None = None

    async def call(
        self, function: Callable[P, R], on_slow: Callable[[str], None], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """What `function` returns or raises. `on_slow` is called with a text if the call is slow."""
        loop = asyncio.get_running_loop()
        slow = loop.call_later(self._slow_s, on_slow, f"no answer from the database for {self._slow_s:g} s")
        end = loop.call_later(self._call_s, self._abort)
        try:
            return await loop.run_in_executor(self._executor, lambda: self._call(function, *args, **kwargs))
        finally:
            slow.cancel()
            end.cancel()

    async def close(self) -> None:
        """Closes the connection, and ends the thread after the call that it is running."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._disconnect)
        self._executor.shutdown(wait=False)

    def _abort(self) -> None:
        self._abortable.abort()
        if self._sqlite is not None:
            with suppress(sqlite3.Error):  # it was closed in this moment
                self._sqlite.interrupt()

    # In the thread

    def _call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            self._connect()
            return function(*args, **kwargs)
        except BaseException:
            self._disconnect()  # whatever state it is in, the next call begins without it
            raise

    def _connect(self) -> None:
        wrapper = connections[DEFAULT_DB_ALIAS]
        if wrapper.connection is not None:
            return
        self._disconnect()  # the rest of a connection that the last call has closed
        wrapper.ensure_connection()
        connection: Any = wrapper.connection
        if wrapper.vendor == "postgresql":
            self._abortable.hold(connection)
        else:
            self._sqlite = connection
        with wrapper.cursor() as cursor:
            cursor.execute(_LIMITS[wrapper.vendor])

    def _disconnect(self) -> None:
        self._abortable.release()
        self._sqlite = None
        connections[DEFAULT_DB_ALIAS].close()
