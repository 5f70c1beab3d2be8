"""Writers of readings: one for each kind of database, with the same interface and a connection of its own.

They bypass the ORM on purpose: it makes an object per row, and a busy gateway writes hundreds of thousands a second.
"""

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from devices.writers.base import Batch, DatabaseReplacedError, Row, Seen, UnknownKeyError, Writer

__all__ = ["Batch", "DatabaseReplacedError", "Row", "Seen", "UnknownKeyError", "Writer", "make_writer"]


def make_writer(max_clock_skew_ms: int) -> Writer:
    """The writer for Django's default database. It connects when it is first used."""
    database = connections[DEFAULT_DB_ALIAS]
    if database.vendor == "sqlite":
        from devices.writers.sqlite import SqliteWriter

        return SqliteWriter(database.settings_dict["NAME"], max_clock_skew_ms)
    if database.vendor == "postgresql":
        from devices.writers.postgresql import PostgresqlWriter

        return PostgresqlWriter(database.get_connection_params(), max_clock_skew_ms)
    raise ValueError(
        f"readings cannot be stored in {settings.DATABASES[DEFAULT_DB_ALIAS]['ENGINE']}; use SQLite or PostgreSQL"
    )
