"""The database is locked, full, read-only or stopped for seconds: devices wait, nothing is lost, service resumes."""

import asyncio
import http.client
import json
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest
from websockets.asyncio.client import connect as connect_websocket

from devices.ingest import MAX_WAITING
from protocols.mqtt.codec.packets import Connect, PubAck, Publish
from tests.integration.mqtt.raw_client import RawClient
from tests.support.fleet import FleetDevice, add_devices
from tests.support.postgres import PostgresServer
from tests.support.serving import Serving

Serve: TypeAlias = Callable[..., Serving]
Outage: TypeAlias = Callable[[], AbstractContextManager[None]]

TELEMETRY = "v1/devices/me/telemetry"
TS = 1_700_000_000_000
TIMEOUT_S = 30.0


class Trial:
    """A gateway on a database, and a way to take the database away."""

    def __init__(self, serving: Serving, outage: Outage, query: Callable[[str], list[Any]]) -> None:
        self.serving = serving
        self.outage = outage
        self.query = query
        self.host = "127.0.0.1"
        self.url = serving.url
        self._clients: list[RawClient] = []

    async def open(self, version: int) -> RawClient:
        """An MQTT connection that is closed at the end of the test."""
        self._clients.append(await RawClient.open((self.host, self.serving.port("mqtt")), version))
        return self._clients[-1]

    def close(self) -> None:
        for client in self._clients:
            client.abort()

    async def mqtt(self, device: FleetDevice, version: int = 4) -> RawClient:
        client = await self.open(version)
        assert (await client.connect("sensor", username=device.token)).reason_code == 0
        return client

    def stored(self, device: FleetDevice) -> list[int]:
        """The numbers of the readings of a device."""
        rows = self.query(f"SELECT ts FROM gateway_devices_reading WHERE device_id = {device.pk} ORDER BY ts")
        return [ts - TS for (ts,) in rows]

    def readiness(self) -> tuple[int, dict[str, str]]:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    async def until_readiness(self, status: int, readings: str) -> None:
        """Waits until /readyz answers with `status` and says this of readings."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                answer, report = await asyncio.to_thread(self.readiness)
                if answer == status and report["readings"] == readings:
                    return
                await asyncio.sleep(0.1)

    def waiting(self) -> float:
        """How many readings wait for their commit."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as response:
            match = re.search(r"^gateway_readings_waiting (\S+)$", response.read().decode(), re.MULTILINE)
        assert match is not None
        return float(match[1])


@pytest.fixture
async def on_sqlite(serve: Serve, tmp_path: Path) -> AsyncIterator[Callable[[str], Trial]]:
    """A gateway on SQLite whose database can be `locked`, or have a disk that is `full`."""

    made: list[Trial] = []

    def make(kind: str) -> Trial:
        serving = serve("--set", "server.shutdown_timeout_s=1").ready()
        file = tmp_path / "var" / "gateway.sqlite3"
        outages: dict[str, Outage] = {
            "locked": lambda: locked(file),
            "full": lambda: without_disk_space(serving.process.pid),
        }
        made.append(Trial(serving, outages[kind], lambda query: sqlite_rows(file, query)))
        return made[-1]

    yield make
    for trial in made:
        trial.close()


@pytest.fixture
async def on_postgresql(serve: Serve, own_postgres_server: PostgresServer) -> AsyncIterator[Callable[[str], Trial]]:
    """A gateway on PostgreSQL, which can be `read-only` or `stopped`."""

    made: list[Trial] = []

    def make(kind: str) -> Trial:
        serving = serve(GATEWAY_DATABASE__URL=own_postgres_server.url(own_postgres_server.new_database())).ready()
        url = serving.environ["GATEWAY_DATABASE__URL"]
        outages: dict[str, Outage] = {
            "read-only": lambda: read_only(own_postgres_server),
            "stopped": lambda: stopped(own_postgres_server),
        }
        made.append(Trial(serving, outages[kind], lambda query: postgresql_rows(url, query)))
        return made[-1]

    yield make
    for trial in made:
        trial.close()


@pytest.fixture(params=["sqlite locked", "sqlite full", "postgresql read-only", "postgresql stopped"])
def trial(request: pytest.FixtureRequest) -> Trial:
    kind, outage = request.param.split()
    made: Trial = request.getfixturevalue(f"on_{kind}")(outage)
    return made


async def test_nothing_is_acknowledged_and_nothing_lost_on_any_wire(trial: Trial) -> None:
    on_mqtt, on_websocket, on_http = await asyncio.to_thread(add_devices, trial.serving, "mqtt", "websocket", "http")
    mqtt = await trial.mqtt(on_mqtt)
    headers = {"Authorization": f"Bearer {on_websocket.token}"}
    async with connect_websocket(f"ws{trial.url[4:]}/ws/device/", additional_headers=headers) as websocket:
        mqtt.send(Publish(topic=TELEMETRY, payload=reading(0), qos=1, packet_id=1))
        assert await mqtt.receive() == PubAck(packet_id=1)
        assert await post(trial, on_http, reading(0)) == 200

        with trial.outage():
            for number in (1, 2, 3):
                mqtt.send(Publish(topic=TELEMETRY, payload=reading(number), qos=1, packet_id=number + 1))
                await websocket.send(reading(number).decode())
            posted = asyncio.create_task(post(trial, on_http, reading(1)))
            await trial.until_readiness(503, "readings cannot be committed; devices wait")
            await asyncio.sleep(1)

            assert not posted.done()
            await mqtt.expect_nothing_more()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await websocket.recv()

        assert [await mqtt.receive() for _ in range(3)] == [PubAck(packet_id=number) for number in (2, 3, 4)]
        async with asyncio.timeout(TIMEOUT_S):
            assert [json.loads(await websocket.recv()) for _ in range(3)] == [{"ack": 1}, {"ack": 2}, {"ack": 3}]
        assert await posted == 200
    await trial.until_readiness(200, "ok")
    assert [trial.stored(device) for device in (on_mqtt, on_websocket, on_http)] == [[0, 1, 2, 3], [1, 2, 3], [0, 1]]
    assert await asyncio.to_thread(trial.serving.stop) == 0
    log = "".join(trial.serving.log)
    assert log.count("cannot commit, devices wait; trying again until it works") == 1
    assert log.count("readings are committed again") == 1
    assert "Traceback" not in log


