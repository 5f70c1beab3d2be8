"""Each dependency frozen, silent, locked, full, read-only, moved away or replaced, while a gateway runs.

Within seconds /readyz says so and the log has a line; nothing is acknowledged that is not stored; and when the fault is
over the gateway works as before, by itself.
"""

import asyncio
import http.client
import json
import os
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.integration.mqtt.raw_client import RawClient
from tests.integration.test_database_away import locked, read_only, stopped, without_disk_space
from tests.support.fleet import FleetDevice, add_devices
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.serving import Serving
from tests.support.silent_proxy import silent_proxy
from tests.support.waiting import wait_until

Fault: TypeAlias = Callable[[Serving], AbstractContextManager[None]]

TS = 1_700_000_000_000
DEADLINE_S = 90.0
READINGS = "cannot commit, devices wait; trying again until it works"
SESSIONS = "MQTT sessions cannot be kept, clients wait; trying again until it works"


@dataclass
class Trial:
    """What a gateway is to run with, what becomes of it, and what is to be seen of that."""

    fault: Fault
    line: str
    """The line of /readyz that is not "ok" any more."""
    log: str
    """What one line of the log has; empty: its own tests tell."""
    is_ready: bool = False
    """Whether the gateway stays in service."""
    acknowledges: bool = False
    """Whether devices are acknowledged meanwhile."""
    arguments: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)


MakeTrial: TypeAlias = Callable[[pytest.FixtureRequest, ExitStack], Trial]
TRIALS: dict[str, MakeTrial] = {}


def trial(name: str) -> Callable[[MakeTrial], MakeTrial]:
    """Adds a row to the table."""

    def add(make: MakeTrial) -> MakeTrial:
        TRIALS[name] = make
        return make

    return add


def file_of(serving: Serving, name: str) -> Path:
    return serving.directory / "var" / name


@contextmanager
def moved_away(file: Path) -> Iterator[None]:
    away = file.with_suffix(".away")
    file.rename(away)
    try:
        yield
    finally:
        away.rename(file)


@contextmanager
def signalled(pids: Callable[[], list[int]]) -> Iterator[None]:
    """Processes of ours are frozen: their sockets are open, and nothing answers."""
    os.kill(pids()[0], signal.SIGSTOP)  # it starts the others and collects those that end: now they stay the same
    frozen = pids()
    for pid in frozen[1:]:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(frozen):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def called(begin: Callable[[], Any], end: Callable[[], Any]) -> Iterator[None]:
    begin()
    try:
        yield
    finally:
        end()


# SQLite


@trial("readings in SQLite, locked")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    return Trial(lambda serving: locked(file_of(serving, "gateway.sqlite3")), "readings", READINGS)


@trial("readings in SQLite, disk full")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    return Trial(lambda serving: without_disk_space(serving.process.pid), "readings", READINGS)


@trial("readings in SQLite, disk full and no device sends")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    fault: Fault = lambda serving: without_disk_space(serving.process.pid)  # noqa: E731
    return Trial(fault, "connections", "cannot record who is connected, trying again")


@trial("readings in SQLite, moved away")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    return Trial(lambda serving: moved_away(file_of(serving, "gateway.sqlite3")), "readings", READINGS)


@trial("sessions in SQLite, locked")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    fault: Fault = lambda serving: locked(file_of(serving, "mqtt.sqlite3"))  # noqa: E731
    return Trial(fault, "mqtt sessions", SESSIONS, acknowledges=True)


@trial("sessions in SQLite, moved away")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    fault: Fault = lambda serving: moved_away(file_of(serving, "mqtt.sqlite3"))  # noqa: E731
    return Trial(fault, "mqtt sessions", SESSIONS, acknowledges=True)


# PostgreSQL


def on_postgresql(request: pytest.FixtureRequest, port: int | None = None) -> tuple[PostgresServer, dict[str, str]]:
    server: PostgresServer = request.getfixturevalue("own_postgres_server")
    url = server.url(server.new_database())
    if port is not None:
        url = url.replace(f":{server.port}/", f":{port}/")
    return server, {"GATEWAY_DATABASE__URL": url}


