"""`gateway simulate` against the real server."""

import json
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.support.serving import GATEWAY, Serving, clean_environment, serve  # noqa: F401  a fixture
from tests.support.waiting import wait_until

Serve = Callable[..., Serving]


@pytest.fixture
def serving(serve: Serve) -> Serving:  # noqa: F811
    return serve().ready()


def simulate(serving: Serving, *options: str) -> dict[str, Any]:
    """The last line of a simulation."""
    url = f"mqtt://127.0.0.1:{serving.port('mqtt')}"
    done = serving.command("simulate", "--json", "--url", url, *options)
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def count(serving: Serving, statement: str) -> int:
    with closing(sqlite3.connect(serving.directory / "var" / "gateway.sqlite3", timeout=30)) as connection:
        return int(connection.execute(statement).fetchone()[0])


READINGS = (
    "SELECT count(*) FROM gateway_devices_reading r JOIN gateway_devices_key k ON k.id = r.key_id"
    " WHERE k.name = 'temperature'"
)


def test_everything_that_is_acknowledged_is_in_the_database(serving: Serving) -> None:
    counts = simulate(serving, "--devices", "50", "--rate", "200", "--for", "4")

    assert counts["acknowledged"] == counts["sent"] > 0
    assert counts["latency_p50_ms"] <= counts["latency_p99_ms"]
    assert count(serving, READINGS) == counts["acknowledged"]
    assert count(serving, "SELECT count(DISTINCT device_id) FROM gateway_devices_reading") == 50


def test_faults_are_refused_and_the_rest_is_stored(serving: Serving) -> None:
    counts = simulate(serving, "--rate", "100", "--for", "4", "--faults", "payload", "20", "--faults", "topic", "20")

    assert counts["refused"] > 0
    assert counts["acknowledged"] + counts["refused"] == counts["sent"]
    assert count(serving, READINGS) == counts["acknowledged"]


def test_devices_come_back_after_a_storm(serving: Serving) -> None:
    counts = simulate(serving, "--devices", "20", "--for", "8", "--storm-every", "3")

    assert counts["reconnects"] >= 20
    assert counts["acknowledged"] > 0


def test_simulated_devices_answer_commands(serving: Serving) -> None:
    url = f"mqtt://127.0.0.1:{serving.port('mqtt')}"
    running = subprocess.Popen(
        [GATEWAY, "simulate", "--devices", "1", "--json", "--url", url],
        cwd=serving.directory,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: count(serving, READINGS), "a reading")
        answer = serving.command("command", "send", "sim-0001", "restart", "--wait", "30").stdout
    finally:
        running.terminate()
        output, _ = running.communicate(timeout=30)

    assert json.loads(answer) == {"done": True}
    assert json.loads(output.splitlines()[-1])["commands_answered"] == 1
    assert running.returncode == 0


def test_a_cleanup_deletes_the_simulated_devices_and_no_others(serving: Serving) -> None:
    serving.command("device", "add", "thermo-1")
    serving.command("device", "add", "other", "--type", "simulated")
    simulate(serving, "--devices", "3", "--for", "1")

    serving.command("simulate", "--cleanup")

    names = [line.split("\t")[0] for line in serving.command("device", "list").stdout.splitlines()]
    assert names == ["other", "thermo-1"]


def test_without_a_gateway_no_device_is_made(serving: Serving) -> None:
    done = serving.command("simulate", "--url", "mqtt://127.0.0.1:1", check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("gateway: nothing listens at mqtt://127.0.0.1:1: ")
    assert serving.command("device", "list").stdout == ""
