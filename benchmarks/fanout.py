"""One message to a thousand WebSocket dashboards: ours beside uvicorn, Channels and channels_redis' publish/subscribe.

    python benchmarks/fanout.py [--members 1000] [--repeats 7] [--seconds 1] [--burst 8] [--connections 2000]

The same consumer on both: it joins one group when it connects and sends on the text of each message of the group. This
process publishes through the layer of the contender (so each message crosses Redis, as from another process), holds
the sockets and counts bytes; a message is published when all members have the last one. With --burst so many are
published at a time. The latency of a frame is the time from before its `group_send` to its last byte.

A third contender tells what there is to gain: "writes alone" takes each message from our layer in one function and
writes the finished frame to every socket. It has no consumers, knows no slow clients and no errors.

Servers run on one core and this process on the other; the contenders take turns within each repeat, medians are
compared. "CPU" is the server's own time per frame, which other load on the machine hardly changes. "load" is this
process's share of its core: near 100 % it is the bottleneck, and the figures too low.

The memory of an idle consumer, in that group, is the growth of the server's resident set by that many more.
"""

import argparse
import asyncio
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.redis import RedisServer  # noqa: E402

OURS, THEIRS = SERVERS = ("ours", "uvicorn + Channels")
BARE = "writes alone"
TEXT = '{"type":"readings","now":1764000000000,"devices":{"7":{"name":"t","readings":[["t",1764000000000,21.5]]}}}'
FRAME_BYTES = len(TEXT) + 2
MESSAGE = {"type": "readings", "text": TEXT}
WARM_UP = 200
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


# The servers


def layer_options(server: str, url: str) -> dict[str, Any]:
    """With names of its own, so that no contender hears of another's messages."""
    # Without the read timeout of redis-py 8, which channels_redis 4.3.0 does not expect.
    return {"hosts": [{"address": url, "socket_timeout": None}], "prefix": server.partition(" ")[0]}


def configure(backend: str, server: str, url: str) -> None:
    from django.conf import settings

    settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": backend, "CONFIG": layer_options(server, url)}})


async def serve_ours(url: str) -> None:
    configure("gateway.layers.pubsub.RedisPubSubChannelLayer", OURS, url)
    from gateway.generic.websocket import AsyncWebsocketConsumer
    from gateway.serve.supervisor import spare_what_stays
    from protocols.http import HttpOptions, HttpServer
    from protocols.server import Listener

    class Dashboard(AsyncWebsocketConsumer):
        groups = ["devices"]

        async def readings(self, message: dict[str, Any]) -> None:
            await self.send(text_data=message["text"])

    listener = Listener(bind="127.0.0.1:0", options=HttpOptions(max_connections=100_000, max_connections_per_address=0))
    server = HttpServer(Dashboard.as_asgi(), [listener], state={})
    await server.start()
    spare_what_stays()  # as `gateway serve` does: p99 27 ms instead of 77
    print(server.addresses[0].rpartition(":")[2], flush=True)
    await asyncio.Event().wait()


def serve_theirs(url: str) -> None:
    configure("channels_redis.pubsub.RedisPubSubChannelLayer", THEIRS, url)
    import socket

    import uvicorn
    from channels.generic.websocket import AsyncWebsocketConsumer

    class Dashboard(AsyncWebsocketConsumer):
        groups = ["devices"]

        async def readings(self, message: dict[str, Any]) -> None:
            await self.send(text_data=message["text"])

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(2048)
        print(listening.getsockname()[1], flush=True)
        config = uvicorn.Config(
            Dashboard.as_asgi(), loop="uvloop", http="httptools", access_log=False, log_level="error", lifespan="off",
            ws_per_message_deflate=False,
        )  # fmt: skip
        uvloop.run(uvicorn.Server(config).serve(sockets=[listening]))


