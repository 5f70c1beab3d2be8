"""A real Mosquitto, which a test may stop, kill and start again: its port, its data and its password stay."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.ports import free_port

START_TIMEOUT_S = 30.0


class Mosquitto:
    """One broker process, without credentials unless `options` say otherwise. `options` are lines of its file."""

    def __init__(self, directory: Path, *options: str, anonymous: bool = True, max_inflight: int = 0) -> None:
        program = shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
        if program is None:
            pytest.fail("mosquitto is not installed: apt-get install mosquitto")
        self._program = program
        self.port = free_port()
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / "mosquitto.conf"
        lines = [
            "user root",
            f"listener {self.port} 127.0.0.1",
            *options,
            f"allow_anonymous {str(anonymous).lower()}",
            "persistence true",
            f"persistence_location {directory}/",
            "autosave_interval 1",
            "autosave_on_changes true",
            "max_queued_messages 0",
            f"max_inflight_messages {max_inflight}",  # a bridge of 5.0 announces 0 as it is, which none may
        ]
        self._file.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def start(self) -> "Mosquitto":
        """Starts it and returns when it listens."""
        with (self.directory / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, "-v", "-c", self._file], stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(self.address, timeout=1).close()
            except OSError:
                assert self._process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)
            else:
                return self

    def stop(self) -> None:
        """Ends it as an administrator does: what it holds is saved."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_TIMEOUT_S)
            self._process = None

    def log(self) -> str:
        """What it has written."""
        return (self.directory / "mosquitto.log").read_text(errors="replace")
