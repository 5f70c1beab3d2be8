"""Database work from asynchronous code, with old connections closed at each boundary.

CONN_MAX_AGE says how long a connection is kept, as everywhere in Django: with 0, its default, each unit of work closes
what it has opened. A kept connection belongs to a thread; `gateway.dispatch.threads.close_connections` closes it at the
end.
"""

from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, sync_to_async
from django.db import (
    DEFAULT_DB_ALIAS,
    DataError,
    Error,
    IntegrityError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    connections,
)
from django.db.backends.base.base import BaseDatabaseWrapper

P = ParamSpec("P")
R = TypeVar("R")


def close_old_connections() -> None:
    """Closes this thread's connections that have outlived CONN_MAX_AGE or failed.

    Left alone are those inside an atomic block, so that code under test runs in the transaction of its TestCase, and
    those to a database in memory, which Django never closes.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block and not is_in_memory(connection):
            connection.close_if_unusable_or_obsolete()


def is_in_memory(connection: BaseDatabaseWrapper) -> bool:
    """Whether `connection` is to a database of SQLite that is no file."""
    return connection.vendor == "sqlite" and bool(connection.is_in_memory_db())  # type: ignore[attr-defined]


class DatabaseSyncToAsync(SyncToAsync[P, R]):
    """SyncToAsync that closes old connections, in the thread, before and after the call."""

    def thread_handler(self, loop: Any, *args: Any, **kwargs: Any) -> Any:
        close_old_connections()
        try:
            return super().thread_handler(loop, *args, **kwargs)  # type: ignore[no-untyped-call]
        finally:
            close_old_connections()


database_sync_to_async = DatabaseSyncToAsync
"""Decorates a synchronous function that uses the ORM, to be awaited from a consumer."""


async def aclose_old_connections() -> None:
    """Closes old connections in the thread that serves this task's synchronous code.

    Consumers do so by themselves after each handler that used a thread; this is for other long-lived tasks.
    """
    await sync_to_async(close_old_connections)()


def is_outage(error: Error) -> bool:
    """Whether the database is at fault, not the query: it is away, locked, read-only, full or damaged, or has not the
    tables that it should."""
    if isinstance(error, OperationalError | InternalError):
        return True
    return not isinstance(error, DataError | IntegrityError | NotSupportedError | ProgrammingError)


def one_line(error: BaseException) -> str:
    """The message of an error in one line, which that of a driver often is not; its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def describe_failure(error: Error, alias: str = DEFAULT_DB_ALIAS) -> str:
    """The text of a database error in one line, with the name of the database and without its password."""
    settings = connections.settings[alias]
    said = one_line(error)
    where = str(settings["NAME"])
    if "sqlite" not in settings["ENGINE"]:
        where = f"{where} at {settings['HOST'] or 'the local socket'}"
        if settings["PORT"]:
            where += f":{settings['PORT']}"
    return said if where in said else f"{said} ({where})"
