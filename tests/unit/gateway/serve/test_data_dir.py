"""The data directory of a running gateway."""

import os
from pathlib import Path

import pytest

from gateway.config import Config, load
from gateway.exceptions import GatewayError
from gateway.serve import data_dir


def config(directory: Path, environ: dict[str, str] | None = None) -> Config:
    return load(None, environ=environ or {}, flags=[f"data_dir={directory}"]).config


def test_a_new_one_is_for_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "var"

    with data_dir.held(config(directory)):
        assert directory.stat().st_mode & 0o777 == 0o700
        assert (directory / "secret_key").stat().st_mode & 0o777 == 0o600


def test_the_secret_key_is_generated_once(tmp_path: Path) -> None:
    with data_dir.held(config(tmp_path)):
        first = config(tmp_path).secret_key()
    with data_dir.held(config(tmp_path)):
        second = config(tmp_path).secret_key()

    assert first == second
    assert first is not None
    assert len(first) >= 50


def test_a_configured_secret_key_is_not_written_down(tmp_path: Path) -> None:
    with data_dir.held(config(tmp_path, {"GATEWAY_SERVER__SECRET_KEY": "x" * 50})):
        assert not (tmp_path / "secret_key").exists()


def test_two_gateways_cannot_share_one_and_the_second_is_told_which_process_has_it(tmp_path: Path) -> None:
    with (
        data_dir.held(config(tmp_path)),
        pytest.raises(GatewayError, match=rf"is in use by another gateway \(process {os.getpid()}\)"),
        data_dir.held(config(tmp_path)),
    ):
        pass


def test_one_that_cannot_be_made_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(GatewayError, match=r"cannot use the data directory .*file/var: not a directory"),
        data_dir.held(config(tmp_path / "file" / "var")),
    ):
        pass


def test_what_others_could_read_is_taken_from_them_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, mode in (("gateway.sqlite3", 0o644), ("mqtt.sqlite3", 0o600), ("gateway.sqlite3-wal", 0o666)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(0o755)

    with data_dir.held(config(tmp_path)):
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}

    assert set(modes.values()) == {0o600}
    assert sorted(record.args[0].name for record in caplog.records) == ["gateway.sqlite3", "gateway.sqlite3-wal"]  # type: ignore
