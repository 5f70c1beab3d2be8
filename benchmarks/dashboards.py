"""Open dashboards: WebSocket clients in a process of their own, which count the frames they get.

    python benchmarks/dashboards.py [--cookie sessionid_...=...] URL...

For each line on standard input it prints one of JSON about the time since the last one. If readings have the key
"sent", whose value is the `time.monotonic()` at which they were published, the times from there to the frame are in it.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop
import websockets
from load import own_cpu

# ["sent",ts,value] as we tell it, "sent": value as the peer does; not the [ts,value] of a snapshot.
SENT = re.compile(r'"sent"(?:,\d+,|: ?)(\d+\.\d+)')


class Seen(NamedTuple):
    """What the dashboards got."""

    frames: int
    share: float
    """The process's share of a core."""
    latencies_ms: list[float]


class Dashboards:
    """The process, as seen from the benchmark."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def read(self) -> Seen:
        """What has come since the last call."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return Seen(*json.loads(self.process.stdout.readline()))


@contextmanager
def dashboards(urls: Sequence[str], cookie: str = "") -> Iterator[Dashboards]:
    """Opens one dashboard for each URL, all in one process."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__), "--cookie", cookie, *urls],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        opened = Dashboards(process)
        opened.read()
        yield opened
    finally:
        process.terminate()
        process.wait(10)


async def watch(urls: Sequence[str], cookie: str) -> None:
    """What runs in the process."""
    loop = asyncio.get_running_loop()
    frames = 0
    latencies_ms: list[float] = []

    async def count(connection: websockets.ClientConnection) -> None:
        nonlocal frames
        async for text in connection:
            now = time.monotonic()
            frames += 1
            assert isinstance(text, str)
            latencies_ms.extend(round((now - float(sent)) * 1000, 3) for sent in SENT.findall(text))

    headers = {"Cookie": cookie} if cookie else {}
    connections = [
        await websockets.connect(
            url, origin=f"http://{urlsplit(url).netloc}", additional_headers=headers, compression=None, max_size=None
        )
        for url in urls
    ]
    tasks = [loop.create_task(count(connection)) for connection in connections]
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    since, cpu = time.monotonic(), own_cpu()
    while await commands.readline():
        for task in tasks:
            if task.done():
                task.result()
                raise RuntimeError("a dashboard was closed")
        share = (own_cpu() - cpu) / max(time.monotonic() - since, 1e-9)
        print(json.dumps([frames, share, latencies_ms]), flush=True)
        frames, since, cpu = 0, time.monotonic(), own_cpu()
        latencies_ms.clear()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cookie", default="")
    parser.add_argument("urls", nargs="+")
    options = parser.parse_args()
    uvloop.run(watch(options.urls, options.cookie))
