"""A real redis-server per test session: ephemeral port, own directory, ended by its pid."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

START_TIMEOUT_S = 10.0


class RedisServer:
    """One redis-server process. `stop` and `start` keep the port, `pause` and `resume` keep the process."""

    def __init__(self, directory: Path, *, port: int | None = None, options: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.unix_socket = directory / "redis.sock"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the server and returns when it answers."""
        config = [option for option in self._options if option.endswith(".conf")]  # has to come first
        command = [
            "redis-server",
            *config,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.directory),
        ]
        command += ["--save", "", "--appendonly", "no", "--unixsocket", str(self.unix_socket)]
        command += [option for option in self._options if option not in config]
        with (self.directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
            except redis.RedisError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Kills the server; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """The server keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> "redis.Redis":
        """A synchronous client, to look from outside."""
        return redis.Redis(port=self.port, socket_timeout=2)


class SentinelSetup:
    """A master with a replica, and three Sentinels that agree by two and act after half a second."""

    master_name = "main"

    def __init__(self, directory: Path) -> None:
        self.master = self._server(directory / "master")
        self.replica = self._server(directory / "replica", "--replicaof", "127.0.0.1", str(self.master.port))
        self._directories = [directory / f"sentinel-{number}" for number in range(3)]
        self._sentinels: list[RedisServer] = []

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", sentinel.port) for sentinel in self._sentinels]

    def start(self) -> None:
        """Returns when the Sentinels know the replica and each other."""
        self.master.start()
        self.replica.start()
        for directory in self._directories:
            directory.mkdir()
            self._sentinels.append(RedisServer(directory, options=(str(self._configure(directory)), "--sentinel")))
            self._sentinels[-1].start()
        deadline = time.monotonic() + START_TIMEOUT_S * 2
        while not all(map(self._is_complete, self._sentinels)):
            assert time.monotonic() < deadline, "the Sentinels did not find each other"
            time.sleep(0.05)

    def stop(self) -> None:
        for server in (*self._sentinels, self.replica, self.master):
            server.stop()

    @staticmethod
    def _server(directory: Path, *options: str) -> RedisServer:
        directory.mkdir()
        return RedisServer(directory, options=("--repl-diskless-sync-delay", "0", *options))

    def _configure(self, directory: Path) -> Path:
        file = directory / "sentinel.conf"
        file.write_text(
            f"sentinel monitor {self.master_name} 127.0.0.1 {self.master.port} 2\n"
            f"sentinel down-after-milliseconds {self.master_name} 500\n"
            f"sentinel failover-timeout {self.master_name} 3000\n"
        )
        return file

    def _is_complete(self, sentinel: RedisServer) -> bool:
        with sentinel.client() as client:
            known = client.sentinel_masters()[self.master_name]
            return int(known["num-slaves"]) == 1 and int(known["num-other-sentinels"]) == 2


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _require_redis() -> None:
    if shutil.which("redis-server") is None:
        pytest.fail("redis-server is not installed: apt-get install redis-server")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that lives as long as the session; tests keep apart by the prefix of their keys."""
    _require_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test, which may stop, pause and start it."""
    _require_redis()
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def sentinel_setup(tmp_path: Path) -> Iterator[SentinelSetup]:
    """Servers whose master a test may stop."""
    _require_redis()
    setup = SentinelSetup(tmp_path)
    try:
        setup.start()
        yield setup
    finally:
        setup.stop()