async def serve_bare(url: str) -> None:
    from gateway.layers.pubsub import RedisPubSubChannelLayer
    from protocols.http.websocket_wire import message_frame

    loop = asyncio.get_running_loop()
    layer = RedisPubSubChannelLayer(**layer_options(BARE, url))
    transports: set[asyncio.Transport] = set()
    frames: list[bytes] = []

    class Socket(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            transports.add(self.transport)

        def connection_lost(self, exc: Exception | None) -> None:
            transports.discard(self.transport)

    def flush() -> None:
        data = b"".join(frames)
        frames.clear()
        for transport in transports:
            transport.write(data)

    def deliver(message: Any) -> None:
        if not frames:
            loop.call_soon(flush)
        frames.append(message_frame(message["text"]))

    channel = await layer.new_channel()
    layer.attach(channel, deliver)
    await layer.group_add("devices", channel)
    server = await loop.create_server(Socket, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@contextmanager
def started(server: str, url: str) -> Iterator[tuple[int, psutil.Process]]:
    """A server in a process of its own: its port and its process."""
    command = [sys.executable, __file__, "--serve", server, "--redis", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), psutil.Process(process.pid)
        finally:
            process.kill()


# The dashboards


class Round:
    """Counts the messages that have reached every member."""

    def __init__(self) -> None:
        self.missing = 0
        self.published: list[float] = []
        self.latencies_s: list[float] = []
        self.complete = asyncio.Event()

    def begin(self, frames: int) -> None:
        self.missing = frames
        self.published.clear()
        self.complete.clear()


class Dashboard(asyncio.Protocol):
    """One socket. It compares sizes only: what comes is known."""

    def __init__(self, round_: Round) -> None:
        self.round = round_
        self.bytes = self.frames = 0
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(UPGRADE)

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            assert data.startswith(b"HTTP/1.1 101"), data
            self.ready.set_result(None)
            return
        round_ = self.round
        self.bytes += len(data)
        now = time.perf_counter()
        while self.bytes >= FRAME_BYTES:
            self.bytes -= FRAME_BYTES
            round_.latencies_s.append(now - round_.published[self.frames])
            self.frames += 1
            round_.missing -= 1
        if not round_.missing:
            round_.complete.set()


async def connect(port: int, count: int, round_: Round) -> list[Dashboard]:
    loop = asyncio.get_running_loop()
    dashboards = []
    for _ in range(count):
        _, dashboard = await loop.create_connection(lambda: Dashboard(round_), "127.0.0.1", port)
        await dashboard.ready
        dashboards.append(dashboard)
    return dashboards


def layer_of(server: str, url: str) -> Any:
    if server != THEIRS:
        from gateway.layers.pubsub import RedisPubSubChannelLayer as Ours

        return Ours(**layer_options(server, url))
    from channels_redis.pubsub import RedisPubSubChannelLayer as Theirs

    return Theirs(**layer_options(server, url))


class Run(NamedTuple):
    """What one run gave."""

    rate: float
    """Frames per second."""
    p99_ms: float
    """Of the latencies of the frames."""
    cpu_us: float
    """The server's time per frame."""
    load: float


async def fan_out(server: str, port: int, process: psutil.Process, url: str, options: argparse.Namespace) -> Run:
    members, burst, s = options.members, options.burst, options.seconds
    layer, round_ = layer_of(server, url), Round()
    dashboards = await connect(port, members, round_)
    await asyncio.sleep(0.5)
    frames, began, cpu_s, own_s = 0, 0.0, 0.0, 0.0
    for number in range(10**9):
        if number == 3:  # the first ones warm up
            frames, began, cpu_s, own_s = 0, time.perf_counter(), cpu_of(process), time.process_time()
            round_.latencies_s.clear()
        if began and time.perf_counter() - began > s:
            break
        for dashboard in dashboards:
            dashboard.frames = 0
        round_.begin(members * burst)
        for _ in range(burst):
            round_.published.append(time.perf_counter())
            await layer.group_send("devices", MESSAGE)
        await asyncio.wait_for(round_.complete.wait(), 30)
        frames += members * burst
    elapsed = time.perf_counter() - began
    run = Run(
        rate=frames / elapsed,
        p99_ms=statistics.quantiles(round_.latencies_s, n=100)[98] * 1000,
        cpu_us=(cpu_of(process) - cpu_s) / frames * 1e6,
        load=(time.process_time() - own_s) / elapsed,
    )
    for dashboard in dashboards:
        dashboard.transport.abort()
    await (layer.flush() if server == THEIRS else layer.close())
    await asyncio.sleep(0.3)
    return run


def cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def idle_kb(port: int, process: psutil.Process, connections: int) -> float:
    round_ = Round()
    dashboards = await connect(port, WARM_UP, round_)
    await asyncio.sleep(0.5)
    before = process.memory_info().rss
    dashboards += await connect(port, connections, round_)
    await asyncio.sleep(1)
    grown: int = process.memory_info().rss - before
    for dashboard in dashboards:
        dashboard.transport.abort()
    await asyncio.sleep(0.5)
    return grown / connections / 1024


# The comparison


def compare_memory(url: str, connections: int) -> None:
    kb = {}
    for server in SERVERS:
        with started(server, url) as (port, process):
            kb[server] = uvloop.run(idle_kb(port, process, connections))
    print(f"idle consumer in one group, KB: {', '.join(f'{server} {value:.1f}' for server, value in kb.items())}")


def compare_rates(url: str, options: argparse.Namespace) -> None:
    contenders = (*SERVERS, BARE)
    results: dict[str, list[Run]] = {server: [] for server in contenders}
    with ExitStack() as stack:
        running = {server: stack.enter_context(started(server, url)) for server in contenders}
        if (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(0, {1})
            for _, process in running.values():
                process.cpu_affinity([0])
        for _ in range(options.repeats):
            for server, (port, process) in running.items():
                results[server].append(uvloop.run(fan_out(server, port, process, url, options)))
    print(f"{options.members} members, {options.burst} at a time; medians of {options.repeats}, ranges")
    medians = {server: Run(*map(statistics.median, zip(*runs, strict=True))) for server, runs in results.items()}
    for server, median in medians.items():
        rates = [run.rate for run in results[server]]
        print(
            f"  {server:20} {median.rate:10,.0f} frames/s ({min(rates):,.0f} - {max(rates):,.0f})"
            f"   p99 {median.p99_ms:7.1f} ms   CPU {median.cpu_us:6.1f} us   load {median.load:.0%}"
        )
    theirs = medians[THEIRS]
    for server in (OURS, BARE):
        run = medians[server]
        print(f"  {server} / {THEIRS}: frames/s x{run.rate / theirs.rate:.1f}, CPU x{theirs.cpu_us / run.cpu_us:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--burst", type=int, default=1)
    parser.add_argument("--connections", type=int, default=2000, help="for the memory; 0: leave it out")
    parser.add_argument("--serve", choices=(*SERVERS, BARE), help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == OURS:
        uvloop.run(serve_ours(options.redis))
    elif options.serve == BARE:
        uvloop.run(serve_bare(options.redis))
    elif options.serve == THEIRS:
        serve_theirs(options.redis)
    else:
        gc.disable()  # the pauses that are measured are those of the servers
        with tempfile.TemporaryDirectory() as directory:
            redis = RedisServer(Path(directory))
            redis.start()
            try:
                if options.connections:
                    compare_memory(redis.url, options.connections)
                compare_rates(redis.url, options)
            finally:
                redis.stop()


if __name__ == "__main__":
    main()
