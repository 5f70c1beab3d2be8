"""Django's SQLite backend for connections that are kept."""

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection

from gateway.databases.sqlite.base import create_private
from gateway.db import close_old_connections
from tests.support.databases import default_database, sqlite_settings


@pytest.fixture
def file(tmp_path: Path, django_db_blocker: Any) -> Iterator[Path]:
    """The file of `default`, which is not there yet."""
    file = tmp_path / "kept.sqlite3"
    with django_db_blocker.unblock(), default_database(sqlite_settings(file)):
        yield file


def execute(statement: str) -> list[Any]:
    """Runs it on a connection as a request or a consumer's handler does."""
    close_old_connections()
    with connection.cursor() as cursor:
        return cursor.execute(statement).fetchall()


def test_a_file_that_is_not_there_is_an_error_and_is_not_made(file: Path) -> None:
    with pytest.raises(OperationalError, match="unable to open database file"):
        execute("SELECT 1")

    assert not file.exists()


def test_a_new_database_and_what_belongs_to_it_can_be_read_by_its_owner_alone(file: Path) -> None:
    file.parent.chmod(0o755)
    create_private(file)
    execute("CREATE TABLE note (text)")

    modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in file.parent.glob("kept.sqlite3*")}
    assert modes == {"kept.sqlite3": 0o600, "kept.sqlite3-wal": 0o600, "kept.sqlite3-shm": 0o600}


def test_a_database_that_is_there_is_left_as_it_is(file: Path) -> None:
    create_private(file)
    execute("CREATE TABLE note (text)")
    create_private(file)

    assert execute("SELECT * FROM note") == []


def test_a_connection_is_kept_from_one_use_to_the_next(file: Path) -> None:
    create_private(file)
    execute("SELECT 1")
    first = connection.connection
    execute("SELECT 1")

    assert connection.connection is first


def test_a_file_that_was_put_in_the_place_of_the_open_one_is_the_one_that_is_used(file: Path, tmp_path: Path) -> None:
    create_private(file)
    execute("CREATE TABLE note (text)")
    connection.close()
    backup = tmp_path / "backup"
    shutil.copy(file, backup)
    execute("INSERT INTO note VALUES ('after the backup')")

    backup.replace(file)
    for beside in ("-wal", "-shm"):  # of the file that was there
        Path(f"{file}{beside}").unlink(missing_ok=True)

    assert execute("SELECT * FROM note") == []


def test_a_file_that_was_moved_away_is_missed_at_the_next_use(file: Path, tmp_path: Path) -> None:
    create_private(file)
    execute("SELECT 1")
    file.rename(tmp_path / "elsewhere")

    with pytest.raises(DatabaseError, match="unable to open database file"):
        execute("SELECT 1")
