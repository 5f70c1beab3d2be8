"""ThingsBoard's own client library for Python, fetched once per session by pip into a temporary directory.

It brings a fork of Paho under Paho's name, so it cannot live where the tests run. What it would otherwise install by
itself when it is used, where the tests run, is there too: mmh3.
"""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("tb-mqtt-client==1.13.14", "tb-paho-mqtt-client==2.1.2", "mmh3==5.3.1")
FETCH_TIMEOUT_S = 180


@pytest.fixture(scope="session")
def thingsboard_sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory to have on PYTHONPATH. Skips the test, with the reason, where pip can fetch nothing."""
    directory = tmp_path_factory.mktemp("thingsboard-sdk")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", directory, *PACKAGES]
    try:
        subprocess.run(install, capture_output=True, timeout=FETCH_TIMEOUT_S, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        pytest.skip(f"ThingsBoard's SDK is not tried: pip cannot fetch it: {said[-1] if said else error}")
    return directory
