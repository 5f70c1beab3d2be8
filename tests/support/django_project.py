"""A Django project in a directory of its own, on the framework alone, and its `manage.py runserver`."""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.support.serving import clean_environment

START_TIMEOUT_S = 60


class RunServer:
    """`manage.py runserver` as a process; a block that it is used in ends it."""

    def __init__(
        self, directory: Path, *arguments: str, python: str = sys.executable, environ: dict[str, str] | None = None
    ) -> None:
        self.lines: list[str] = []
        """What it has written so far, on standard output and error."""
        self.process = subprocess.Popen(
            [python, "-u", "manage.py", "runserver", *arguments],
            cwd=directory,
            env=clean_environment(**(environ or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> "RunServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            self.lines.extend(self.process.stdout)

    def wait_for(self, pattern: str, *, after: int = 0) -> str:
        """The first group of `pattern` in the first line, from number `after` on, that it matches."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            for line in self.lines[after:]:
                match = re.search(pattern, line)
                if match is not None:
                    return match[1]
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f"no line with {pattern!r} in:\n" + "".join(self.lines))

    def port(self, scheme: str = "http", *, after: int = 0) -> int:
        """Where it listens."""
        return int(self.wait_for(rf"{scheme}://[^/]*:(\d+)", after=after))


def write_files(directory: Path, files: dict[str, str]) -> None:
    """Writes each file, with the directories that it needs."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run(directory: Path, *command: str, environ: dict[str, str] | None = None, timeout_s: float = 120) -> str:
    """What the command writes; AssertionError with all of it if it fails."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=clean_environment(**(environ or {})),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
