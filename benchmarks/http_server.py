"""Our HTTP and WebSocket server beside uvicorn (httptools, websockets, uvloop): the same application, the same load.

    python benchmarks/http_server.py [--seconds 3] [--repeats 5]

Closed loop over keep-alive connections without pipelining. The server is pinned to one core, the load to another, and
the load's share of its core is printed: near 100 % means that the load was the limit. Servers take turns within each
repeat; the medians are compared. Fan-out counts frames that arrived, one text object sent to each of 1,000
connections. Memory is the growth of the server's resident set per idle WebSocket connection.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import uvloop

from protocols.asgi import Event, Receive, Scope, Send

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
    from protocols.http import HttpOptions, HttpServer
    from protocols.server import Listener

    server = HttpServer(application, [Listener(bind="127.0.0.1:0", options=HttpOptions())], state={})
    await server.start()
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


def measure(server: str, case: Case, seconds: float) -> tuple[float, float]:
    """One run: the figure, and the load's share of its core."""
    command = [sys.executable, __file__, "--serve", server]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        if len(os.sched_getaffinity(0)) and os.cpu_count() and (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(process.pid, {0})
            os.sched_setaffinity(0, {1})
        time.sleep(0.2)
        busy, began = time.process_time(), time.perf_counter()
        try:
            figure = uvloop.run(case[2](port, process.pid, seconds))
        finally:
            process.kill()
        return figure, (time.process_time() - busy) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--serve", choices=SERVERS)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="a word of the case's name")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    print(f"{'':22}{'fieldgate':>12}{'uvicorn':>12}  ratio  spread      load's core")
    for case in CASES:
        if arguments.only and arguments.only not in case[0]:
            continue
        figures: dict[str, list[float]] = {server: [] for server in SERVERS}
        loads = []
        for _ in range(arguments.repeats):
            for server in SERVERS:
                figure, load = measure(server, case, arguments.seconds)
                figures[server].append(figure)
                loads.append(load)
        ours, theirs = (statistics.median(figures[server]) for server in SERVERS)
        spread = f"{min(figures['fieldgate']):,.0f}-{max(figures['fieldgate']):,.0f}"
        print(
            f"{case[0]:22}{ours:12,.0f}{theirs:12,.0f}  {ours / theirs:5.2f}  {spread}  {max(loads):.0%}  {case[1]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
