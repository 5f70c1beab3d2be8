"""A gateway keeps its database connections: as many as it has threads, the same ones all the time, none at the end."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.administrator import Administrator
from tests.support.postgres import PostgresServer
from tests.support.serving import Serving

MOST = 16
"""Two pools of min(32, cores + 4) threads would be more on a large machine: the tests set ASGI_THREADS."""
THREADS = "4"


@pytest.fixture
def on_postgresql(serve: Callable[..., Serving], postgres_server: PostgresServer) -> tuple[Serving, str]:
    name = postgres_server.new_database()
    return serve("--set", f"database.url={postgres_server.url(name)}", ASGI_THREADS=THREADS).ready(), name


def sessions(server: PostgresServer, name: str) -> set[int]:
    """The process numbers of the connections to a database, ours apart."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    with server.connect() as connection:
        return {pid for (pid,) in connection.execute(query, [name]).fetchall()}


def work(browser: Administrator) -> None:
    for _ in range(10):
        browser.get("/")
        browser.get("/readyz")


def test_pages_and_rounds_use_the_same_few_connections_of_postgresql(
    on_postgresql: tuple[Serving, str], postgres_server: PostgresServer
) -> None:
    serving, name = on_postgresql
    browser = Administrator(serving.url, serving)
    work(browser)
    before = sessions(postgres_server, name)
    work(browser)
    after = sessions(postgres_server, name)

    assert before <= after
    assert len(after) <= MOST


def test_no_connection_to_postgresql_outlives_a_stop(
    on_postgresql: tuple[Serving, str], postgres_server: PostgresServer
) -> None:
    serving, name = on_postgresql
    work(Administrator(serving.url, serving))
    log = postgres_server.directory / "postgres.log"
    said = log.stat().st_size

    assert serving.stop() == 0

    postgres_server.execute(f'DROP DATABASE "{name}"')  # refused while anybody is connected
    assert b"unexpected EOF" not in log.read_bytes()[said:]  # each has said goodbye


def test_a_postgresql_that_has_ended_every_connection_is_used_again_by_the_next_page(
    on_postgresql: tuple[Serving, str], postgres_server: PostgresServer
) -> None:
    serving, name = on_postgresql
    browser = Administrator(serving.url, serving)
    work(browser)

    postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    assert "Devices" in browser.get("/")


def test_files_of_sqlite_are_opened_once_and_closed_by_a_stop(serve: Callable[..., Serving], tmp_path: Path) -> None:
    serving = serve(ASGI_THREADS=THREADS).ready()
    browser = Administrator(serving.url, serving)
    work(browser)
    before = open_files(serving.process.pid, "gateway.sqlite3")
    work(browser)

    assert open_files(serving.process.pid, "gateway.sqlite3") == before <= MOST
    assert serving.stop() == 0
    # The last connection that is closed takes the write-ahead log with it.
    assert not list((tmp_path / "var").glob("*.sqlite3-*"))


def test_a_database_that_was_restored_while_the_gateway_runs_is_what_the_pages_show(
    serve: Callable[..., Serving], tmp_path: Path
) -> None:
    serving = serve(ASGI_THREADS=THREADS).ready()
    browser = Administrator(serving.url, serving)
    serving.command("device", "add", "before-the-backup")
    file, backup = tmp_path / "var" / "gateway.sqlite3", tmp_path / "backup.sqlite3"
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    serving.command("device", "add", "after-the-backup")
    assert "after-the-backup" in browser.get("/")

    with without_log(file):
        backup.replace(file)

    page = browser.get("/")
    assert "before-the-backup" in page
    assert "after-the-backup" not in page


@contextmanager
def without_log(file: Path) -> Iterator[None]:
    """Has the block replace a database together with its write-ahead log."""
    yield
    for beside in ("-wal", "-shm"):
        Path(f"{file}{beside}").unlink(missing_ok=True)


def open_files(pid: int, name: str) -> int:
    """How many descriptors of a process are of files whose path ends so."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += descriptor.readlink().name == name
        except OSError:  # closed since it was listed
            continue
    return found
