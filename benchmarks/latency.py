"""From a device's publish to the frame in a browser, at a steady rate: median and 99th percentile.

    python benchmarks/latency.py [--rates 200 2000 10000] [--seconds 5] [--repeats 3] [--no-peer]

Open loop: ten devices publish one value a message, at QoS 1, at the times of a schedule, whatever comes back. The value
is the `time.monotonic()` of its publish, so that the ten dashboards, each with the page of one device open, know how
old a frame is. How late the load itself was is printed; it is not in the figures.

Ours is `gateway serve` as in durable_ingest.py, its frames those of /ws/live/<pk>/, sent after the commit. The
dashboard of all devices, /ws/live/, shows the newest value of each key at most four times a second; how old that is
when it comes is printed beside ("overview"). The peer is that of durable_ingest.py, at the rates that it may keep up
with: what is not shown half a second after the end counts as lost.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import uvloop
from dashboards import Dashboards, dashboards
from load import TOPIC, Client, connect, publish_packet
from peers.stack import device_topic, stack
from product import gateway

DEVICES = 10
WARM_UP_S = 1.0
SETTLE_S = 0.5
PEER_MAX_RATE = 2_000


class Result(NamedTuple):
    """What one run gave, in ms."""

    latencies: list[float]
    shown: float
    """The share of what was published."""
    late: float
    """By how much the load was late, 99th percentile."""
    overview: list[float]
    """The latencies of the dashboard of all devices, if there is one."""


class Schedule:
    """Publishes at a rate."""

    def __init__(self, clients: Sequence[Client], topics: Sequence[bytes], rate: float) -> None:
        self.clients = clients
        self.topics = topics
        self.rate = rate
        self.published = 0
        self.late_ms: list[float] = []

    async def run(self, seconds: float) -> None:
        self.published = 0
        self.late_ms.clear()
        began = time.monotonic()
        while True:
            now = time.monotonic()
            while self.published / self.rate <= min(now - began, seconds):
                self.late_ms.append((now - began - self.published / self.rate) * 1000)
                self.publish(self.published)
                self.published += 1
            if now - began >= seconds:
                return
            await asyncio.sleep(began + self.published / self.rate - now)

    def publish(self, number: int) -> None:
        client = number % len(self.clients)
        packet_id = number // len(self.clients) % 60_000 + 1
        payload = b'{"sent": %.6f}' % time.monotonic()
        self.clients[client].transport.write(publish_packet(payload, packet_id, self.topics[client]))


async def publish_at(
    rate: float, seconds: float, port: int, names: Sequence[str | None], topics: Sequence[bytes], pages: Dashboards
) -> tuple[list[float], float, float]:
    """The latencies, the share of what was shown, how late the load was."""
    clients = [Client(number, name) for number, name in enumerate(names)]
    await connect(port, clients)
    schedule = Schedule(clients, topics, rate)
    await schedule.run(WARM_UP_S)
    await asyncio.sleep(SETTLE_S)
    pages.read()
    await schedule.run(seconds)
    await asyncio.sleep(SETTLE_S)
    latencies = pages.read().latencies_ms
    for client in clients:
        client.transport.abort()
    return latencies, len(latencies) / schedule.published, percentile(schedule.late_ms, 99)


def ours(rate: float, seconds: float) -> Result:
    with ExitStack() as started:
        directory = Path(started.enter_context(tempfile.TemporaryDirectory()))
        product = started.enter_context(gateway(directory, DEVICES))
        live = f"ws://127.0.0.1:{product.http_port}/ws/live/"
        pages = started.enter_context(dashboards([f"{live}{pk}/" for pk in product.device_ids], product.cookie))
        overview = started.enter_context(dashboards([live], product.cookie))
        overview.read()
        publishing = publish_at(rate, seconds, product.mqtt_port, product.tokens, [TOPIC] * DEVICES, pages)
        return Result(*uvloop.run(publishing), overview.read().latencies_ms)


def peer(rate: float, seconds: float, storing: str = "create") -> Result:
    with ExitStack() as started:
        directory = Path(started.enter_context(tempfile.TemporaryDirectory()))
        assembled = started.enter_context(stack(directory, storing=storing, groups="device"))
        urls = [f"{assembled.url}{number}/" for number in range(DEVICES)]
        pages = started.enter_context(dashboards(urls))
        topics = [device_topic(number) for number in range(DEVICES)]
        publishing = publish_at(rate, seconds, assembled.mqtt_port, [None] * DEVICES, topics, pages)
        return Result(*uvloop.run(publishing), [])


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rates", type=int, nargs="+", default=[200, 2_000, 10_000])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    for rate in options.rates:
        parties = {"fieldgate": ours}
        if rate <= PEER_MAX_RATE and not options.no_peer:
            parties = {"peer": peer, "tuned peer": partial(peer, storing="transaction"), "fieldgate": ours}
        print(
            f"\n{rate:,} readings/s, {DEVICES} devices, each watched by one dashboard; machine {os.getloadavg()[0]:.1f}"
        )
        results: dict[str, list[Result]] = {name: [] for name in parties}
        for _ in range(options.repeats):
            for name, measure in parties.items():
                results[name].append(measure(rate, options.seconds))
        for name, runs in results.items():
            report(name, runs)


def report(name: str, runs: Sequence[Result]) -> None:
    shown = min(run.shown for run in runs)
    lost = f"  DOES NOT KEEP UP: {shown:.0%} shown" if shown < 0.99 else ""
    print(
        f"  {name:<10} p50 {spread([percentile(run.latencies, 50) for run in runs])}"
        f"  p99 {spread([percentile(run.latencies, 99) for run in runs])}"
        f"  load late by {statistics.median(run.late for run in runs):.1f} ms{lost}"
    )
    if name == "fieldgate":
        print(
            f"  {'overview':<10} p50 {spread([percentile(run.overview, 50) for run in runs])}"
            f"  p99 {spread([percentile(run.overview, 99) for run in runs])}"
        )


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ms ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