@trial("PostgreSQL, frozen")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    server, environ = on_postgresql(request)
    return Trial(lambda serving: signalled(server.pids), "database", READINGS, environ=environ)


@trial("PostgreSQL, silent")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    proxy = stack.enter_context(silent_proxy(request.getfixturevalue("own_postgres_server").port))
    _, environ = on_postgresql(request, proxy.port)
    fault: Fault = lambda serving: called(proxy.silence_all, proxy.recover)  # noqa: E731
    return Trial(fault, "database", READINGS, environ=environ)


@trial("PostgreSQL, silent on the connections that there are")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    proxy = stack.enter_context(silent_proxy(request.getfixturevalue("own_postgres_server").port))
    _, environ = on_postgresql(request, proxy.port)
    fault: Fault = lambda serving: called(proxy.silence_established, proxy.recover)  # noqa: E731
    return Trial(fault, "readings", READINGS, environ=environ)


@trial("PostgreSQL, stopped")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    server, environ = on_postgresql(request)
    return Trial(lambda serving: stopped(server), "database", READINGS, environ=environ)


@trial("PostgreSQL, read-only")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    server, environ = on_postgresql(request)
    return Trial(lambda serving: read_only(server), "readings", READINGS, environ=environ)


@trial("PostgreSQL, read-only and no device sends")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    server, environ = on_postgresql(request)
    log = "cannot record who is connected, trying again"
    return Trial(lambda serving: read_only(server), "connections", log, environ=environ)


# Redis


@trial("sessions in Redis, frozen")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    server: RedisServer = request.getfixturevalue("own_redis_server")
    fault: Fault = lambda serving: signalled(lambda: [server.pid])  # noqa: E731
    arguments = ("--set", f"mqtt.store={server.url}/1")
    return Trial(fault, "mqtt sessions", SESSIONS, acknowledges=True, arguments=arguments)


@trial("sessions in Redis, read-only")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    server: RedisServer = request.getfixturevalue("own_redis_server")

    def replicate(*of: Any) -> None:
        with server.client() as client:
            client.execute_command("CONFIG", "SET", "min-replicas-to-write", *of)

    fault: Fault = lambda serving: called(lambda: replicate(1), lambda: replicate(0))  # noqa: E731
    arguments = ("--set", f"mqtt.store={server.url}/1")
    return Trial(fault, "mqtt sessions", SESSIONS, acknowledges=True, arguments=arguments)


