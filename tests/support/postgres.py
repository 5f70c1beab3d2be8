"""A real PostgreSQL per test session: own cluster, ephemeral port, ended by its pid.

PostgreSQL refuses to run as root. Where the tests run as root, its programs run as the user that Debian's package made.
"""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import psycopg
import pytest

from tests.support.ports import free_port

START_TIMEOUT_S = 30.0
OWNER = "postgres"

# Nothing here survives a power cut, nor has to: what the tests kill are processes.
OPTIONS = ("fsync=off", "full_page_writes=off", "autovacuum=off", "shared_buffers=32MB", "max_connections=60")


class PostgresServer:
    """One PostgreSQL cluster and its server. `stop` and `start` keep the data and the port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._programs = find_programs()
        self._databases = 0

    def create(self) -> None:
        """Makes the cluster; needed once."""
        if os.geteuid() == 0:
            owner = pwd.getpwnam(OWNER)
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        subprocess.run(
            self._command("initdb", "--auth=trust", f"--username={OWNER}", "--encoding=UTF8", "--no-locale", "-N"),
            cwd=self.directory,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Starts the server and returns when it answers."""
        settings = [
            *OPTIONS,
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self._data}",
        ]
        arguments = [argument for setting in settings for argument in ("-c", setting)]
        with (self.directory / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", *arguments), cwd=self.directory, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Ends the server, and every connection to it, at once (a "fast" shutdown)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def pids(self) -> list[int]:
        """The processes of the server: the first, which makes the others, and those that there are now."""
        assert self._process is not None
        first = self._process.pid
        every = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        return [first, *(pid for pid in every if _parent_of(pid) == first)]

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{OWNER}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> "psycopg.Connection":
        """A connection, to look from outside."""
        return psycopg.connect(self.url(database), autocommit=True)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Runs one statement."""
        with self.connect(database) as connection:
            connection.execute(statement.encode())

    def new_database(self) -> str:
        """A new and empty database; its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f'CREATE DATABASE "{name}"')
        return name

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._programs / program), "-D", str(self._data), *arguments]
        if os.geteuid() == 0:
            return ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--init-groups", "--", *command]
        return command


def _parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return None


def find_programs() -> Path:
    """Where initdb and postgres are; Debian keeps them off the PATH, by version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    program = found[-1] if found else shutil.which("initdb")
    if program is None:
        pytest.fail("PostgreSQL is not installed: apt-get install postgresql")
    return Path(program).parent


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server that lives as long as the session; tests keep apart by their databases, and do not stop it."""
    yield from _running()


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A server for one test, which may stop and start it, and change its settings."""
    yield from _running()


def _running() -> Iterator[PostgresServer]:
    # Not below pytest's directories, which are for the user alone who runs the tests.
    directory = Path(mkdtemp(prefix="fieldgate-postgres-"))
    try:
        server = PostgresServer(directory)
        server.create()
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
