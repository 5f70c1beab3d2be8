"""Runs the peer: redis-server, Mosquitto, uvicorn and the worker, on free ports and an empty database."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from load import Client, connect, cpu_of, free_port, own_cpu, publish_packet, running

from peers.mosquitto import mosquitto

BENCHMARKS = Path(__file__).resolve().parent.parent
DRAIN_S = 120.0


class Drained(NamedTuple):
    """What became of a backlog."""

    seconds: float
    """From the first publish to the commit of the last message."""
    share: float
    """Of a core, all processes of the peer together."""
    load_share: float


@dataclass(frozen=True)
class Stack:
    """The running peer."""

    pids: Sequence[int]
    mqtt_port: int
    web_port: int
    database: Path

    @property
    def url(self) -> str:
        """The dashboard of all devices."""
        return f"ws://127.0.0.1:{self.web_port}/ws/"

    def rows(self) -> int:
        """How many values are stored."""
        with closing(sqlite3.connect(self.database)) as connection:
            return int(connection.execute("SELECT coalesce(max(id), 0) FROM peers_reading").fetchone()[0])

    def cpu(self) -> float:
        """Seconds of processor time, all processes together."""
        return sum(cpu_of(pid) for pid in self.pids)

    async def drain(self, connections: int, messages: int, payload: bytes, values: int) -> Drained:
        """Publishes so many messages, of so many values, at once; returns when the last one is stored."""
        clients = [Client(number) for number in range(connections)]
        await connect(self.mqtt_port, clients)
        began, cpu, own = time.perf_counter(), self.cpu(), own_cpu()
        for number, client in enumerate(clients):
            share = range(1, messages // connections + 1)
            client.transport.write(b"".join(publish_packet(payload, at, device_topic(number)) for at in share))
        while self.rows() < messages * values:
            if time.perf_counter() - began > DRAIN_S:
                raise RuntimeError(f"{self.rows()} of {messages * values} rows were stored in {DRAIN_S:g} s")
            await asyncio.sleep(0.05)
        took = time.perf_counter() - began
        result = Drained(took, (self.cpu() - cpu) / took, (own_cpu() - own) / took)
        await asyncio.sleep(0.5)  # for the last frames to reach the dashboards
        for client in clients:
            client.transport.abort()
        return result


def device_topic(number: int) -> bytes:
    """Where a device publishes."""
    return b"devices/%d/telemetry" % number


@contextmanager
def stack(directory: Path, *, storing: str = "create", groups: str = "fleet") -> Iterator[Stack]:
    """Runs the peer; see worker.py for the ways of storing and the groups of dashboards."""
    mqtt_port, redis_port, web_port = free_port(), free_port(), free_port()
    database = directory / "peer.sqlite3"
    options = {
        "cwd": BENCHMARKS,
        "env": {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "peers.settings",
            "PYTHONPATH": str(BENCHMARKS),
            "PEER_DATABASE": str(database),
            "PEER_REDIS": f"redis://127.0.0.1:{redis_port}",
        },
    }
    django = [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"]
    subprocess.run(django, check=True, **options)
    redis = ["redis-server", "--bind", "127.0.0.1", "--port", str(redis_port), "--save", "", "--dir", str(directory)]
    uvicorn = [sys.executable, "-m", "uvicorn", "peers.asgi:application", "--port", str(web_port)]
    uvicorn += ["--loop", "uvloop", "--http", "httptools", "--lifespan", "off", "--log-level", "error"]
    worker = [sys.executable, "-m", "peers.worker", str(mqtt_port), storing, groups]
    with ExitStack() as started:
        pids = [
            started.enter_context(running(redis, redis_port)),
            started.enter_context(mosquitto(mqtt_port)),
            started.enter_context(running(uvicorn, web_port, **options)),
            started.enter_context(working(worker, options)),
        ]
        yield Stack(pids, mqtt_port, web_port, database)


@contextmanager
def working(command: Sequence[str], options: dict) -> Iterator[int]:
    """Starts the worker; gives its process id once it has subscribed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the peer's worker did not start")
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
