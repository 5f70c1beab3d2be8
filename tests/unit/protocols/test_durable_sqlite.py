"""A file of SQLite that is kept open: the one that has the name, with a log that does not stay large."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from protocols import metrics
from protocols.durable_sqlite import (
    JOURNAL_SIZE_LIMIT,
    SET_ASIDE,
    WAL_WARNING_BYTES,
    DatabaseFile,
    FileMovedError,
    connect,
    identity_of,
)


def make(path: Path, *values: int) -> Path:
    """A database with a table of these values."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (v)")
        connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
        connection.commit()
    return path


def values(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [value for (value,) in connection.execute("SELECT v FROM t ORDER BY v")]


def insert(file: DatabaseFile, value: object) -> None:
    file.open().execute("INSERT INTO t VALUES (?)", (value,))
    file.check()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[DatabaseFile]:
    file = DatabaseFile(make(tmp_path / "kept.sqlite3"), timeout_s=1)
    file.open()
    yield file
    file.close()


def log_of(file: DatabaseFile) -> Path:
    return file.path.with_name(f"{file.path.name}-wal")


class TestTheFileThatIsThere:
    def test_what_is_committed_to_it_counts(self, file: DatabaseFile) -> None:
        insert(file, 1)

        assert values(file.path) == [1]

    def test_what_is_committed_to_one_that_was_moved_away_does_not(self, file: DatabaseFile, tmp_path: Path) -> None:
        file.path.rename(tmp_path / "away")

        with pytest.raises(FileMovedError, match="is not there any more"):
            insert(file, 1)

    def test_a_file_that_was_moved_away_is_not_made_anew(self, file: DatabaseFile, tmp_path: Path) -> None:
        file.path.rename(tmp_path / "away")
        file.close()

        with pytest.raises(sqlite3.OperationalError, match="unable to open database file"):
            file.open()
        assert not file.path.exists()

    def test_one_that_comes_back_is_gone_on_with(self, file: DatabaseFile, tmp_path: Path) -> None:
        insert(file, 1)
        before = file.identity
        file.path.rename(tmp_path / "away")
        with pytest.raises(FileMovedError):
            file.check()
        (tmp_path / "away").rename(file.path)

        insert(file, 2)

        assert file.identity == before
        assert values(file.path) == [1, 2]

    def test_one_that_takes_its_place_is_opened_without_the_log_of_the_one_before(
        self, file: DatabaseFile, tmp_path: Path
    ) -> None:
        before = file.identity
        for value in range(100):
            insert(file, value)
        log = identity_of(log_of(file))
        make(tmp_path / "backup", 7).replace(file.path)
        with pytest.raises(FileMovedError, match="was replaced by another file"):
            insert(file, 100)

        insert(file, 8)

        assert file.identity != before
        assert values(file.path) == [7, 8]
        assert identity_of(Path(f"{file.path}{SET_ASIDE}")) == log, "what is not in the file yet is not thrown away"
        file.close()
        assert values(file.path) == [7, 8]

    def test_one_that_brings_its_own_log_keeps_it(self, file: DatabaseFile, tmp_path: Path) -> None:
        insert(file, 1)
        backup = make(tmp_path / "backup")
        with closing(connect(backup, timeout_s=1)) as writing:
            writing.execute("INSERT INTO t VALUES (7)")
            backup.replace(file.path)
            Path(f"{backup}-wal").replace(log_of(file))
            with pytest.raises(FileMovedError):
                file.check()

            insert(file, 8)

        assert values(file.path) == [7, 8]

    def test_one_that_is_no_database_is_an_error_each_time(self, file: DatabaseFile, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("this is no database at all" * 100)
        (tmp_path / "text").replace(file.path)
        with pytest.raises(FileMovedError):
            file.check()

        for _ in range(2):
            with pytest.raises(sqlite3.DatabaseError, match="not a database"):
                file.open()


class TestTheLog:
    BLOB = b"x" * 2**20

    def test_the_log_comes_down_when_the_reader_that_kept_it_has_gone(
        self, file: DatabaseFile, caplog: pytest.LogCaptureFixture
    ) -> None:
        with closing(sqlite3.connect(file.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM t").fetchone()
            while file.wal_bytes() < WAL_WARNING_BYTES:
                insert(file, self.BLOB)
            gauge = metrics.wal_bytes.labels(file.path.name)
            [sample] = [sample for family in gauge.collect() for sample in family.samples]
            assert sample.value == file.wal_bytes()
            file._looked_at = 0  # as a second later
            insert(file, 1)

        for value in range(2):  # the first puts all of it into the database, the second begins the log anew
            insert(file, value)

        assert file.wal_bytes() <= JOURNAL_SIZE_LIMIT
        [told] = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "kept.sqlite3-wal has grown to 2" in told.getMessage()
        assert "end it, or the log fills the disk" in told.getMessage()
