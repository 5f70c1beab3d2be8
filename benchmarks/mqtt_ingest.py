"""QoS 1 publish and acknowledge, through a Django-style consumer that does not store, against Mosquitto.

    python benchmarks/mqtt_ingest.py [--repeats 5] [--seconds 2] [--connections 10 100] [--payload 64 512]

The server has one core, the load generator the other; the peers take turns within each repeat, and each connection
keeps 25 to 50 publishes on the way (load.py). What counts is the acknowledgements that come back. Mosquitto runs with
`set_tcp_nodelay true`, without which it measures Nagle's algorithm.
"""

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import uvloop
from load import TOPIC, WINDOW, Run, free_port, load, publishes, running
from peers.mosquitto import mosquitto

ROOT = Path(__file__).resolve().parent.parent
BUSY = 0.9
"""A server with a smaller share of its core was not what limited the rate."""


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


def ours(kind: str) -> Callable[[int, int], AbstractContextManager[int]]:
    return lambda port, core: running([sys.executable, __file__, "--serve", str(port), "--kind", kind], port, core)


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
            results: dict[str, list[Run]] = {name: [] for name in peers}
            for _ in range(options.repeats):
                for name, start in peers.items():
                    port = free_port()
                    with start(port, server_core) as pid:
                        results[name].append(uvloop.run(load(port, connections, packets, options.seconds, pid)))
            report(payload_bytes, connections, results)


def report(payload_bytes: int, connections: int, results: dict[str, list[Run]]) -> None:
    """The ratio of the rates is the result. That of the processor time which a message costs the server says the same
    on a quiet machine, and on a busy one still does."""
    print(f"\n{payload_bytes} byte JSON, {connections} connections")
    medians, costs = {}, {}
    for name, runs in results.items():
        rates = [run.rate for run in runs]
        medians[name] = statistics.median(rates)
        costs[name] = statistics.median(run.server_share / run.rate * 1e6 for run in runs)
        own = statistics.median(run.load_share for run in runs)
        theirs = statistics.median(run.server_share for run in runs)
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
