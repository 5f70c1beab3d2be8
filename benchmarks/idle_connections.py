"""Resident memory of an idle connection: MQTT and WebSocket, with their consumer instance and its task.

    python benchmarks/idle_connections.py [--connections 5000]

The growth of the server's resident set from some connections (what the first ones load and allocate once is not
counted) to that many more, divided by their number. The consumers are the generic ones, with an in-memory layer.
"""

import argparse
import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import uvloop

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 200
KINDS = ("mqtt", "websocket")
WEBSOCKET = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def serve(kind: str, port: int) -> None:
    """What runs in the server process."""
    sys.path.insert(0, str(ROOT))
    from django.conf import settings

    settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": "gateway.layers.InMemoryChannelLayer"}})
    from protocols.server import Listener

    bind = f"127.0.0.1:{port}"
    if kind == "mqtt":
        from gateway.generic.mqtt import AsyncMqttConsumer
        from protocols.mqtt.server import BrokerOptions, MqttOptions, MqttServer

        options = MqttOptions(allow_anonymous=True, max_connections=100_000, max_connections_per_address=0)
        server = MqttServer(
            AsyncMqttConsumer.as_asgi(),
            [Listener(bind=bind, options=options)],
            state={},
            server_options=BrokerOptions(max_sessions_per_owner=100_000),
        )
    else:
        from gateway.generic.websocket import AsyncWebsocketConsumer
        from protocols.http import HttpOptions, HttpServer

        server = HttpServer(
            AsyncWebsocketConsumer.as_asgi(),
            [Listener(bind=bind, options=HttpOptions(max_connections=100_000, max_connections_per_address=0))],
            state={},
        )
    await server.start()
    await asyncio.Event().wait()


def connect(kind: str, port: int, number: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    if kind == "mqtt":
        client_id = b"idle-%06d" % number
        connection.sendall(
            bytes((0x10, 12 + len(client_id))) + b"\0\4MQTT\4\2\0\0\0" + bytes((len(client_id),)) + client_id
        )
        assert connection.recv(4) == b"\x20\2\0\0"
    else:
        connection.sendall(WEBSOCKET)
        assert connection.recv(4096).startswith(b"HTTP/1.1 101")
    return connection


def resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def measure(kind: str, connections: int) -> float:
    """KB of each connection."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, "--serve", kind, "--port", str(port)])
    sockets: list[socket.socket] = []
    try:
        while True:
            try:
                sockets.append(connect(kind, port, 0))
                break
            except OSError:
                time.sleep(0.05)
        sockets += [connect(kind, port, number) for number in range(1, WARM_UP)]
        time.sleep(1)
        before = resident_kb(process.pid)
        sockets += [connect(kind, port, WARM_UP + number) for number in range(connections)]
        time.sleep(2)
        return (resident_kb(process.pid) - before) / connections
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        for connection in sockets:
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=5_000)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.serve:
        uvloop.run(serve(options.serve, options.port))
        return
    print(f"{options.connections:,} idle connections, Python {sys.version.split()[0]}, pid {os.getpid()}")
    for kind in options.kind or KINDS:
        print(f"  {kind:<10} {measure(kind, options.connections):.1f} KB each")


if __name__ == "__main__":
    main()
