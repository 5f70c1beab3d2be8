"""QoS 1 publish and acknowledge, through a Django-style consumer that does not store, against Mosquitto.

    python benchmarks/mqtt_ingest.py [--repeats 5] [--seconds 2] [--connections 10 100] [--payload 64 512]

The server has one core, the load generator the other; the peers take turns within each repeat, and each connection
keeps 25 to 50 publishes on the way. What counts is the acknowledgements that come back. The load generator knows them
by their number of bytes and answers with ready-made packets; its share of a core is printed, to show that it is not
what is measured. Mosquitto runs with `set_tcp_nodelay true`, without which it measures Nagle's algorithm.
"""

import argparse
import asyncio
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import uvloop

ROOT = Path(__file__).resolve().parent.parent
WINDOW = 50
PACKETS = 1_000
"""Ready-made packets per connection, sent over and over: more than are on the way, so no identifier is used twice."""
REFILL = 25
"""Publishes that are sent together. One for one, Mosquitto, which writes each PUBACK alone, would read each PUBLISH
alone too, and wait for the load generator."""
BUSY = 0.9
"""A server with a smaller share of its core was not what limited the rate."""
PUBACK_BYTES = 4
TOPIC = b"v1/devices/me/telemetry"

MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
persistence false
log_type none
"""


# -- the servers ------------------------------------------------------------------------------------------------------


async def serve(port: int, kind: str) -> None:
    """What runs in the server process."""
    sys.path.insert(0, str(ROOT))
    from protocols.mqtt.server import MqttOptions, MqttServer
    from protocols.server import Listener

    application = raw_application if kind == "raw" else consumer_application()
    listener = Listener(bind=f"127.0.0.1:{port}", options=MqttOptions(allow_anonymous=True))
    server = MqttServer(application, [listener], state={})
    await server.start()
    await asyncio.Event().wait()


def consumer_application():
    from django.conf import settings

    settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": "gateway.layers.InMemoryChannelLayer"}})
    from gateway.generic.mqtt import AsyncMqttConsumer, topic

    class Consumer(AsyncMqttConsumer):
        @topic(TOPIC.decode())
        async def telemetry(self, event):
            pass

    return Consumer.as_asgi()


async def raw_application(scope, receive, send):
    while True:
        event = await receive()
        match event["type"]:
            case "mqtt.publish":
                await send({"type": "mqtt.ack", "ack_id": event["ack_id"]})
            case "mqtt.connect":
                await send({"type": "mqtt.accept"})
            case "mqtt.disconnect":
                return


@contextmanager
def running(command: list[str], port: int, core: int) -> Iterator[int]:
    """Starts a server on one core; gives its process id once it listens."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"{command[0]} does not listen") from None
                time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def ours(kind: str) -> Callable[[int, int], AbstractContextManager[int]]:
    return lambda port, core: running([sys.executable, __file__, "--serve", str(port), "--kind", kind], port, core)


@contextmanager
def mosquitto(port: int, core: int) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as directory:
        configuration = Path(directory) / "mosquitto.conf"
        configuration.write_text(MOSQUITTO.format(port=port))
        with running(["mosquitto", "-c", str(configuration)], port, core) as pid:
            yield pid


# -- the load ---------------------------------------------------------------------------------------------------------


def length(size: int) -> bytes:
    return bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))


def publishes(payload: bytes) -> bytes:
    size = len(length(2 + len(TOPIC) + 2 + len(payload)))
    head = b"\x32" + length(2 + len(TOPIC) + 2 + len(payload)) + len(TOPIC).to_bytes(2, "big") + TOPIC
    assert size in (1, 2)
    return b"".join(head + packet_id.to_bytes(2, "big") + payload for packet_id in range(1, PACKETS + 1))


