"""The command line, as far as it starts nothing."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

GATEWAY = Path(sys.executable).with_name("gateway")


def gateway(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "DJANGO_"))}
    return subprocess.run(
        [GATEWAY, *arguments], cwd=cwd, env=inherited | environ, capture_output=True, text=True, timeout=60, check=False
    )


def add_later_migration(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        row = ("gateway_devices", "9999_later", "2030-01-01")
        connection.execute("INSERT INTO django_migrations (app, name, applied) VALUES (?, ?, ?)", row)


def test_check_of_a_good_configuration_is_0_and_says_so(tmp_path: Path) -> None:
    done = gateway("check", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "defaults: 0 error(s), 0 warning(s)\n")
    assert list(tmp_path.iterdir()) == []


def test_check_of_a_risky_one_is_0_with_warnings(tmp_path: Path) -> None:
    done = gateway("check", "--set", "listeners.1.bind=0.0.0.0:1883", cwd=tmp_path)

    assert done.returncode == 0
    assert "warning (security): listeners.1.bind: mqtt at 0.0.0.0:1883 is not encrypted" in done.stdout


def test_check_of_one_that_cannot_start_is_1(tmp_path: Path) -> None:
    done = gateway("check", "--set", "listeners.0.tls.certfile=absent.pem", cwd=tmp_path)

    assert done.returncode == 1
    assert "error (operation): listeners.0.tls: the certificate cannot be used" in done.stdout


@pytest.mark.parametrize("command", [["check"], ["serve"], ["config", "print"], ["manage", "check"]])
def test_a_wrong_configuration_is_2_for_every_command_with_every_fault_on_standard_error(
    command: list[str], tmp_path: Path
) -> None:
    moved = '[[listeners]]\nprotocol = "mqtt"\nbind = "127.0.0.1:0"\nmax_sessions = 1\n'
    (tmp_path / "gateway.toml").write_text(f"[[listners]]\n[log]\nlevel = 1\n{moved}")

    done = gateway("--config", "gateway.toml", *command, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "gateway.toml:7: listeners.0.max_sessions is a key of the table [mqtt]",
        'gateway.toml:1: unknown key "listners"; did you mean "listeners"?',
        'gateway.toml:3: log.level: expected one of "debug", "info", "warning", "error", got the number 1',
    ]


@pytest.mark.parametrize("arguments", [["nonsense"], ["serve", "--nonsense"], ["worker"], ["check", "more"]])
def test_wrong_usage_of_a_command_is_2(arguments: list[str], tmp_path: Path) -> None:
    done = gateway(*arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stdout == ""
    assert "Usage: gateway" in done.stderr


def test_configuration_options_mean_the_same_before_the_command_and_after_it(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('data_dir = "other"\n')

    before = gateway("--config", "other.toml", "--set", "log.level=debug", "config", "print", cwd=tmp_path)
    after = gateway("config", "print", "--config", "other.toml", "--set", "log.level=debug", cwd=tmp_path)

    assert before.returncode == 0
    assert before.stdout == after.stdout
    assert 'data_dir = "other"' in before.stdout
    assert 'level = "debug"' in before.stdout


@pytest.mark.parametrize("command", [["device", "list"], ["mqtt", "clients"]])
def test_commands_of_plug_ins_take_them_too(command: list[str], tmp_path: Path) -> None:
    done = gateway(*command, "--config", "absent.toml", cwd=tmp_path)

    assert done.returncode == 2
    assert "absent.toml" in done.stderr
    assert "No such option" not in done.stderr


def test_printing_shows_no_secret(tmp_path: Path) -> None:
    done = gateway(
        "config", "print", "--effective", cwd=tmp_path, GATEWAY_DATABASE__URL="postgresql://u:hunter2@127.0.0.1/x"
    )

    assert 'url = "postgresql://u:***@127.0.0.1/x"' in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_help_lists_the_commands_of_plug_ins_beside_our_own(tmp_path: Path) -> None:
    done = gateway("--help", cwd=tmp_path)

    assert done.returncode == 0
    for command in ("serve", "check", "config", "worker", "manage", "device"):
        assert f"\n  {command} " in done.stdout


def test_management_commands_get_their_own_options(tmp_path: Path) -> None:
    done = gateway("manage", "migrate", "--help", cwd=tmp_path)

    assert done.returncode == 0
    assert "usage: gateway manage migrate" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_needs_the_database_says_when_there_is_none_yet(tmp_path: Path) -> None:
    done = gateway("worker", "thumbnails", cwd=tmp_path)

    assert done.returncode == 1
    assert done.stderr == (
        f"gateway: there is no database at var/gateway.sqlite3; `{GATEWAY} serve` creates it on its first start\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_worker_without_a_layer_that_others_can_send_to_is_refused(tmp_path: Path, sqlite_template: Path) -> None:
    (tmp_path / "var").mkdir()
    shutil.copy(sqlite_template, tmp_path / "var" / "gateway.sqlite3")
    done = gateway("worker", "thumbnails", cwd=tmp_path)

    assert done.returncode == 1
    assert done.stderr.startswith("gateway: A worker needs a layer that several processes share")


def test_a_command_does_not_use_a_database_that_a_later_version_has_migrated(
    tmp_path: Path, sqlite_template: Path
) -> None:
    (tmp_path / "var").mkdir(0o700)
    file = tmp_path / "var" / "gateway.sqlite3"
    shutil.copy(sqlite_template, file)
    add_later_migration(file)
    done = gateway("device", "add", "thermo-1", cwd=tmp_path)

    assert done.returncode == 1
    assert "gateway_devices.9999_later" in done.stderr
    assert done.stderr.count("\n") == 1


def test_check_refuses_a_database_that_a_later_version_has_migrated(tmp_path: Path, sqlite_template: Path) -> None:
    (tmp_path / "var").mkdir(0o700)
    file = tmp_path / "var" / "gateway.sqlite3"
    shutil.copy(sqlite_template, file)
    file.chmod(0o600)
    assert gateway("check", cwd=tmp_path).returncode == 0
    add_later_migration(file)
    done = gateway("check", cwd=tmp_path)

    assert done.returncode == 1
    assert "gateway_devices.9999_later" in done.stdout


def test_a_hint_is_for_the_same_gateway(tmp_path: Path, sqlite_template: Path) -> None:
    shutil.copy(sqlite_template, tmp_path / "other.sqlite3")
    (tmp_path / "other.toml").write_text('[database]\nurl = "sqlite:///other.sqlite3"\n')
    done = gateway("--config", "other.toml", "device", "show", "nobody", cwd=tmp_path)

    assert f"`{GATEWAY} --config other.toml device list` lists them" in done.stderr
