"""Databases with the product's tables, as the `default` one of Django: a file of SQLite, a database of PostgreSQL.

The tables are made once per kind and session, by the migrations. Each test gets a copy of the file, and the database
of PostgreSQL empty: there, a copy for each test takes ten times as long.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from asgiref.local import Local
from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from gateway.config import Config, load
from project.settings import database as settings_of
from tests.support.postgres import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """The test is run twice; `default` is an own, empty database of the kind that this says."""
    request.getfixturevalue(f"{request.param}_database")
    return str(request.param)


@pytest.fixture
def sqlite_database(tmp_path: Path, sqlite_template: Path, django_db_blocker: Any) -> Iterator[Path]:
    """`default` is an own file of SQLite: this one."""
    file = tmp_path / "gateway.sqlite3"
    shutil.copy(sqlite_template, file)
    with django_db_blocker.unblock(), default_database(sqlite_settings(file)):
        yield file


@pytest.fixture
def postgresql_database(
    postgres_server: PostgresServer, migrated_database: str, django_db_blocker: Any
) -> Iterator[str]:
    """`default` is a database of PostgreSQL: the one of this name."""
    with django_db_blocker.unblock(), default_database(postgresql_settings(postgres_server, migrated_database)):
        yield migrated_database
    postgres_server.execute(_EMPTY, migrated_database)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Path:
    """A file with the tables and nothing in them."""
    file = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"
    with django_db_blocker.unblock(), default_database(sqlite_settings(file)):
        call_command("prepare", verbosity=0)
    return file


@pytest.fixture(scope="session")
def migrated_database(postgres_server: PostgresServer, django_db_blocker: Any) -> str:
    """The name of a database with the tables and nothing in them."""
    name = postgres_server.new_database()
    with django_db_blocker.unblock(), default_database(postgresql_settings(postgres_server, name)):
        call_command("migrate", verbosity=0)
    return name


_EMPTY = """
    DO $$ BEGIN EXECUTE (
        SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ') || ' RESTART IDENTITY CASCADE' FROM pg_tables
        WHERE schemaname = 'public' AND tablename NOT IN ('django_migrations', 'django_content_type', 'auth_permission')
    ); END $$
"""


def sqlite_settings(file: Path) -> dict[str, Any]:
    """The entry of DATABASES that project.settings has for this file."""
    return settings_of(configuration_of(f"sqlite:///{file}"))


def postgresql_settings(server: PostgresServer, name: str) -> dict[str, Any]:
    """The entry of DATABASES that project.settings has for this database."""
    return settings_of(configuration_of(server.url(name)))


def configuration_of(url: str) -> Config:
    """The defaults, with this database."""
    return load(flags=[f"database.url={url}"], environ={}).config


@contextmanager
def default_database(settings: dict[str, Any]) -> Iterator[None]:
    """Makes `settings` those of `default`, in all threads; at the end closes what was connected to it."""
    opened: list[BaseDatabaseWrapper] = []
    create_connection = connections.create_connection

    def create_and_note(alias: str) -> BaseDatabaseWrapper:
        wrapper: BaseDatabaseWrapper = create_connection(alias)
        wrapper.inc_thread_sharing()  # to be closed here, whichever thread has it
        opened.append(wrapper)
        return wrapper

    kept_settings, kept_connections = connections.settings, connections._connections
    connections.settings = connections.configure_settings({DEFAULT_DB_ALIAS: settings})
    connections._connections = Local(connections.thread_critical)
    connections.create_connection = create_and_note
    try:
        yield
    finally:
        for wrapper in opened:
            wrapper.close()
        connections.settings, connections._connections = kept_settings, kept_connections
        connections.create_connection = create_connection