async def test_sockets_wait_while_the_database_is_locked_for_ten_seconds(on_sqlite: Callable[[str], Trial]) -> None:
    trial = on_sqlite("locked")
    devices = await asyncio.to_thread(add_devices, trial.serving, *(f"flood-{number}" for number in range(4)))
    clients = [await trial.mqtt(device) for device in devices]
    of_a_message = 1_000
    messages = MAX_WAITING // of_a_message  # of each: four times of what may wait
    payloads = [
        json.dumps([{"ts": TS + number * of_a_message + n, "values": {"t": n}} for n in range(of_a_message)]).encode()
        for number in range(messages)
    ]
    with trial.outage():
        begun = time.monotonic()
        for client in clients:
            for number, payload in enumerate(payloads):
                client.send(Publish(topic=TELEMETRY, payload=payload, qos=1, packet_id=number + 1))
        answers = [asyncio.create_task(client.reader.read(1)) for client in clients]
        done, _ = await asyncio.wait(answers, timeout=10 - (time.monotonic() - begun))
        assert not done, "something was acknowledged"
        for answer in answers:
            answer.cancel()
        # The rest is in the buffers of the sockets, and then with the devices.
        assert MAX_WAITING <= await asyncio.to_thread(trial.waiting) < 1.2 * MAX_WAITING

    for client in clients:
        assert [await client.receive() for _ in range(messages)] == [PubAck(number + 1) for number in range(messages)]
    for device in devices:
        assert trial.stored(device) == list(range(messages * of_a_message))


async def test_a_device_that_cannot_be_looked_up_is_told_to_come_back(on_postgresql: Callable[[str], Trial]) -> None:
    trial = on_postgresql("stopped")
    (device,) = await asyncio.to_thread(add_devices, trial.serving, "newcomer")

    with trial.outage():
        assert await post(trial, device, reading(1)) == 503
        for version, code in ((4, 3), (5, 0x88)):
            client = await trial.open(version)
            client.send(connect_packet(device, version))
            assert (await client.receive_bytes())[3] == code
            await client.expect_end()

    async with asyncio.timeout(TIMEOUT_S):
        while await post(trial, device, reading(1)) != 200:
            await asyncio.sleep(0.1)
    assert trial.stored(device) == [1]


async def test_a_gateway_that_is_stopped_meanwhile_ends_and_says_so(on_sqlite: Callable[[str], Trial]) -> None:
    trial = on_sqlite("locked")
    (device,) = await asyncio.to_thread(add_devices, trial.serving, "mqtt")
    client = await trial.mqtt(device)
    with trial.outage():
        client.send(Publish(topic=TELEMETRY, payload=reading(1), qos=1, packet_id=1))
        await trial.until_readiness(503, "readings cannot be committed; devices wait")

        trial.serving.process.send_signal(signal.SIGTERM)
        assert await client.reader.read() == b"", "nothing was acknowledged"
        assert await asyncio.to_thread(trial.serving.ended) == 1
    assert "what it had not acknowledged is not stored" in trial.serving.log[-1]


def reading(number: int) -> bytes:
    return json.dumps({"ts": TS + number, "values": {"t": number}}).encode()


def connect_packet(device: FleetDevice, version: int) -> Connect:
    return Connect(version=version, client_id="sensor", username=device.token)


async def post(trial: Trial, device: FleetDevice, body: bytes) -> int:
    """Sends telemetry by HTTP; the status."""

    def send() -> int:
        connection = http.client.HTTPConnection(trial.host, trial.serving.port("http"), timeout=60)
        try:
            connection.request("POST", f"/api/v1/{device.token}/telemetry", body)
            with connection.getresponse() as response:
                if response.status == 503:
                    assert int(response.headers["retry-after"]) > 0
                return response.status
        finally:
            connection.close()

    return await asyncio.to_thread(send)


_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Another process holds the database of SQLite."""
    command = [sys.executable, "-c", _HOLD, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            yield
        finally:
            holder.kill()


@contextmanager
def without_disk_space(pid: int) -> Iterator[None]:
    """The process `pid` can write to no file: to SQLite that is a full or broken disk, for root too."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def read_only(server: PostgresServer) -> Iterator[None]:
    """PostgreSQL takes no writes."""
    make_read_only(server, "on")
    try:
        yield
    finally:
        make_read_only(server, "off")


def make_read_only(server: PostgresServer, state: str) -> None:
    """Returns when it is so: PostgreSQL reads its configuration some time after it was told to."""
    server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {state}")
    server.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        with server.connect("postgres") as connection:
            row = connection.execute("SHOW default_transaction_read_only").fetchone()
        if row == (state,):
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    """PostgreSQL does not run."""
    server.stop()
    try:
        yield
    finally:
        server.start()


def sqlite_rows(file: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(file, timeout=30)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def postgresql_rows(url: str, query: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()
