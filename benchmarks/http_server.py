"""Our HTTP and WebSocket server beside uvicorn (httptools, websockets, uvloop): the same application, the same load.

    python benchmarks/http_server.py [--seconds 1] [--repeats 7]

Closed loop over keep-alive connections without pipelining. The servers are pinned to one core, the load to another, and
the load's share of its core is printed: near 100 % means that the load was the limit. The servers take turns, a short
slice each, and the medians are compared; the processor time per operation is what other load on the machine disturbs
least. Fan-out counts frames that arrived, one text object sent to each of 1,000 connections. Memory is the growth of
the server's resident set per idle WebSocket connection.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import uvloop

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from protocols.asgi import Event, Receive, Scope, Send  # noqa: E402

SERVERS = ("fieldgate", "uvicorn")
GET = b"GET /hello?name=x HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n"
JSON = b'{"temperature": 21.5, "humidity": 40, "status": "ok"}'
POST = (
    b"POST /api/v1/token/telemetry HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(JSON), JSON)
)
UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

ECHO = b"\x81\xc0\0\0\0\0" + b"x" * 64
"""A masked text frame; the mask of zeros costs the server as much as any other."""
FAN_OUT_BYTES = 100
FAN_OUT_ROUND = b"\x81\x81\0\0\0\0r"

members: set[Send] = set()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers HTTP with a line, echoes on /echo, broadcasts on /fan to all who are there."""
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"hello\n"})
    elif scope["type"] == "websocket":
        await serve_websocket(scope["path"], receive, send)


async def serve_websocket(path: str, receive: Receive, send: Send) -> None:
    event: Event = await receive()
    await send({"type": "websocket.accept"})
    members.add(send)
    while (event := await receive())["type"] != "websocket.disconnect":
        if path == "/echo":
            await send({"type": "websocket.send", "text": event["text"]})
        else:
            text = "x" * FAN_OUT_BYTES
            for member in tuple(members):
                await member({"type": "websocket.send", "text": text})
    members.discard(send)


def serve(server: str) -> None:
    if server == "uvicorn":
        import socket

        import uvicorn

        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", 0))
            listening.listen(2048)
            print(listening.getsockname()[1], flush=True)
            config = uvicorn.Config(
                application, loop="uvloop", http="httptools", access_log=False, log_level="error", lifespan="off",
                ws_per_message_deflate=False,
            )  # fmt: skip
            uvloop.run(uvicorn.Server(config).serve(sockets=[listening]))
    else:
        uvloop.run(serve_ours())


async def serve_ours() -> None:
    from gateway.serve.supervisor import spare_what_stays
    from protocols.http import HttpOptions, HttpServer
    from protocols.server import Listener

    options = HttpOptions(max_connections_per_address=0)  # the load is one address
    server = HttpServer(application, [Listener(bind="127.0.0.1:0", options=options)], state={})
    await server.start()
    spare_what_stays()  # as `gateway serve` does; uvicorn leaves Python's default
    print(server.addresses[0].rpartition(":")[2], flush=True)
    await asyncio.Event().wait()


class Load(asyncio.Protocol):
    """One closed-loop client: sends a request when the answer to the last is complete, which it tells by its size."""

    def __init__(self, opening: bytes, request: bytes, answer_bytes: int) -> None:
        self.opening = opening
        self.request = request
        self.answer_bytes = answer_bytes
        self.received = 0
        self.answers = 0
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.opening or self.request)

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            # the first answer: the handshake, or a response to learn the size of
            self.ready.set_result(len(data))
            self.answer_bytes = self.answer_bytes or len(data)
            return
        self.received += len(data)
        while self.received >= self.answer_bytes:
            self.received -= self.answer_bytes
            self.answers += 1
            if self.request:
                self.transport.write(self.request)


async def connect(port: int, count: int, make: Callable[[], Load]) -> list[Load]:
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(count):
        _, client = await loop.create_connection(make, "127.0.0.1", port)
        await client.ready
        clients.append(client)
    return clients


async def closed_loop(
    port: int, opening: bytes, request: bytes, answer_bytes: int, connections: int, s: float
) -> float:
    clients = await connect(port, connections, lambda: Load(opening, request, answer_bytes))
    for client in clients:
        client.transport.write(request)
    await asyncio.sleep(0.3)
    began, before = time.perf_counter(), sum(client.answers for client in clients)
    await asyncio.sleep(s)
    rate = (sum(client.answers for client in clients) - before) / (time.perf_counter() - began)
    for client in clients:
        client.transport.abort()
    await asyncio.sleep(0.2)
    return rate