def _layer_trial(scheme: str) -> MakeTrial:
    def make(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
        server: RedisServer = request.getfixturevalue("own_redis_server")
        url = server.url.replace("redis://", scheme)
        return Trial(
            lambda serving: signalled(lambda: [server.pid]),
            "layer",
            "",
            is_ready=True,
            acknowledges=True,
            arguments=("--set", f"layer.url={url}"),
        )

    return make


for scheme in ("redis://", "redis+pubsub://"):
    TRIALS[f"layer at {scheme}, frozen"] = _layer_trial(scheme)


# The broker upstream

BRIDGE = """
[[listeners]]
protocol = "http"
bind = "127.0.0.1:0"

[[listeners]]
protocol = "mqtt"
bind = "127.0.0.1:0"

[[listeners]]
protocol = "mqtt-bridge"
url = "{url}"
name = "upstream"
keep_alive_s = 5
reconnect_min_s = 0.05
reconnect_max_s = 0.5

[[listeners.receive]]
upstream = "site/{{device}}/telemetry"
local = "v1/devices/{{device}}/telemetry"
"""


@trial("upstream of a bridge, frozen")
def _(request: pytest.FixtureRequest, stack: ExitStack) -> Trial:
    directory: Path = request.getfixturevalue("tmp_path")
    mosquitto = Mosquitto(directory / "mosquitto")
    stack.enter_context(called(mosquitto.start, mosquitto.stop))
    configuration = directory / "bridge.toml"
    configuration.write_text(BRIDGE.format(url=mosquitto.url))
    return Trial(
        lambda serving: signalled(lambda: [mosquitto.pid]),
        "bridge upstream",
        "",
        is_ready=True,
        acknowledges=True,
        environ={"GATEWAY_CONFIG": str(configuration)},
    )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("name", TRIALS)
async def test_a_dependency_that_fails_is_seen_within_seconds_and_nothing_is_lost(
    name: str, request: pytest.FixtureRequest, stack: ExitStack, serve: Callable[..., Serving]
) -> None:
    made = TRIALS[name](request, stack)
    serving = serve(*made.arguments, **made.environ).ready()
    (device,) = await asyncio.to_thread(add_devices, serving, "sensor")
    assert await post_until_stored(serving, device, 1) == 1
    await until_report(serving, made.line, lambda outcome: outcome == "ok")
    sends = "no device sends" not in name

    with made.fault(serving):
        began = time.monotonic()
        posting = asyncio.create_task(post_until_stored(serving, device, 2)) if sends else None
        status = await until_report(serving, made.line, lambda outcome: outcome != "ok")
        print(f"{name}: seen after {time.monotonic() - began:.1f} s")
        assert status == (200 if made.is_ready else 503)
        if posting is not None and made.acknowledges:
            assert await posting == 2
        elif posting is not None and "that there are" not in name:
            assert not posting.done()
        await asyncio.to_thread(wait_until, lambda: not made.log or any(made.log in line for line in serving.log))

    if posting is not None:
        assert await posting == 2
    assert await post_until_stored(serving, device, 3) == 3
    await until_report(serving, made.line, lambda outcome: outcome == "ok")
    assert await asyncio.to_thread(stored, serving, device) >= ({1, 2, 3} if sends else {1, 3})
    log = "".join(serving.log)
    assert "Traceback" not in log
    assert not made.log or log.count(made.log) <= 1 + DEADLINE_S / 10, "one line, and one in ten seconds"


async def test_a_database_that_is_replaced_is_the_one_that_is_used_from_then_on(
    serve: Callable[..., Serving], tmp_path: Path
) -> None:
    """As when a backup is restored while the gateway runs: the numbers of devices and keys may mean others there."""
    serving = serve().ready()
    file = file_of(serving, "gateway.sqlite3")
    kept, new = await asyncio.to_thread(add_devices, serving, "kept", "new")
    assert await post_until_stored(serving, kept, 1) == 1
    backup = tmp_path / "backup.sqlite3"
    copy(file, backup)
    change(
        backup,
        "UPDATE gateway_devices_key SET name = 'other' WHERE name = 't';"
        f"DELETE FROM gateway_devices_credential WHERE device_id = {new.pk}",
    )
    assert await post_until_stored(serving, new, 2, key="later") == 2

    backup.replace(file)

    await asyncio.to_thread(wait_until, lambda: post(serving, new, 3) == 401)
    assert await post_until_stored(serving, kept, 4) == 4
    assert await asyncio.to_thread(stored, serving, kept) == {4}, "1 was renamed, 2 is in the file before"
    assert damage(file) == []
    log = "".join(serving.log)
    assert log.count("was replaced by another database") == 1
    assert "Traceback" not in log


SHIFTED_CLOCK = """
import time
from pathlib import Path

_shift = Path(__file__).with_name("shift")
_time, _time_ns = time.time, time.time_ns

def shift_s():
    try:
        return int(_shift.read_text())
    except (OSError, ValueError):
        return 0

time.time = lambda: _time() + shift_s()
time.time_ns = lambda: _time_ns() + shift_s() * 10**9
"""


@pytest.mark.parametrize(("database", "days"), [("sqlite", 1 / 24), ("postgresql", 40)])
async def test_a_clock_that_was_ahead_and_is_put_right_leaves_connected_devices_connected(
    database: str, days: float, serve: Callable[..., Serving], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The wall clock of the gateway alone is shifted; who asks is another process, with a clock that is right."""
    directory = tmp_path / "clock"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(SHIFTED_CLOCK)
    shift = directory / "shift"
    environ = {} if database == "sqlite" else on_postgresql(request)[1]
    shift.write_text("0")
    serving = serve(PYTHONPATH=str(directory), **environ).ready()
    serving.environ = environ
    (device,) = await asyncio.to_thread(add_devices, serving, "sensor")

    async def connected() -> RawClient:
        client = await RawClient.open(("127.0.0.1", serving.port("mqtt")))
        assert (await client.connect("sensor", username=device.token)).reason_code == 0
        return client

    def state() -> str:
        return serving.command("device", "list").stdout

    shift.write_text(str(int(days * 86_400)))
    first = await connected()
    await asyncio.to_thread(wait_until, lambda: "\tconnected\t" in state())
    first.abort()
    await asyncio.to_thread(wait_until, lambda: "\tnot connected\t" in state())
    shift.write_text("0")
    second = await connected()
    await asyncio.to_thread(wait_until, lambda: "\tconnected\t" in state())
    second.abort()
    await asyncio.to_thread(wait_until, lambda: "\tnot connected\t" in state())


def copy(file: Path, backup: Path) -> None:
    source, target = sqlite3.connect(file), sqlite3.connect(backup)
    source.backup(target)
    target.execute("PRAGMA journal_mode = WAL")
    target.close()
    source.close()


def change(file: Path, statements: str) -> None:
    connection = sqlite3.connect(file)
    connection.executescript(statements)
    connection.close()


def damage(file: Path) -> list[str]:
    """What is wrong with the file."""
    connection = sqlite3.connect(file)
    found = [text for (text,) in connection.execute("PRAGMA quick_check")]
    connection.close()
    # So does SQLite 3.40 say of sound tables without rowid (docs/operation.md).
    return [text for text in found if text != "ok" and not text.startswith("NULL value in gateway_devices_reading")]


async def until_report(serving: Serving, line: str, is_right: Callable[[str], bool]) -> int:
    """Waits until /readyz says of something what is right; the status of that answer."""
    seen: list[Any] = []

    def ask() -> bool:
        seen[:] = readiness(serving)
        return is_right(seen[1].get(line, "missing"))

    try:
        await asyncio.to_thread(wait_until, ask)
    except TimeoutError:
        pytest.fail(f"/readyz says {seen}\n" + "".join(serving.log))
    return int(seen[0])


def readiness(serving: Serving) -> tuple[int, dict[str, str]]:
    try:
        with urllib.request.urlopen(f"{serving.url}/readyz", timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def post(serving: Serving, device: FleetDevice, number: int, key: str = "t") -> int:
    body = json.dumps({"ts": TS + number, "values": {key: number}})
    connection = http.client.HTTPConnection("127.0.0.1", serving.port("http"), timeout=DEADLINE_S)
    try:
        connection.request("POST", f"/api/v1/{device.token}/telemetry", body)
        with connection.getresponse() as response:
            response.read()
            return response.status
    finally:
        connection.close()


async def post_until_stored(serving: Serving, device: FleetDevice, number: int, key: str = "t") -> int:
    """Sends a reading until it is acknowledged, as a device does; the number of the reading."""
    async with asyncio.timeout(DEADLINE_S):
        while (status := await asyncio.to_thread(post, serving, device, number, key)) != 200:
            assert status in (500, 503), status
            await asyncio.sleep(0.2)
    return number


def stored(serving: Serving, device: FleetDevice) -> set[int]:
    """The numbers that are in the database that the gateway uses."""
    shown = serving.command("manage", "shell", "-v", "0", "-c", _STORED % device.pk).stdout
    return set(json.loads(shown.splitlines()[-1]))


_STORED = """
import json
from devices.models import Reading
readings = Reading.objects.filter(device=%d, key__name="t")
print(json.dumps([int(number) for number in readings.values_list("number", flat=True)]))
"""
