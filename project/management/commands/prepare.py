"""`prepare`: brings the database up to date before the gateway starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from gateway.databases.migrations import later_migrations, refusal
from gateway.databases.sqlite.base import create_private
from gateway.db import is_in_memory

ADVISORY_LOCK = 0x6669656C64  # any number that nobody else on this database takes: "field"


class Command(BaseCommand):
    """Brings the database up to date. `gateway serve` runs it on every start.

    CommandError for a database that a later version has migrated: what was added there is not known here.
    """

    help = "Creates or updates the database's tables."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        if connection.vendor == "sqlite" and not is_in_memory(connection):
            create_private(Path(connection.settings_dict["NAME"]))
        with alone():
            later = later_migrations()
            if later:
                raise CommandError(refusal(later))
            call_command("migrate", interactive=False, verbosity=options["verbosity"])


@contextmanager
def alone() -> Iterator[None]:
    """Keeps gateways that start at the same time on one PostgreSQL from creating the same tables.

    SQLite needs nothing: its file is in a data directory that one process holds.
    """
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = 0")  # another gateway's migration takes what it takes
        cursor.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])
