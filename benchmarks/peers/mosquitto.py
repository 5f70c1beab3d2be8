"""Mosquitto as a peer: without Nagle's algorithm, and never in want of a queue."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from load import running

CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
persistence {persistence}
persistence_location {directory}/
log_type none
"""


@contextmanager
def mosquitto(port: int, core: int | None = None, *, persistence: bool = False) -> Iterator[int]:
    """Runs a broker, on one core if given; gives its process id. With persistence it writes its database at the end
    and every half an hour, which is its default; what came in between, a crash loses."""
    with tempfile.TemporaryDirectory() as directory:
        configuration = Path(directory) / "mosquitto.conf"
        settings = {"port": port, "persistence": str(persistence).lower(), "directory": directory}
        configuration.write_text(CONFIGURATION.format(**settings), encoding="utf-8")
        with running(["mosquitto", "-c", str(configuration)], port, core) as pid:
            yield pid
