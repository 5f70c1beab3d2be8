"""Commands to connected devices: from the call that sends one to the device that has it, and what storing it costs.

    python benchmarks/commands.py [--devices 200] [--rates 100 300 1000] [--seconds 5] [--repeats 3]
        [--database sqlite|postgresql]

Ours is `gateway serve`, with Redis for the channel layer. Another process creates commands at the rate: what
is due when it looks in one call, for as many devices (`devices.commands.create_for_all`). Devices subscribe at QoS 1
and acknowledge. The payload has the time of the call, by the clock that all processes of a machine share. "without
storing" is the same through the channel layer and the broker alone: the other process calls
`gateway.mqtt.publish_sync`, to a topic for each client that subscribes to it. Both take turns in each repeat.

Printed are the rate that came about, and how long commands were on the way: median, 99 of 100, longest.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import uvloop
from load import Client, connect, field, length, running
from product import ROOT, add_devices, configured
from reconnect_storm import postgresql

LAYER = """
[layer]
url = "{url}"
"""
ANONYMOUS = "allow_anonymous = true\n"
SENDER = """
import sys, time
from devices.commands import create_for_all
from devices.models import Device
from gateway.mqtt import publish_sync
kind, rate, seconds, ids = {kind!r}, {rate}, {seconds}, {ids}
devices = list(Device.objects.filter(pk__in=ids))
def stored(devices):
    create_for_all(devices, "m", time.time_ns(), one_way=True)
def published(devices):
    for device in devices:
        publish_sync(f"bench/{{device.pk}}", b'{{"params":%d}}' % time.time_ns(), 1)
send = stored if kind == "stored" else published
began = time.perf_counter()
count = 0
while (now := time.perf_counter() - began) < seconds:
    due = min(int(now * rate) - count, len(devices))
    if due > 0:
        start = count % len(devices)
        send((devices + devices)[start:start + due])
        count += due
    else:
        time.sleep(0.0005)
print(count / (time.perf_counter() - began))
"""
PUBACK = b"\x40\x02"
SETTLE_S = 2.0


class Device(Client):
    """Subscribes, acknowledges, and notes how long each command was on the way."""

    def __init__(self, number: int, username: str | None, topic: bytes) -> None:
        super().__init__(number, username)
        self.topic = topic
        self.waits_ms: list[float] = []
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        if not self.connected:
            assert data == b"\x20\2\0\0", data
            self.connected = True
            body = b"\0\1" + field(self.topic) + b"\1"
            self.transport.write(b"\x82" + length(len(body)) + body)
            return
        self.buffer += data
        while len(self.buffer) > 2 and len(self.buffer) >= 2 + self.buffer[1]:
            packet, self.buffer = self.buffer[: 2 + self.buffer[1]], self.buffer[2 + self.buffer[1] :]
            if packet[0] == 0x90:
                self.ready.set_result(None)
                continue
            begin = 4 + int.from_bytes(packet[2:4])
            self.transport.write(PUBACK + packet[begin : begin + 2])
            sent = int(packet.rpartition(b'"params":')[2].partition(b"}")[0].partition(b",")[0])
            self.waits_ms.append((now - sent) / 1e6)


class Run(NamedTuple):
    """What one run gave."""

    rate: float
    waits_ms: list[float]


async def run(
    command: list[str], port: int, kind: str, rate: int, seconds: float, ids: Sequence[int], tokens: Sequence[str]
) -> Run:
    if kind == "stored":
        devices = [Device(number, token, b"v1/devices/me/rpc/request/+") for number, token in enumerate(tokens)]
    else:
        devices = [Device(number, None, f"bench/{pk}".encode()) for number, pk in enumerate(ids)]
    await connect(port, devices)
    code = SENDER.format(kind=kind, rate=rate, seconds=seconds, ids=list(ids))
    sending = await asyncio.create_subprocess_exec(
        *command, "manage", "shell", "-v", "0", "-c", code, cwd=ROOT, stdout=subprocess.PIPE
    )
    out, _ = await sending.communicate()
    await asyncio.sleep(SETTLE_S)
    for device in devices:
        device.transport.abort()
    return Run(float(out.split()[-1]), [wait for device in devices for wait in device.waits_ms])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--rates", type=int, nargs="+", default=(100, 300, 1_000))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    options = parser.parse_args()

    sys.path.insert(0, str(ROOT))
    from tests.support.redis import RedisServer

    with ExitStack() as started:
        # Below a directory that everybody may enter: PostgreSQL refuses to run as root, and as its user gets here.
        directory = Path(started.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)
        (directory / "redis").mkdir()
        redis = RedisServer(directory / "redis")
        redis.start()
        started.callback(redis.stop)
        url = started.enter_context(postgresql(directory / "cluster")) if options.database == "postgresql" else None
        command, _, port = configured(directory, url)
        configuration = directory / "gateway.toml"
        text = configuration.read_text().replace(
            "max_connections_per_address", ANONYMOUS + "max_connections_per_address"
        )
        configuration.write_text(text + LAYER.format(url=redis.url), encoding="utf-8")
        started.enter_context(running([*command, "serve"], port, cwd=ROOT))
        ids, tokens = add_devices(command, options.devices)
        results: dict[tuple[int, str], list[Run]] = {}
        for _ in range(options.repeats):
            for rate in options.rates:
                for kind in ("stored", "without storing"):
                    one = uvloop.run(run(command, port, kind, rate, options.seconds, ids, tokens))
                    results.setdefault((rate, kind), []).append(one)
    report(options.devices, options.database, results)


def report(devices: int, database: str, results: dict[tuple[int, str], list[Run]]) -> None:
    """The time on the way, of all runs together."""
    print(f"{database}: {devices} devices, each at QoS 1; load average {os.getloadavg()[0]:.1f}")
    for (rate, kind), runs in results.items():
        waits = sorted(wait for one in runs for wait in one.waits_ms)
        came = statistics.median(one.rate for one in runs)
        print(
            f"  {rate:>5}/s wanted, {came:6.0f}/s came, {kind:<16}"
            f" median {statistics.median(waits):7.1f} ms  99 % {waits[len(waits) * 99 // 100]:7.1f} ms"
            f"  longest {waits[-1]:7.1f} ms"
        )


if __name__ == "__main__":
    main()
