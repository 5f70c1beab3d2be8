"""Whether a database is one that this version can work with."""

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.loader import MigrationLoader


def later_migrations(alias: str = DEFAULT_DB_ALIAS) -> list[str]:
    """The migrations of installed apps that the database has and this version does not know: "devices.0009_fleets".

    There are some after a later version has migrated it. Those of apps that are not installed do not count. Raises what
    the database driver raises.
    """
    loader = MigrationLoader(connections[alias], ignore_no_migrations=True)
    known = set(loader.disk_migrations)
    for migration in loader.disk_migrations.values():
        known.update(migration.replaces)
    return [
        f"{app}.{name}"
        for app, name in sorted(loader.applied_migrations)
        if app in loader.migrated_apps and (app, name) not in known
    ]


def refusal(later: list[str]) -> str:
    """The reason for refusing a database with `later` migrations."""
    return (
        f"the database has been migrated by a later version, this one does not know {', '.join(later)}; "
        "run that version, or restore a backup from before"
    )
