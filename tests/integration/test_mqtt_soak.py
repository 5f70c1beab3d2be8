"""Sessions whose clients are away and subscribers that do not read, under steady traffic: memory stays what it is.

In the gate for a few seconds and sessions; `make soak` runs it for ten minutes with a thousand, or as SOAK_S and
SOAK_SESSIONS say.
"""

import asyncio
import os
import random
import re
import statistics
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from protocols.mqtt.codec.packets import (
    Disconnect,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Subscription,
)
from tests.integration.mqtt.raw_client import RawClient
from tests.support.serving import Serving

SOAK_S = float(os.environ.get("SOAK_S", "4"))
SESSIONS = int(os.environ.get("SOAK_SESSIONS", "100"))
SLOW = 10
SLOW_S = SOAK_S / 8
"""How long one stays before it comes again."""
QUEUE = 50
RATE = 200
"""Publishes a second, each for every session."""
PAYLOAD = b"x" * 200
PATIENCE_S = 120


class Soak:
    """The clients of one run."""

    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.stopping = asyncio.Event()
        self.published = 0
        self.returned = 0
        self.cut = 0

    async def leave_sessions(self) -> None:
        """Makes the sessions, and leaves."""
        for number in range(SESSIONS):
            async with self.client(f"away-{number}") as client:
                assert await client.subscribe("all/#", 2) == 2

    async def fill(self) -> None:
        """Publishes until each session has as much as it may have."""
        async with self.client("filler") as client:
            for number in range(1, QUEUE * 2):
                await self.publish(client, number, 1)

    async def publish_steadily(self) -> None:
        """At every QoS in turn, to all."""
        async with self.client("publisher") as client:
            number = 0
            while not self.stopping.is_set():
                number = number % 60_000 + 1
                await self.publish(client, number, number % 3)
                await asyncio.sleep(1 / RATE)

    async def publish(self, client: RawClient, number: int, qos: int) -> None:
        """Publishes, and sees it through."""
        client.send(Publish(topic=f"all/{qos}", payload=PAYLOAD, qos=qos, packet_id=number if qos else 0))
        if qos == 1:
            assert await client.receive() == PubAck(number)
        if qos == 2:
            assert await client.receive() == PubRec(number)
            client.send(PubRel(number))
            assert await client.receive() == PubComp(number)
        self.published += 1

    async def come_back(self) -> None:
        """One client after the other comes back, takes what waits for it, and leaves again."""
        while not self.stopping.is_set():
            async with self.client(f"away-{random.randrange(SESSIONS)}") as client:
                for _ in range(10):
                    client.send(PingReq())
                    if not await self.take(client):
                        break
            self.returned += 1
            await asyncio.sleep(0.05)

    async def take(self, client: RawClient) -> int:
        """Takes all that comes before the answer to a ping. Returns how much that is."""
        count = 0
        while True:
            match await client.receive():
                case Publish(qos=1, packet_id=packet_id):
                    client.send(PubAck(packet_id))
                case Publish(qos=2, packet_id=packet_id):
                    client.send(PubRec(packet_id))
                case PubRel(packet_id=packet_id):
                    client.send(PubComp(packet_id))
                case PingResp():
                    return count
            count += 1

    async def be_slow(self, number: int) -> None:
        """Subscribes, reads nothing, is cut off, and does it again."""
        while not self.stopping.is_set():
            client = await RawClient.open(self.address, 4)
            await client.connect(f"slow-{number}", clean_start=bool(number % 2))
            client.send(Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter="all/#", qos=number % 3),)))
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            waiting = asyncio.create_task(self.stopping.wait())
            await asyncio.wait([waiting], timeout=SLOW_S)
            waiting.cancel()
            client.abort()
            self.cut += 1

    @asynccontextmanager
    async def client(self, client_id: str) -> AsyncIterator[RawClient]:
        """A client with a session that stays, while it is connected."""
        client = await RawClient.open(self.address, 4)
        await client.connect(client_id, clean_start=False)
        yield client
        client.send(Disconnect())
        client.writer.close()


def test_memory_is_flat_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    arguments = [f"listeners.1.max_queued_messages={QUEUE}", "listeners.1.allow_anonymous=true"]
    serving = Serving(tmp_path, *[part for argument in arguments for part in ("--set", argument)]).ready()
    try:
        before = memory(serving.process.pid)
        samples = asyncio.run(soak(serving))

        # In the first half the sessions, which began with the same messages, come to have each its own.
        quarter = len(samples) // 4
        early, late = statistics.median(samples[2 * quarter : 3 * quarter]), statistics.median(samples[-quarter:])
        drops = dropped(serving)
        print(f"memory, MiB: {before >> 20} before, then", *(sample >> 20 for sample in samples[5::6]))
        print("dropped:", *(f"{count:.0f} {reason}" for reason, count in drops.items() if count))
        print(f"stored: {stored_bytes(tmp_path) >> 20} MiB")
        assert late < early * 1.05 + 4 * 2**20
        assert drops["queue_full"] > SESSIONS
        assert stored_bytes(tmp_path) < 20 * 2**20 + SESSIONS * QUEUE * 1_000
        assert not [line for line in serving.log if "error" in line or "Traceback" in line]
        assert serving.stop() == 0
    finally:
        serving.kill()


async def soak(serving: Serving) -> list[int]:
    """Runs the traffic; gives the memory of the gateway at regular moments, once everything is full."""
    soak = Soak(serving.port("mqtt"))
    async with asyncio.timeout(SOAK_S + PATIENCE_S):
        await soak.leave_sessions()
        await soak.fill()
        tasks = [asyncio.create_task(soak.publish_steadily()), asyncio.create_task(soak.come_back())]
        tasks += [asyncio.create_task(soak.be_slow(number)) for number in range(SLOW)]
        samples = []
        end = time.monotonic() + SOAK_S
        while time.monotonic() < end or soak.published < 200 or not soak.returned:
            await asyncio.sleep(SOAK_S / 60)
            samples.append(memory(serving.process.pid))
            if failed := [task for task in tasks if task.done()]:
                await failed[0]
        soak.stopping.set()
        await asyncio.gather(*tasks)
    print(f"{soak.published} published, {soak.returned} came back, {soak.cut} were slow")
    return samples


def memory(pid: int) -> int:
    """The resident bytes of a process."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def dropped(serving: Serving) -> dict[str, float]:
    """How many messages the gateway says that it has dropped, for each reason."""
    with urllib.request.urlopen(f"{serving.url}/metrics", timeout=30) as response:
        found = re.findall(r'gateway_mqtt_dropped_total{reason="(\w+)"} (\S+)', response.read().decode())
    return {reason: float(count) for reason, count in found}


def stored_bytes(directory: Path) -> int:
    """The size of the files of the sessions."""
    return sum(path.stat().st_size for path in (directory / "var").glob("mqtt.sqlite3*"))
