"""MQTT.js, for Node and for browsers, fetched once per session by npm into a temporary directory."""

import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGE = "mqtt@5.14.1"
FETCH_TIMEOUT_S = 180


@pytest.fixture(scope="session")
def mqtt_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the package. Skips the test, with the reason, on a machine without npm or without its registry.

    Nothing of it is in this repository: 15 MB, for what a machine that can reach PyPI can mostly fetch.
    """
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("MQTT.js is not tried: npm is not installed (Debian: nodejs, npm)")
    directory = tmp_path_factory.mktemp("mqtt-js")
    install = ["npm", "install", "--prefix", directory, "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    try:
        subprocess.run(install, cwd=directory, capture_output=True, timeout=FETCH_TIMEOUT_S, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        pytest.skip(f"MQTT.js is not tried: npm cannot fetch {PACKAGE}: {said[-1] if said else error}")
    return directory / "node_modules" / "mqtt"