async def fan_out(port: int, members_count: int, s: float) -> float:
    clients = await connect(port, members_count, lambda: Load(UPGRADE % b"/fan", b"", FAN_OUT_BYTES + 2))
    rounds = 0
    began = time.perf_counter()
    while time.perf_counter() - began < s:
        clients[0].transport.write(FAN_OUT_ROUND)
        rounds += 1
        while clients[-1].answers < rounds or min(client.answers for client in clients) < rounds:
            await asyncio.sleep(0.0005)
    rate = sum(client.answers for client in clients) / (time.perf_counter() - began)
    for client in clients:
        client.transport.abort()
    await asyncio.sleep(0.2)
    return rate


async def idle_kb(port: int, pid: int, connections: int) -> float:
    process = psutil.Process(pid)
    before = process.memory_info().rss
    clients = await connect(port, connections, lambda: Load(UPGRADE % b"/echo", b"", 1))
    await asyncio.sleep(0.5)
    grown = process.memory_info().rss - before
    for client in clients:
        client.transport.abort()
    await asyncio.sleep(0.2)
    return grown / connections / 1024


Case = tuple[str, str, Callable[[int, int, float], Any]]
CASES: list[Case] = [
    ("idle WebSocket", "KB", lambda port, pid, s: idle_kb(port, pid, 2000)),
    ("GET", "requests/s", lambda port, pid, s: closed_loop(port, b"", GET, 0, 64, s)),
    ("POST 53 B JSON", "requests/s", lambda port, pid, s: closed_loop(port, b"", POST, 0, 64, s)),
    ("WebSocket echo 64 B", "echoes/s", lambda port, pid, s: closed_loop(port, UPGRADE % b"/echo", ECHO, 66, 64, s)),
    ("fan-out to 1,000", "frames/s", lambda port, pid, s: fan_out(port, 1000, s)),
]


@contextmanager
def started(server: str) -> Iterator[tuple[int, psutil.Process]]:
    """A server in a process of its own: its port and its process."""
    command = [sys.executable, __file__, "--serve", server]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), psutil.Process(process.pid)
        finally:
            process.kill()


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class Figures:
    """What one server did in one case, a value per slice."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.cpu_us: list[float] = []
        self.load: list[float] = []

    def take(self, case: Case, port: int, process: psutil.Process, seconds: float) -> None:
        before, busy, began = cpu_s(process), time.process_time(), time.perf_counter()
        value = uvloop.run(case[2](port, process.pid, seconds))
        wall = time.perf_counter() - began
        self.values.append(value)
        self.load.append((time.process_time() - busy) / wall)
        # the slice has a warm-up, too; all of it is at the same rate
        self.cpu_us.append((cpu_s(process) - before) / (value * seconds) * 1e6)


def compare(case: Case, seconds: float, repeats: int, pin: bool) -> None:
    figures = {server: Figures() for server in SERVERS}
    with ExitStack() as stack:
        running = {server: stack.enter_context(started(server)) for server in SERVERS}
        if pin and (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(0, {1})
            for _, process in running.values():
                process.cpu_affinity([0])
        time.sleep(0.3)
        for _ in range(1 if case[1] == "KB" else repeats):
            for server, (port, process) in running.items():
                figures[server].take(case, port, process, seconds)
    ours, theirs = (figures[server] for server in SERVERS)
    mine, other = statistics.median(ours.values), statistics.median(theirs.values)
    line = f"{case[0]:22}{mine:12,.0f}{other:12,.0f} {mine / other:6.2f}"
    if case[1] != "KB":
        line += f"   {statistics.median(ours.cpu_us):6.1f} {statistics.median(theirs.cpu_us):8.1f}"
        line += f"   {max(ours.load + theirs.load):4.0%}   {min(ours.values):,.0f}-{max(ours.values):,.0f}"
    print(f"{line}  {case[1]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--serve", choices=SERVERS)
    parser.add_argument("--seconds", type=float, default=1, help="length of a slice")
    parser.add_argument("--repeats", type=int, default=7, help="slices per server and case")
    parser.add_argument("--no-pin", action="store_true", help="leave the placing on cores to the system")
    parser.add_argument("--only", help="a word of the case's name")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    print(f"{'':22}{'fieldgate':>12}{'uvicorn':>12}  ratio   CPU µs, theirs   load   spread of ours")
    for case in CASES:
        if not arguments.only or arguments.only in case[0]:
            compare(case, arguments.seconds, arguments.repeats, not arguments.no_pin)


if __name__ == "__main__":
    main()
