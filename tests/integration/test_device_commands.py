"""`gateway device ...`, as whoever types it sees it: results on standard output, all else on standard error."""

import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.support.serving import GATEWAY, clean_environment

TOKEN = re.compile(r"[A-Za-z0-9]{32}\n")


class Command:
    """The command line on data of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "var" / "gateway.sqlite3"

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [GATEWAY, "device", *arguments],
            cwd=self.directory,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def query(self, statement: str) -> list[tuple[object, ...]]:
        with sqlite3.connect(self.file) as connection:
            rows = connection.execute(statement).fetchall()
        connection.close()
        return rows


@pytest.fixture
def device(tmp_path: Path, sqlite_template: Path) -> Command:
    (tmp_path / "var").mkdir()
    command = Command(tmp_path)
    shutil.copy(sqlite_template, command.file)
    return command


def test_a_device_is_added_once_listed_and_shown(device: Command) -> None:
    added = device("add", "thermo 1 ü", "--type", "thermometer")
    assert added.returncode == 0
    assert TOKEN.fullmatch(added.stdout), "the token alone is on standard output"
    assert "thermo 1 ü added" in added.stderr
    assert added.stdout.strip() not in added.stderr

    listed = device("list")
    assert (listed.returncode, listed.stdout, listed.stderr) == (
        0,
        "thermo 1 ü\tthermometer\tnot connected\tnever\n",
        "",
    )

    again = device("add", "thermo 1 ü")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "gateway: cannot add 'thermo 1 ü': Device with this Name already exists.\n"

    shown = device("show", "thermo 1 ü")
    assert shown.returncode == 0
    assert re.fullmatch(
        r"name +thermo 1 ü\ntype +thermometer\nclients +1/\.\.\.\nstate +not connected\nlast data +never\n"
        rf"token +…{added.stdout[-5:-1]}, issued \d{{4}}-\d\d-\d\d \d\d:\d\d, valid\n",
        shown.stdout,
    )
    assert device("show", "1/an-mqtt-client").stdout == shown.stdout
    assert device("show", "2/an-mqtt-client").stderr.startswith("gateway: there is no device '2/an-mqtt-client'")


def test_disabling_rotating_and_enabling_each_order_the_connections_cut(device: Command) -> None:
    first = device("add", "thermo-1").stdout

    assert device("disable", "thermo-1").returncode == 0
    assert device("list").stdout == "thermo-1\tdefault\tdisabled\tnever\n"
    assert device("enable", "thermo-1").returncode == 0
    rotated = device("rotate", "thermo-1")

    assert rotated.returncode == 0
    assert TOKEN.fullmatch(rotated.stdout)
    assert rotated.stdout != first
    assert device.query("SELECT reason FROM gateway_devices_disconnectorder ORDER BY id") == [
        ("disabled",),
        ("enabled",),
        ("credentials rotated",),
    ]
    assert device.query("SELECT hint, revoked_at IS NULL FROM gateway_devices_credential ORDER BY id") == [
        (first[-5:-1], 0),
        (rotated.stdout[-5:-1], 1),
    ]


def test_a_clock_that_is_ahead_is_shown(device: Command) -> None:
    device("add", "sensor")
    assert "clock" not in device("show", "sensor").stdout

    device.query("UPDATE gateway_devices_device SET clock_skew_ms = 7200000")

    assert "clock      2 hours ahead\n" in device("show", "sensor").stdout


def test_a_key_of_which_there_are_only_readings_of_the_future_is_shown_as_such(device: Command) -> None:
    device("add", "sensor")
    device.query("INSERT INTO gateway_devices_key (id, name) VALUES (1, 'early'), (2, 'good')")
    columns = "(device_id, key_id, ts, received, number)"
    device.query(f"INSERT INTO gateway_devices_latestvalue {columns} VALUES (1, 1, 4e12, 1, 21.5), (1, 2, 1, 1, 7)")

    shown = device("show", "sensor").stdout

    assert "value      good = 7 at 1970" in shown
    assert "value      early" not in shown
    assert "ahead      early, whose readings are all too far ahead of the gateway's clock\n" in shown


def test_a_name_that_is_none_is_refused_and_leaves_nothing(device: Command) -> None:
    refused = device("add", "x" * 201)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("gateway: cannot add 'xxx")
    assert device.query("SELECT count(*) FROM gateway_devices_devicetype") == [(0,)]


def test_a_device_that_there_is_not_is_1_and_one_line(device: Command) -> None:
    done = device("show", "absent")

    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"gateway: there is no device 'absent'; `\S+ device list` lists them\n", done.stderr)


def test_wrong_usage_of_a_device_command_is_2(device: Command) -> None:
    assert device("add").returncode == 2


def test_before_the_first_start_there_is_nothing_to_add_to(tmp_path: Path) -> None:
    done = Command(tmp_path)("add", "thermo-1")

    assert (done.returncode, done.stdout) == (1, "")
    assert "gateway serve` creates it on its first start" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_name_in_certificates_is_trusted_for_one_device_until_it_is_not(device: Command) -> None:
    for name in ("one", "other"):
        device("add", name)

    assert device("trust", "one", "--cn", "sensor").stderr == "Device one is who has a certificate with cn sensor.\n"
    taken = device("trust", "other", "--cn", "sensor")
    assert (taken.returncode, taken.stderr) == (1, "gateway: cn sensor is trusted for one already\n")
    assert re.search(r"^trusts     cn sensor, since [-\d]+ [:\d]+, valid$", device("show", "one").stdout, re.MULTILINE)

    assert "not trusted any more" in device("distrust", "one", "sensor").stderr
    assert device("distrust", "one", "sensor").returncode == 1
    assert device("trust", "other", "--cn", "sensor").returncode == 0


@pytest.mark.parametrize("options", [(), ("--cn", "a", "--san", "DNS:a")])
def test_trust_takes_exactly_one_name(device: Command, options: tuple[str, ...]) -> None:
    device("add", "one")

    assert device("trust", "one", *options).returncode == 2
