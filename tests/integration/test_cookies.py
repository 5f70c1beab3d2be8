"""Gateways on one host: browsers send the cookies of one to the other, under whatever port."""

import subprocess
import sys
from pathlib import Path

from gateway.config import load
from gateway.serve import data_dir
from tests.support.serving import clean_environment


def test_two_gateways_on_a_host_have_cookies_of_their_own_and_one_keeps_its_names(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    names = [cookie_names(directory) for directory in (first, second, first)]

    assert names[0] == names[2]
    assert set(names[0]).isdisjoint(names[1])


def test_gateways_that_share_a_key_share_their_logins(tmp_path: Path) -> None:
    key = {"GATEWAY_SERVER__SECRET_KEY": "x" * 50}

    assert cookie_names(tmp_path / "first", **key) == cookie_names(tmp_path / "second", **key)


def cookie_names(directory: Path, **environ: str) -> list[str]:
    """The names of the cookies of the gateway on a data directory, which has a key from its first start on."""
    with data_dir.held(load(None, environ=environ, flags=[f"data_dir={directory}"]).config):
        pass
    script = "from project import settings; print(settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment(GATEWAY_DATA_DIR=str(directory), **environ),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()
