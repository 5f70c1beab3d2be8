"""The load that the MQTT benchmarks share: publishers that keep a window of QoS 1 publishes on the way.

Acknowledgements are what counts. They are known by their number of bytes, and answered with ready-made packets, so that
one core of load keeps a server's core busy; the load's own share of a core is given with every result, to show that it
is not what is measured.
"""

import asyncio
import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

WINDOW = 50
PACKETS = 1_000
"""Ready-made packets per connection, sent over and over: more than are on the way, so no identifier is used twice."""
REFILL = 25
"""Publishes that are sent together. One for one, Mosquitto, which writes each PUBACK alone, would read each PUBLISH
alone too, and wait for the load generator."""
PUBACK_BYTES = 4
TOPIC = b"v1/devices/me/telemetry"
DRAIN_S = 20.0


# -- packets ----------------------------------------------------------------------------------------------------------


def length(size: int) -> bytes:
    return bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))


def field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def connect_packet(client_id: bytes, username: str | None) -> bytes:
    """A CONNECT of MQTT 3.1.1 with a clean session and no keep alive."""
    flags, credentials = (b"\x82", field(username.encode())) if username else (b"\x02", b"")
    body = b"\0\4MQTT\4" + flags + b"\0\0" + field(client_id) + credentials
    return b"\x10" + length(len(body)) + body


def publish_packet(payload: bytes, packet_id: int, topic: bytes = TOPIC) -> bytes:
    """A PUBLISH of QoS 1."""
    body = field(topic) + packet_id.to_bytes(2, "big") + payload
    return b"\x32" + length(len(body)) + body


def publishes(payload: bytes) -> bytes:
    """PACKETS publishes of the same size."""
    return b"".join(publish_packet(payload, packet_id) for packet_id in range(1, PACKETS + 1))


# -- the load ---------------------------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """Connects; counts what it sends and what is acknowledged."""

    def __init__(self, number: int, username: str | None = None) -> None:
        self.client_id = f"bench-{number}".encode()
        self.username = username
        self.ready = asyncio.get_running_loop().create_future()
        self.sent = 0
        self.acknowledged = 0
        self.rest = 0
        self.connected = False

    def connection_made(self, transport):
        self.transport = transport
        transport.write(connect_packet(self.client_id, self.username))

    def data_received(self, data):
        if not self.connected:
            assert data == b"\x20\2\0\0", data
            self.connected = True
            self.ready.set_result(None)
            return
        count, self.rest = divmod(self.rest + len(data), PUBACK_BYTES)
        self.acknowledged += count
        self.answered(count)

    def answered(self, count):
        """So many more acknowledgements have come."""


class Publisher(Client):
    """Keeps WINDOW publishes on the way, until `stopping` is set."""

    def __init__(self, number: int, packets: bytes, username: str | None = None) -> None:
        super().__init__(number, username)
        self.size = len(packets) // PACKETS
        self.packets = memoryview(packets + packets[: WINDOW * self.size])
        self.position = 0
        self.due = 0
        self.stopping = False

    def answered(self, count):
        self.due += count
        if self.due >= REFILL and not self.stopping:
            self.publish(self.due)
            self.due = 0

    def publish(self, count):
        start = self.position
        self.transport.write(self.packets[start * self.size : (start + count) * self.size])
        self.position = (start + count) % PACKETS
        self.sent += count


class Run(NamedTuple):
    """What one run of `load` gave."""

    rate: float
    """Acknowledgements a second."""
    load_share: float
    """The load's share of a core."""
    server_share: float
    """The server's."""
    acknowledged: int
    """Since the first publish; also how many were sent, since a run ends with the last acknowledgement."""


async def connect(port: int, clients: Sequence[Client]) -> None:
    loop = asyncio.get_running_loop()
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)
        await client.ready


async def load(
    port: int, connections: int, packets: bytes, seconds: float, pid: int, usernames: Sequence[str] = ()
) -> Run:
    """Loads the server `pid`; connections take the user names in turn."""
    names = [usernames[number % len(usernames)] if usernames else None for number in range(connections)]
    publishers = [Publisher(number, packets, name) for number, name in enumerate(names)]
    await connect(port, publishers)
    for publisher in publishers:
        publisher.publish(WINDOW)
    await asyncio.sleep(seconds / 4)
    began, own, theirs, count = time.perf_counter(), own_cpu(), cpu_of(pid), acknowledged(publishers)
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    rate, own, theirs = acknowledged(publishers) - count, own_cpu() - own, cpu_of(pid) - theirs
    await drain(publishers)
    return Run(rate / took, own / took, theirs / took, acknowledged(publishers))


async def drain(publishers: Sequence[Publisher]) -> None:
    """Publishes no more, waits for what is on the way, and disconnects."""
    for publisher in publishers:
        publisher.stopping = True
    deadline = time.monotonic() + DRAIN_S
    while any(publisher.acknowledged < publisher.sent for publisher in publishers):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not everything was acknowledged within {DRAIN_S:g} s")
        await asyncio.sleep(0.01)
    for publisher in publishers:
        publisher.transport.abort()


def acknowledged(clients: Sequence[Client]) -> int:
    return sum(client.acknowledged for client in clients)


# -- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def running(
    command: Sequence[str], port: int, core: int | None = None, *, output: IO[bytes] | None = None, **options
) -> Iterator[int]:
    """Starts a server, on one core if given; gives its process id once it listens."""

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    destination = subprocess.DEVNULL if output is None else output
    process = subprocess.Popen(command, stdout=destination, stderr=output, preexec_fn=pin, **options)
    try:
        deadline = time.monotonic() + 30
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
        process.wait(20)


def own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def cpu_of(pid: int) -> float:
    """Seconds of processor time, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