class Publisher(asyncio.Protocol):
    """Keeps WINDOW publishes on the way."""

    acknowledged = 0

    def __init__(self, number: int, packets: bytes, ready: asyncio.Future[None]) -> None:
        self.client_id = f"bench-{number}".encode()
        self.ready = ready
        self.size = len(packets) // PACKETS
        self.packets = memoryview(packets + packets[: WINDOW * self.size])
        self.position = 0
        self.rest = 0
        self.due = 0
        self.connected = False

    def connection_made(self, transport):
        self.transport = transport
        body = b"\0\4MQTT\4\2\0\0" + len(self.client_id).to_bytes(2, "big") + self.client_id
        transport.write(b"\x10" + length(len(body)) + body)

    def data_received(self, data):
        if not self.connected:
            assert data == b"\x20\2\0\0", data
            self.connected = True
            self.ready.set_result(None)
            return
        count, self.rest = divmod(self.rest + len(data), PUBACK_BYTES)
        Publisher.acknowledged += count
        self.due += count
        if self.due >= REFILL:
            self.publish(self.due)
            self.due = 0

    def publish(self, count):
        start = self.position
        self.transport.write(self.packets[start * self.size : (start + count) * self.size])
        self.position = (start + count) % PACKETS


async def load(port: int, connections: int, packets: bytes, seconds: float, pid: int) -> tuple[float, float, float]:
    """(acknowledgements a second, our share of a core, the server's)."""
    loop = asyncio.get_running_loop()
    publishers = []
    for number in range(connections):
        ready = loop.create_future()
        publisher = Publisher(number, packets, ready)
        await loop.create_connection(lambda publisher=publisher: publisher, "127.0.0.1", port)
        await ready
        publishers.append(publisher)
    for publisher in publishers:
        publisher.publish(WINDOW)
    await asyncio.sleep(seconds / 4)
    began, own, theirs, count = time.perf_counter(), own_cpu(), cpu_of(pid), Publisher.acknowledged
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    result = (
        (Publisher.acknowledged - count) / took,
        (own_cpu() - own) / took,
        (cpu_of(pid) - theirs) / took,
    )
    for publisher in publishers:
        publisher.transport.abort()
    return result


def own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--payload", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--raw", action="store_true", help="also measure a bare ASGI application")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="consumer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve, options.kind))
        return

    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = cores[0], cores[-1]
    os.sched_setaffinity(0, {load_core})
    peers = {"Mosquitto": mosquitto, "consumer": ours("consumer")}
    if options.raw:
        peers["bare ASGI"] = ours("raw")
    print(f"server on core {server_core}, load on core {load_core}, window {WINDOW}, QoS 1, {options.repeats} repeats")
    for payload_bytes in options.payload:
        payload = b'{"temperature": 21.5, "note": "%b"}' % (b"x" * (payload_bytes - 33))
        assert len(payload) == payload_bytes, len(payload)
        packets = publishes(payload)
        for connections in options.connections:
            results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in peers}
            for _ in range(options.repeats):
                for name, start in peers.items():
                    port = free_port()
                    with start(port, server_core) as pid:
                        results[name].append(uvloop.run(load(port, connections, packets, options.seconds, pid)))
            report(payload_bytes, connections, results)


def report(payload_bytes: int, connections: int, results: dict[str, list[tuple[float, float, float]]]) -> None:
    """The ratio of the rates is the result. That of the processor time which a message costs the server says the same
    on a quiet machine, and on a busy one still does."""
    print(f"\n{payload_bytes} byte JSON, {connections} connections")
    medians, costs = {}, {}
    for name, runs in results.items():
        rates = [rate for rate, _, _ in runs]
        medians[name] = statistics.median(rates)
        costs[name] = statistics.median(theirs / rate * 1e6 for rate, _, theirs in runs)
        own = statistics.median(own for _, own, _ in runs)
        theirs = statistics.median(theirs for _, _, theirs in runs)
        disturbed = "  DISTURBED: the server did not have its core" if theirs < BUSY else ""
        print(
            f"  {name:<10} {medians[name]:>9,.0f}/s  ({min(rates):,.0f} to {max(rates):,.0f})"
            f"  {costs[name]:.1f} us each  server {theirs:.0%}, load {own:.0%} of a core{disturbed}"
        )
    for name, median in medians.items():
        if name != "Mosquitto":
            by_rate, by_cost = median / medians["Mosquitto"], costs["Mosquitto"] / costs[name]
            print(f"  {name} / Mosquitto = {by_rate:.2f} by rate, {by_cost:.2f} by processor time")


if __name__ == "__main__":
    main()
