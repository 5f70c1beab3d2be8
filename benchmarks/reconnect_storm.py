"""A fleet that comes back at once to a server that has just been started: CONNECT to CONNACK for all, beside Mosquitto.

    python benchmarks/reconnect_storm.py [--devices 3000] [--repeats 5] [--database sqlite postgresql]

Ours is `gateway serve` as a user runs it, with a token for each device: a login asks the database, whose answers no
cache has yet, as the process is a new one in each run. The peer is Mosquitto without passwords, which asks nobody. Both
are on one core, the devices on the other; the peers take turns within each repeat.

While the devices come, one that was connected before publishes at QoS 1, one message after the other. What it waits for
each acknowledgement is printed, median and longest: how much of the storm others notice.

PostgreSQL is one of its own, started for the run as the tests do (tests/support/postgres.py), without fsync; it takes
what it needs from both cores.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import uvloop
from load import Client, connect, cpu_of, free_port, own_cpu, publish_packet, running
from peers.mosquitto import mosquitto
from product import ROOT, add_devices, configured

PAYLOAD = b'{"temperature": 21.5}'
STORM_TIMEOUT_S = 300.0
SETTLE_S = 1.0
DISCONNECT = b"\xe0\0"

Server = Callable[[int], AbstractContextManager[tuple[int, int]]]
"""From the core that it is to run on to its process and its port for MQTT."""


class Storm(NamedTuple):
    """What one run gave."""

    seconds: float
    """From the first CONNECT to the last CONNACK."""
    cpu_s: float
    """Processor time of the server in the meantime, all threads together."""
    load_share: float
    """Of a core."""
    waits_ms: list[float]
    """How long the other device waited for each acknowledgement."""


class Bystander(Client):
    """Publishes one message after the other, and notes how long each acknowledgement takes."""

    def __init__(self, username: str | None) -> None:
        super().__init__(0, username)
        self.waits_ms: list[float] = []
        self.began = 0.0
        self.packet_id = 0

    def publish(self) -> None:
        self.packet_id = self.packet_id % 65_535 + 1
        self.began = time.perf_counter()
        self.transport.write(publish_packet(PAYLOAD, self.packet_id))

    def answered(self, count: int) -> None:
        if count:
            self.waits_ms.append((time.perf_counter() - self.began) * 1000)
            self.publish()


async def storm(pid: int, port: int, devices: int, tokens: Sequence[str]) -> Storm:
    """Connects the bystander, then everybody else at once."""
    bystander = Bystander(tokens[0] if tokens else None)
    await connect(port, [bystander])
    bystander.publish()
    await asyncio.sleep(SETTLE_S)
    fleet = [Client(number, tokens[number] if tokens else None) for number in range(1, devices + 1)]
    bystander.waits_ms.clear()
    loop = asyncio.get_running_loop()
    began, own, theirs = time.perf_counter(), own_cpu(), cpu_of(pid)
    async with asyncio.timeout(STORM_TIMEOUT_S):
        opened = (loop.create_connection(lambda client=client: client, "127.0.0.1", port) for client in fleet)
        await asyncio.gather(*opened)
        await asyncio.gather(*(client.ready for client in fleet))
    took = time.perf_counter() - began
    result = Storm(took, cpu_of(pid) - theirs, (own_cpu() - own) / took, list(bystander.waits_ms))
    for client in (bystander, *fleet):
        client.transport.write(DISCONNECT)
        client.transport.close()
    await asyncio.sleep(0.1)
    return result


@contextmanager
def ours(command: list[str], port: int, core: int) -> Iterator[tuple[int, int]]:
    with running([*command, "serve"], port, core, cwd=ROOT) as pid:
        yield pid, port


@contextmanager
def peer(core: int) -> Iterator[tuple[int, int]]:
    port = free_port()
    with mosquitto(port, core) as pid:
        yield pid, port


def prepare(directory: Path, devices: int, url: str | None) -> tuple[Server, list[str]]:
    """A gateway with devices, not running; its tokens."""
    directory.mkdir()
    command, _, port = configured(directory, url)
    with running([*command, "serve"], port, cwd=ROOT):
        _, tokens = add_devices(command, devices)
    return lambda core: ours(command, port, core), tokens


@contextmanager
def postgresql(directory: Path) -> Iterator[str]:
    """Runs a server; gives the URL of an empty database."""
    sys.path.insert(0, str(ROOT))
    from tests.support.postgres import PostgresServer

    directory.mkdir()
    server = PostgresServer(directory)
    server.create()
    server.start()
    try:
        yield server.url(server.new_database())
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=3_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--database", nargs="+", choices=("sqlite", "postgresql"), default=("sqlite", "postgresql"))
    options = parser.parse_args()

    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = cores[0], cores[-1]
    with ExitStack() as running_servers:
        # Below a directory that everybody may enter: PostgreSQL refuses to run as root, and as its user gets here.
        directory = Path(running_servers.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)
        fleets: dict[str, tuple[Server, list[str]]] = {"Mosquitto": (peer, [])}
        for database in options.database:
            url = None
            if database == "postgresql":
                url = running_servers.enter_context(postgresql(directory / "cluster"))
            fleets[database] = prepare(directory / database, options.devices + 1, url)
        os.sched_setaffinity(0, {load_core})
        results: dict[str, list[Storm]] = {name: [] for name in fleets}
        for _ in range(options.repeats):
            for name, (server, tokens) in fleets.items():
                with server(server_core) as (pid, port):
                    results[name].append(uvloop.run(storm(pid, port, options.devices, tokens)))
    report(options.devices, results)


def report(devices: int, results: dict[str, list[Storm]]) -> None:
    """The ratio of the times is the result; that of the processor time says the same on a busy machine."""
    print(f"{devices:,} devices at once, cold; load average {os.getloadavg()[0]:.1f}")
    seconds, costs = {}, {}
    for name, storms in results.items():
        times = [one.seconds for one in storms]
        seconds[name] = statistics.median(times)
        costs[name] = statistics.median(one.cpu_s / devices * 1e6 for one in storms)
        waits = [wait for one in storms for wait in one.waits_ms]
        print(
            f"  {name:<10} {seconds[name]:6.2f} s  ({min(times):.2f} to {max(times):.2f})"
            f"  {costs[name]:,.0f} us a login  load {statistics.median(one.load_share for one in storms):.0%} of a core"
            f"  another's acknowledgement: median {statistics.median(waits):.1f} ms, longest {max(waits):.0f} ms"
        )
    for name in results:
        if name != "Mosquitto":
            by_time, by_cost = seconds[name] / seconds["Mosquitto"], costs[name] / costs["Mosquitto"]
            print(f"  {name} / Mosquitto = {by_time:.1f} by time, {by_cost:.1f} by processor time")


if __name__ == "__main__":
    main()
