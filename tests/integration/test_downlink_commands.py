"""`gateway attribute ...` and `gateway command ...`, as whoever types them sees them."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.serving import GATEWAY, clean_environment

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gateway(tmp_path: Path, sqlite_template: Path) -> Run:
    """Runs a command on data of its own, in which there is the device thermo-1."""
    (tmp_path / "var").mkdir()
    shutil.copy(sqlite_template, tmp_path / "var" / "gateway.sqlite3")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [GATEWAY, *arguments],
            cwd=tmp_path,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run("device", "add", "thermo-1").returncode == 0
    return run


def test_attributes_are_set_printed_and_deleted(gateway: Run) -> None:
    done = gateway("attribute", "set", "thermo-1", "shared", "period_s=30", 'where={"room":"a=b"}')
    assert (done.returncode, done.stdout) == (0, ""), done.stderr

    got = gateway("attribute", "get", "thermo-1", "shared").stdout.splitlines()
    assert [line.split("\t")[:2] for line in got] == [["period_s", "30"], ["where", '{"room":"a=b"}']]

    assert gateway("attribute", "delete", "thermo-1", "shared", "where").returncode == 0
    assert gateway("attribute", "get", "thermo-1", "shared", "where").stdout == ""


def test_a_value_that_is_no_json_sets_nothing(gateway: Run) -> None:
    done = gateway("attribute", "set", "thermo-1", "server", "good=1", "bad=text")

    assert done.returncode == 1
    assert done.stderr.startswith("gateway: bad: no JSON")
    assert gateway("attribute", "get", "thermo-1", "server").stdout == ""


def test_a_command_is_sent_listed_shown_and_cancelled(gateway: Run) -> None:
    sent = gateway("command", "send", "thermo-1", "reboot", '{"delay_s":5}')
    assert sent.returncode == 0, sent.stderr
    uuid = sent.stdout.strip()
    assert UUID(uuid)

    assert gateway("command", "list", "thermo-1").stdout == f'{uuid}\tqueued\treboot\t{{"delay_s":5}}\n'
    assert gateway("command", "cancel", uuid).returncode == 0
    assert "state      cancelled\n" in gateway("command", "show", uuid).stdout

    again = gateway("command", "cancel", uuid)
    assert (again.returncode, again.stderr) == (1, "gateway: the command is cancelled already\n")


def test_no_answer_in_time_is_1_with_the_state(gateway: Run) -> None:
    waited = gateway("command", "send", "thermo-1", "reboot", "--wait", "0.1")

    assert (waited.returncode, waited.stdout) == (1, "queued\n")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("thermo-2", "m"), "there is no device"),
        (("thermo-1", "m" * 256), "a method has 1 to 255 characters"),
        (("thermo-1", "m", "{"), "no JSON"),
    ],
    ids=["device", "method", "params"],
)
def test_a_command_that_cannot_be_sent_is_1_with_the_reason(gateway: Run, arguments: tuple[str, ...], why: str) -> None:
    done = gateway("command", "send", *arguments)

    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr
    assert json.dumps(done.stderr).count("\\n") == 1, "one line"
