"""From a device's publish to the disk and to open dashboards: the whole product, beside what one would assemble today.

    python benchmarks/durable_ingest.py [--repeats 3] [--seconds 4] [--connections 10 100] [--no-peer]

Ours is `gateway serve` as a user starts it: devices log in by token, publish three values a message at QoS 1 with 25 to
50 messages on the way each, and are acknowledged when their readings are committed to SQLite with synchronous=FULL;
five dashboards are open, logged in, on /ws/live/. At the end of each run the rows of the database are counted: they are
to be three for each message that was acknowledged.

The peer is in peers/, in two forms: with `acreate` for each value, as one would write it first, and tuned, with one
transaction for each message. It acknowledges before it stores, so its rate is not that of acknowledgements: it gets a
backlog of messages at once, and the time until the last of them is stored and sent to five dashboards counts.

Processes run on any core. The parties take turns within each repeat; medians are compared.
"""

import argparse
import os
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import uvloop
from dashboards import dashboards
from load import load, publishes
from peers.stack import stack

# from peers.stack import stack
from product import gateway

DASHBOARDS = 5
PAYLOAD = b'{"temperature": 21.5, "humidity": 60, "battery": 3.3}'
VALUES = 3
PEER_BACKLOG = 3_000


class Result(NamedTuple):
    """What one run gave."""

    rate: float
    """Messages a second."""
    server_share: float
    """Of a core; more than 1 with more than one thread."""
    load_share: float
    dashboard_share: float
    frames: float
    """To all dashboards, a second."""
    note: str


def ours(connections: int, seconds: float) -> Result:
    with tempfile.TemporaryDirectory() as directory, gateway(Path(directory), devices=connections) as product:
        urls = [f"ws://127.0.0.1:{product.http_port}/ws/live/"] * DASHBOARDS
        with dashboards(urls, product.cookie) as opened:
            run = uvloop.run(
                load(product.mqtt_port, connections, publishes(PAYLOAD), seconds, product.pid, product.tokens)
            )
            seen = opened.read()
        rows, due = product.rows(), run.acknowledged * VALUES
        if rows != due:
            raise RuntimeError(f"{run.acknowledged} messages acknowledged, which are {due} rows; stored are {rows}")
        a_commit = run.acknowledged / product.metric("gateway_commits_total")
        note = f"{rows:,} rows stored, all that were acknowledged; {a_commit:,.0f} messages a commit"
        return Result(run.rate, run.server_share, run.load_share, seen.share, seen.frames / (seconds * 1.25), note)


def peer(connections: int, seconds: float, storing: str = "create") -> Result:
    with tempfile.TemporaryDirectory() as directory, stack(Path(directory), storing=storing) as assembled:
        with dashboards([assembled.url] * DASHBOARDS) as opened:
            run = uvloop.run(assembled.drain(connections, PEER_BACKLOG, PAYLOAD, VALUES))
            seen = opened.read()
        rows = assembled.rows()
        if rows != PEER_BACKLOG * VALUES:
            raise RuntimeError(f"{PEER_BACKLOG} messages published; stored are {rows} rows")
        note = f"{rows:,} rows stored"
        return Result(
            PEER_BACKLOG / run.seconds, run.share, run.load_share, seen.share, seen.frames / run.seconds, note
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    parties = {"fieldgate": ours}
    if not options.no_peer:
        parties = {"peer": peer, "tuned peer": partial(peer, storing="transaction"), "fieldgate": ours}
    for connections in options.connections:
        print(f"\n{connections} connections, {DASHBOARDS} dashboards, {VALUES} values a message")
        results: dict[str, list[Result]] = {name: [] for name in parties}
        for _ in range(options.repeats):
            for name, measure in parties.items():
                result = measure(connections, options.seconds)
                results[name].append(result)
                report(name, result)
        medians = {name: statistics.median(result.rate for result in of_one) for name, of_one in results.items()}
        for name, median in medians.items():
            ratio = f", fieldgate / {name} = {medians['fieldgate'] / median:.0f}" if name != "fieldgate" else ""
            print(f"  median {name}: {median:,.0f} messages/s{ratio}")


def report(name: str, result: Result) -> None:
    cost_us = result.server_share / result.rate * 1e6
    print(
        f"  {name:<10} {result.rate:>8,.0f}/s  {cost_us:,.1f} us each  server {result.server_share:.0%}, load"
        f" {result.load_share:.0%}, dashboards {result.dashboard_share:.0%} of a core"
        f"  {result.frames:,.0f} frames/s  ({result.note}; machine load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
