"""QoS 1 to persistent sessions whose clients are away, kept before it is acknowledged, against Mosquitto.

    python benchmarks/mqtt_offline.py [--repeats 5] [--seconds 2] [--connections 10] [--payload 64] [--each 1]

Of ours, a PUBACK means that the message is on the disk (SQLite, synchronous=FULL) or in Redis; of Mosquitto, that it is
in memory, and will be on the disk within half an hour. `--stores` also has "memory", with nothing kept. The server has
one core, the load generator the other; the peers take turns. That what was acknowledged is there afterwards is shown by
tests/integration/test_mqtt_kill_nine.py.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvloop
from load import PACKETS, Run, field, free_port, length, load, publish_packet, running
from peers.mosquitto import mosquitto

ROOT = Path(__file__).resolve().parent.parent
TOPICS = 10
ENOUGH = 100_000_000


# -- the servers ------------------------------------------------------------------------------------------------------


async def serve(port: int, store: str, directory: str) -> None:
    """What runs in the server process."""
    sys.path.insert(0, str(ROOT))
    from gateway.serve.supervisor import spare_what_stays
    from protocols.mqtt.server import BrokerOptions, MqttOptions, MqttServer
    from protocols.server import Listener

    options = MqttOptions(allow_anonymous=True, max_queued_messages=ENOUGH, max_queued_bytes=ENOUGH * 100)
    server = MqttServer(
        application,
        [Listener(bind=f"127.0.0.1:{port}", options=options)],
        state={"data_dir": Path(directory)},
        server_options=BrokerOptions(store=store, max_queued_bytes_per_owner=ENOUGH * 100),
    )
    await server.start()
    spare_what_stays()  # as `gateway serve` does
    await asyncio.Event().wait()


async def application(scope, receive, send):
    while True:
        event = await receive()
        match event["type"]:
            case "mqtt.publish":
                await send({"type": "mqtt.ack", "ack_id": event["ack_id"]})
            case "mqtt.subscribe":
                granted = [subscription["qos"] for subscription in event["subscriptions"]]
                await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_codes": granted})
            case "mqtt.connect":
                await send({"type": "mqtt.accept"})
            case "mqtt.disconnect":
                return


@contextmanager
def ours(store: str, port: int, core: int) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, __file__, "--serve", str(port), "--store", store, "--directory", directory]
        with running(command, port, core) as pid:
            yield pid


# -- the sessions -----------------------------------------------------------------------------------------------------


async def session(port: int, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects with a session that stays."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b"\0\4MQTT\4\0\0\0" + field(b"away-%d" % number)
    writer.write(b"\x10" + length(len(body)) + body)
    assert (await reader.readexactly(4))[3] == 0
    return reader, writer


async def leave_sessions(port: int, each: int) -> None:
    """Makes `each` sessions for every topic, subscribed to it at QoS 1, and leaves."""
    for number in range(TOPICS * each):
        reader, writer = await session(port, number)
        body = b"\0\1" + field(topic(number)) + b"\1"
        writer.write(b"\x82" + length(len(body)) + body)
        assert await reader.readexactly(5) == b"\x90\3\0\1\1"
        writer.write(b"\xe0\0")
        await reader.read()
        writer.close()


def topic(number: int) -> bytes:
    return b"away/%d" % (number % TOPICS)


async def measure(port: int, connections: int, payload: bytes, seconds: float, pid: int, each: int) -> Run:
    await leave_sessions(port, each)
    packets = b"".join(publish_packet(payload, number, topic(number)) for number in range(1, PACKETS + 1))
    return await load(port, connections, packets, seconds, pid)


# -- the comparison ---------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[10])
    parser.add_argument("--payload", type=int, nargs="+", default=[64])
    parser.add_argument("--each", type=int, nargs="+", default=[1, 10], help="sessions that get each message")
    parser.add_argument("--stores", nargs="+", default=["sqlite"], help="sqlite, memory, redis://...")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve, options.store, options.directory))
        return

    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = cores[0], cores[-1]
    os.sched_setaffinity(0, {load_core})
    peers: dict[str, Callable] = {"Mosquitto": partial(mosquitto, persistence=True)}
    peers |= {store: partial(ours, store) for store in options.stores}
    for payload_bytes in options.payload:
        for connections in options.connections:
            for each in options.each:
                results: dict[str, list[Run]] = {name: [] for name in peers}
                for _ in range(options.repeats):
                    for name, start in peers.items():
                        port = free_port()
                        with start(port, server_core) as pid:
                            run = measure(port, connections, b"x" * payload_bytes, options.seconds, pid, each)
                            results[name].append(uvloop.run(run))
                print(f"\n{payload_bytes} bytes, {connections} connections, {each} absent sessions get each message")
                report(results)


def report(results: dict[str, list[Run]]) -> None:
    """Rates of acknowledgements, and what one costs the server in processor time, which holds on a busy machine too."""
    reference = results["Mosquitto"]
    for name, runs in results.items():
        rate, cost = statistics.median(map(rate_of, runs)), statistics.median(map(cost_of, runs))
        print(
            f"  {name:<10} {rate:>9,.0f}/s  ({min(map(rate_of, runs)):,.0f} to {max(map(rate_of, runs)):,.0f})"
            f"  {cost:.1f} us each  server {statistics.median(run.server_share for run in runs):.0%},"
            f" load {statistics.median(run.load_share for run in runs):.0%} of a core"
        )
        if runs is not reference:
            by_rate = rate / statistics.median(map(rate_of, reference))
            by_cost = statistics.median(map(cost_of, reference)) / cost
            print(f"  {name} / Mosquitto = {by_rate:.2f} by rate, {by_cost:.2f} by processor time")


def rate_of(run: Run) -> float:
    return run.rate


def cost_of(run: Run) -> float:
    return run.server_share / run.rate * 1e6


if __name__ == "__main__":
    main()
