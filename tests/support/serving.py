"""`gateway serve` as a process of its own, on free ports, for tests of the whole."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GATEWAY = Path(sys.executable).with_name("gateway")
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30


def clean_environment(**environ: str) -> dict[str, str]:
    """The environment without what would configure a gateway or Django, and with `environ`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "DJANGO_"))}
    return inherited | environ


class Serving:
    """One `gateway serve`; its data are in `directory`/var."""

    def __init__(self, directory: Path, *arguments: str, binds: int = 2, **environ: str) -> None:
        """The first `binds` listeners get free ports."""
        self.directory = directory
        self.environ = environ
        self.log: list[str] = []
        """The lines on standard error so far."""
        self.output = ""
        """What is on standard output; complete when the process has ended."""
        free_ports = [word for number in range(binds) for word in ("--set", f"listeners.{number}.bind=127.0.0.1:0")]
        self.process = subprocess.Popen(
            [GATEWAY, "serve", *free_ports, *arguments],
            cwd=directory,
            env=clean_environment(**environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._readers = [threading.Thread(target=read) for read in (self._read_log, self._read_output)]
        for reader in self._readers:
            reader.start()

    def ready(self) -> "Serving":
        """Waits for the line that says so."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not any("ready: " in line for line in self.log):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError("the gateway did not start:\n" + "".join(self.log))
            time.sleep(0.02)
        return self

    def port(self, scheme: str) -> int:
        """Where it listens for `scheme`: "http", "mqtt"."""
        match = re.search(rf"ready: .*\b{scheme}://127\.0\.0\.1:(\d+)", "".join(self.log))
        assert match is not None
        return int(match[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port('http')}"

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Another gateway command on the same data."""
        return subprocess.run(
            [GATEWAY, *arguments],
            cwd=self.directory,
            env=clean_environment(**self.environ),
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signals it and waits for its end; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Waits for its end; the exit code."""
        code = self.process.wait(STOP_TIMEOUT_S)
        for reader in self._readers:
            reader.join()
        return code

    def kill(self) -> None:
        """Ends it whatever it does."""
        self.process.kill()
        self.ended()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as pipe:
            for line in pipe:
                self.log.append(line)

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            for line in pipe:
                self.output += line


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Starts gateways in the test's directory: serve("--set", "log.level=debug", GATEWAY_...="...")."""
    started: list[Serving] = []

    def start(*arguments: str, **environ: str) -> Serving:
        started.append(Serving(tmp_path, *arguments, **environ))
        return started[-1]

    yield start
    for serving in started:
        serving.kill()
