"""Every command there is, without its database and with names that are no friends of a terminal."""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from devices.credentials import issue
from devices.models import Credential, Device, DeviceType, Key, LatestValue
from tests.support.databases import default_database, sqlite_settings
from tests.support.serving import Serving, clean_environment

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b[31mred\x1b]0;owned\x07\n2026 forged line\x9b31m\u202e"


def every_command(directory: Path, name: str, *options: str) -> dict[str, dict[str, Any]]:
    """What each command gave, by its words."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.all_commands", name, *options],
        cwd=directory,
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {" ".join(answer["command"]): answer for answer in answers}


@contextmanager
def locked(file: Path) -> Iterator[str]:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield f"sqlite:///{file}"


@contextmanager
def missing(file: Path) -> Iterator[str]:
    file.unlink()
    yield f"sqlite:///{file}"


@contextmanager
def corrupt(file: Path) -> Iterator[str]:
    file.write_bytes(b"this is no database" * 1_000)
    yield f"sqlite:///{file}"


@contextmanager
def refusing(file: Path) -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    yield f"postgresql://somebody:secret@127.0.0.1:{port}/readings"


@contextmanager
def silent(file: Path) -> Iterator[str]:
    """Connections are taken and nothing is answered."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"postgresql://somebody:secret@127.0.0.1:{listener.getsockname()[1]}/readings?connect_timeout=2"


@pytest.fixture
def file(tmp_path: Path, sqlite_template: Path, django_db_blocker: Any) -> Path:
    """A database with the tables and the device thermo-1."""
    file = tmp_path / "here.sqlite3"
    shutil.copy(sqlite_template, file)
    file.chmod(0o600)
    with django_db_blocker.unblock(), default_database(sqlite_settings(file)):
        Device.objects.create(name="thermo-1", type=DeviceType.objects.create(name="default"))
    return file


@pytest.mark.parametrize("outage", [locked, missing, corrupt, refusing, silent])
def test_without_its_database_every_command_ends_within_seconds_with_one_line(
    outage: Callable[[Path], AbstractContextManager[str]], file: Path, tmp_path: Path
) -> None:
    with outage(file) as url:
        answers = every_command(tmp_path, "thermo-1", "--set", f"database.url={url}")

    assert len(answers) > 10
    needing = {name for name in answers if name.startswith(("device ", "manage", "worker"))}
    for name, answer in answers.items():
        assert answer["code"] in (0, 1), (name, answer)
        assert "Traceback" not in answer["err"], name
        assert "secret" not in answer["err"] + answer["out"], name
        if answer["code"] == 1:
            assert answer["err"].startswith("gateway: "), (name, answer)
            assert answer["err"].count("\n") == 1, (name, answer)
    # Beside a lock what only reads is answered.
    readers = {"device list", "device show", "manage"} if outage is locked else set()
    assert {name for name in needing if answers[name]["code"] == 1} == needing - readers
    assert answers["device add"]["code"] == 1
    assert {"database", str(file)} & set(answers["device add"]["err"].replace(",", " ").split())


@pytest.mark.parametrize("outage", [locked, corrupt, refusing])
def test_a_start_without_its_database_ends_with_one_line(
    outage: Callable[[Path], AbstractContextManager[str]], file: Path, tmp_path: Path
) -> None:
    with outage(file) as url:
        serving = Serving(tmp_path, "--set", f"database.url={url}")
        code = serving.ended()

    assert code == 1
    (line,) = serving.log
    assert line.startswith("gateway: ")
    assert "secret" not in line


def test_no_command_writes_to_a_terminal_what_is_more_than_text(
    file: Path, tmp_path: Path, django_db_blocker: Any
) -> None:
    with django_db_blocker.unblock(), default_database(sqlite_settings(file)):
        kind = DeviceType.objects.create(name=f"type {HOSTILE}")
        device = Device.objects.create(name=HOSTILE, type=kind)
        issue(device)
        Credential.objects.filter(device=device).update(hint="\x1b[2J"[:4])
        device.certificate_names.create(kind="cn", value=HOSTILE)
        for number, value in enumerate((HOSTILE, {HOSTILE: [HOSTILE]}, "\u202e")):
            key = Key.objects.create(name=f"key {number} {HOSTILE}")
            LatestValue.objects.create(
                device=device, key=key, ts=1, received=1, text=json.dumps(value, ensure_ascii=False)
            )

    answers = every_command(tmp_path, HOSTILE, "--set", f"database.url=sqlite:///{file}")

    assert "red" in answers["device list"]["out"]
    assert "key 2" in answers["device show"]["out"]
    for name, answer in answers.items():
        assert answer["code"] in (0, 1), (name, answer)
        for line in (answer["out"] + answer["err"]).splitlines():
            assert line.replace("\t", "").isprintable(), (name, line)
            assert not line.startswith("2026 forged"), name
