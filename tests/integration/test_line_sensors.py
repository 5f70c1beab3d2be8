"""docs/write-a-protocol-server.md, to the letter: its files are installed, its configuration is served."""

import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import line_sensors
from tests.support.serving import Serving

DEADLINE_S = 60.0


class Sensor:
    """A connection that writes lines and reads the answers."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self._answers = self._socket.makefile("r", encoding="utf-8", newline="\n")

    def say(self, line: str) -> str:
        self._socket.sendall(line.encode() + b"\n")
        return self.answer()

    def answer(self) -> str:
        """The next line; empty if the gateway has closed the connection."""
        return self._answers.readline().rstrip("\n")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package of the page installed in it, and beside it the configuration."""
    source, target = tmp_path_factory.mktemp("line-sensors"), tmp_path_factory.mktemp("installed")
    files = line_sensors.files()
    assert sorted(files) == ["gateway.toml", "line_sensors/consumers.py", "line_sensors/server.py", "pyproject.toml"]
    for name, text in files.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    shutil.move(source / "gateway.toml", target / "gateway.toml")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--disable-pip-version-check", "--target", target, source], check=True, timeout=300)
    return target


@pytest.fixture(scope="module")
def serving(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("gateway")
    served = Serving(directory, "--config", str(packages / "gateway.toml"), PYTHONPATH=str(packages))
    try:
        yield served.ready()
    finally:
        served.kill()


@pytest.fixture
def sensor(serving: Serving) -> Iterator[Sensor]:
    connected = Sensor(serving.port("line"))
    yield connected
    connected.close()


def token_of(serving: Serving, name: str) -> str:
    return serving.command("device", "add", name).stdout.strip()


def test_the_dialogue_of_the_page_is_had_and_the_reading_stored(serving: Serving, sensor: Sensor) -> None:
    assert sensor.say(f"hello {token_of(serving, 'boiler-1')}") == "ok"
    assert sensor.say("temperature 21.5") == "ok"
    assert sensor.say("temperature") == "error expected: KEY VALUE"

    with closing(sqlite3.connect(serving.directory / "var/gateway.sqlite3", timeout=30)) as database:
        stored = database.execute(
            "SELECT d.name, k.name, r.number FROM gateway_devices_reading r"
            " JOIN gateway_devices_device d ON d.id = r.device_id JOIN gateway_devices_key k ON k.id = r.key_id"
        ).fetchall()
    assert stored == [("boiler-1", "temperature", 21.5)]


def test_an_unknown_token_is_refused_and_the_connection_closed(sensor: Sensor) -> None:
    assert sensor.say("hello nobody") == "error unknown token"
    assert sensor.answer() == ""


def test_who_does_not_say_hello_is_refused(sensor: Sensor) -> None:
    assert sensor.say("temperature 21.5") == "error no token"
    assert sensor.answer() == ""


def test_a_line_that_is_too_long_ends_the_connection(sensor: Sensor) -> None:
    try:
        assert sensor.say("x" * 300) == ""
    except ConnectionResetError:
        pass


def test_a_disabled_device_is_cut_off(serving: Serving, sensor: Sensor) -> None:
    assert sensor.say(f"hello {token_of(serving, 'boiler-2')}") == "ok"

    serving.command("device", "disable", "boiler-2")

    assert sensor.answer() == "error disabled"
    assert sensor.answer() == ""


def test_a_mistake_in_a_key_of_the_plug_in_is_found_by_the_check(
    serving: Serving, packages: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text((packages / "gateway.toml").read_text().replace("max_line_bytes = 256", "max_line_byte = 256"))

    checked = serving.command("check", "--config", str(wrong), check=False)

    assert checked.returncode == 2
    assert 'unknown key "listeners.1.max_line_byte"; did you mean "max_line_bytes"?' in checked.stderr


def test_the_gateway_stops_with_a_sensor_connected(packages: Path, tmp_path: Path) -> None:
    serving = Serving(tmp_path, "--config", str(packages / "gateway.toml"), PYTHONPATH=str(packages))
    try:
        sensor = Sensor(serving.ready().port("line"))
        assert sensor.say(f"hello {token_of(serving, 'boiler-3')}") == "ok"
        started = time.monotonic()

        assert serving.stop() == 0
        assert sensor.answer() == ""
        assert time.monotonic() - started < DEADLINE_S
        sensor.close()
    finally:
        serving.kill()
