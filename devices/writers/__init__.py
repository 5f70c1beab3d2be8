"""What puts readings into a database: one writer for each kind, with the same interface and its own connection.

The ORM is left out on purpose: it makes an object per row, where a busy gateway writes hundreds of thousands a second.
"""

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from devices.writers.base import Batch, Row, Writer

__all__ = ["Batch", "Row", "Writer", "make_writer"]


def make_writer(alias: str = DEFAULT_DB_ALIAS) -> Writer:
    """The writer for one of Django's databases. It connects when it is first used."""
    database = connections[alias]
    if database.vendor == "sqlite":
        from devices.writers.sqlite import SqliteWriter

        return SqliteWriter(database.settings_dict["NAME"])
    if database.vendor == "postgresql":
        from devices.writers.postgresql import PostgresqlWriter

        return PostgresqlWriter(database.get_connection_params())
    raise ValueError(f"readings cannot be stored in {settings.DATABASES[alias]['ENGINE']}; use SQLite or PostgreSQL")
