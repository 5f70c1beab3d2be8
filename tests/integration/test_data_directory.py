"""The lock of a data directory ends with its process, however that ends."""

import subprocess
import sys
from pathlib import Path

from gateway.config import load
from gateway.serve import data_dir


def test_a_data_directory_is_free_again_when_its_process_is_killed(tmp_path: Path) -> None:
    holder = (
        "import sys, os, signal; from gateway.serve import data_dir; from gateway.config import load\n"
        "with data_dir.held(load(None, environ={}, flags=[f'data_dir={sys.argv[1]}']).config):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", holder, str(tmp_path)], check=False)
    assert (tmp_path / "lock").exists()

    with data_dir.held(load(None, environ={}, flags=[f"data_dir={tmp_path}"]).config):
        pass
