"""A real redis-server per test session: a port and a directory of its own, ended by its pid."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from tests.support.ports import free_port

START_TIMEOUT_S = 30.0
SLOTS = 16384


class RedisServer:
    """One redis-server process. `stop` and `start` keep the port, `pause` and `resume` keep the process."""

    def __init__(self, directory: Path, *, port: int | None = None, options: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.unix_socket = directory / "redis.sock"
        self.options = options
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
        config = [option for option in self.options if option.endswith(".conf")]  # has to come first
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
        command += [option for option in self.options if option not in config]
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


class ClusterSetup:
    """Three masters that share the slots, and as many replicas, of the first masters, as asked for."""

    def __init__(self, directory: Path, *, replicas: int = 0) -> None:
        self.nodes = [self._node(directory / f"node-{number}") for number in range(3)]
        self.replicas = [self._node(directory / f"replica-{number}") for number in range(replicas)]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", node.port) for node in self.nodes]

    def start(self) -> None:
        """Returns when every node finds the cluster complete: about three seconds, of which Redis waits two."""
        for node in (*self.nodes, *self.replicas):
            node.start()
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                first, end = (-(-SLOTS * part // len(self.nodes)) for part in (number, number + 1))
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        self._introduce()
        for node, replica in zip(self.nodes, self.replicas, strict=False):
            self._wait(lambda node=node, replica=replica: self.node_id(node) in self._known_to(replica))
            with replica.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", self.node_id(node))
        members = len(self.nodes) + len(self.replicas)
        for node in (*self.nodes, *self.replicas):
            self._wait(lambda node=node: self._is_complete(node, members))
        for replica in self.replicas:
            self._wait(lambda replica=replica: self._is_synchronized(replica))

    def stop(self) -> None:
        for node in (*self.nodes, *self.replicas):
            node.stop()

    def owner(self, key: bytes) -> RedisServer:
        """The server of `key`, as the cluster was made."""
        return self.nodes[key_slot(key) * len(self.nodes) // SLOTS]

    def move_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Gives an empty slot to another node, which the others learn from it."""
        for node in (target, source, *self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.node_id(target))

    @staticmethod
    def node_id(node: RedisServer) -> str:
        with node.client() as client:
            reply: bytes = client.execute_command("CLUSTER", "MYID")
            return reply.decode()

    @staticmethod
    def _node(directory: Path) -> RedisServer:
        directory.mkdir(parents=True)
        options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "800")
        return RedisServer(directory, options=(*options, "--repl-diskless-sync-delay", "0"))

    def _introduce(self) -> None:
        with self.nodes[0].client() as client:
            for node in (*self.nodes[1:], *self.replicas):
                bus = node.options[node.options.index("--cluster-port") + 1]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)

    @staticmethod
    def _known_to(node: RedisServer) -> set[str]:
        with node.client() as client:
            reply: bytes = client.execute_command("CLUSTER", "NODES")
            return set(reply.decode().split())

    @staticmethod
    def _is_complete(node: RedisServer, members: int) -> bool:
        with node.client() as client:
            reply: bytes = client.execute_command("CLUSTER", "INFO")
            return {"cluster_state:ok", f"cluster_known_nodes:{members}"} <= set(reply.decode().split())

    @staticmethod
    def _is_synchronized(replica: RedisServer) -> bool:
        with replica.client() as client:
            return client.info("replication").get("master_link_status") == "up"

    @staticmethod
    def _wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, "the cluster did not come together"
            time.sleep(0.02)


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


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSetup]:
    """Three nodes that live as long as the session; tests keep apart by the prefix of their keys."""
    _require_redis()
    setup = ClusterSetup(tmp_path_factory.mktemp("cluster"))
    try:
        setup.start()
        yield setup
    finally:
        setup.stop()


@pytest.fixture
def own_redis_cluster(tmp_path: Path) -> Iterator[ClusterSetup]:
    """Three nodes for one test, the first of which has a replica."""
    _require_redis()
    setup = ClusterSetup(tmp_path, replicas=1)
    try:
        setup.start()
        yield setup
    finally:
        setup.stop()
