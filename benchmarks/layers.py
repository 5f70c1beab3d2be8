"""Our channel layers beside channels_redis: one `group_send` to N members of one process, and on to their receivers.

    python benchmarks/layers.py [--members 1 100 1000 10000] [--repeats 5] [--seconds 0.5]

Closed loop: the next message is sent when every member has the last one. Everything runs in one process and event loop
with its own redis-server on a free port; the contenders take turns within each repeat and medians are compared, so that
other load on the machine hits all alike. Members of channels_redis, and ours "by receive()", are tasks that loop over
`receive`, which is how Channels' consumers read; ours otherwise are attached functions, which is how our consumers
read. "from another process" sends through a second layer object, so that every message crosses Redis and is decoded.

Redis bytes are what the server wrote to its clients per `group_send`.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

from channels_redis.core import RedisChannelLayer as PeerCore
from channels_redis.pubsub import RedisPubSubChannelLayer as PeerPubSub

sys.path.insert(0, str(Path(__file__).parent.parent))

from gateway.layers import InMemoryChannelLayer
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from tests.support.redis import RedisServer

MESSAGE = {"type": "readings.committed", "text": '{"type":"readings","now":1764000000000,"devices":{}}' + "x" * 150}
PEER = "channels_redis pub/sub"
TIMEOUT_S = 30.0

Round: TypeAlias = Callable[[], Any]
Contender: TypeAlias = Callable[[str, int], AbstractAsyncContextManager[Round]]


class Countdown:
    """Counts deliveries and wakes whoever waits for all of them."""

    def __init__(self, members: int) -> None:
        self._members = members
        self._left = members
        self._waiter: asyncio.Future[None] | None = None

    def hit(self, message: object = None) -> None:
        self._left -= 1
        if self._left == 0 and self._waiter is not None:
            self._waiter.set_result(None)

    async def wait(self) -> None:
        if self._left > 0:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            self._waiter = None
        self._left = self._members


@asynccontextmanager
async def by_functions(reader: Any, sender: Any, members: int) -> AsyncIterator[Round]:
    """Members are attached functions."""
    countdown = Countdown(members)
    for _ in range(members):
        channel = await reader.new_channel()
        reader.attach(channel, countdown.hit)
        await reader.group_add("group", channel)

    async def one_round() -> None:
        await sender.group_send("group", MESSAGE)
        await countdown.wait()

    yield one_round
    await sender.close()
    await reader.close()


@asynccontextmanager
async def by_tasks(reader: Any, sender: Any, members: int) -> AsyncIterator[Round]:
    """Members are tasks that loop over `receive`."""
    countdown = Countdown(members)

    async def receive_all(channel: str) -> None:
        while True:
            await reader.receive(channel)
            countdown.hit()

    tasks = []
    for _ in range(members):
        channel = await reader.new_channel()
        await reader.group_add("group", channel)
        tasks.append(asyncio.create_task(receive_all(channel)))

    async def one_round() -> None:
        await sender.group_send("group", MESSAGE)
        await countdown.wait()

    yield one_round
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for layer in {id(layer): layer for layer in (reader, sender)}.values():
        with contextlib.suppress(Exception):
            await layer.flush()
        await getattr(layer, "close_pools", layer.flush)()


def memory(url: str, members: int) -> AbstractAsyncContextManager[Round]:
    layer = InMemoryChannelLayer()
    return by_functions(layer, layer, members)


def pubsub(url: str, members: int) -> AbstractAsyncContextManager[Round]:
    layer = RedisPubSubChannelLayer(hosts=[url])
    return by_functions(layer, layer, members)


def pubsub_across(url: str, members: int) -> AbstractAsyncContextManager[Round]:
    reader, sender = RedisPubSubChannelLayer(hosts=[url]), RedisPubSubChannelLayer(hosts=[url])
    return by_functions(reader, sender, members)


def queues(url: str, members: int) -> AbstractAsyncContextManager[Round]:
    layer = RedisChannelLayer(hosts=[url])
    return by_functions(layer, layer, members)


def queues_across(url: str, members: int) -> AbstractAsyncContextManager[Round]:
    reader, sender = RedisChannelLayer(hosts=[url]), RedisChannelLayer(hosts=[url])
    return by_functions(reader, sender, members)


def pubsub_by_receive(url: str, members: int) -> AbstractAsyncContextManager[Round]:
    layer = RedisPubSubChannelLayer(hosts=[url])
    return by_tasks(layer, layer, members)


def peer_host(url: str) -> dict[str, Any]:
    """Without the read timeout of redis-py 8, which channels_redis 4.3.0 does not expect."""
    return {"address": url, "socket_timeout": None}


def peer_pubsub(url: str, members: int) -> AbstractAsyncContextManager[Round]:
    layer = PeerPubSub(hosts=[peer_host(url)])
    return by_tasks(layer, layer, members)


def peer_core(url: str, members: int) -> AbstractAsyncContextManager[Round]:
    layer = PeerCore(hosts=[peer_host(url)])
    return by_tasks(layer, layer, members)


CONTENDERS: dict[str, Contender] = {
    "channels_redis core": peer_core,
    PEER: peer_pubsub,
    "ours, in-memory": memory,
    "ours, pub/sub": pubsub,
    "ours, pub/sub, from another process": pubsub_across,
    "ours, queues": queues,
    "ours, queues, from another process": queues_across,
    "ours, pub/sub, by receive()": pubsub_by_receive,
}


async def measure(contender: Contender, server: RedisServer, members: int, seconds: float) -> tuple[float, float]:
    """Deliveries per second, and bytes that Redis wrote per message; zeros if it does not come to an end."""
    try:
        async with asyncio.timeout(TIMEOUT_S), contender(server.url, members) as one_round:
            return await measure_rounds(one_round, server, members, seconds)
    except TimeoutError:
        return 0.0, 0.0


async def measure_rounds(one_round: Round, server: RedisServer, members: int, seconds: float) -> tuple[float, float]:
    for _ in range(3):
        await one_round()
    before = written(server)
    rounds = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        await one_round()
        rounds += 1
    return rounds * members / elapsed, (written(server) - before) / rounds


def written(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("stats")["total_net_output_bytes"])


def report(members: int, results: dict[str, list[tuple[float, float]]]) -> None:
    medians = {name: statistics.median(rate for rate, _ in runs) for name, runs in results.items()}
    print(f"\n{members} members: delivered/s (median, range), ratio to {PEER}, Redis bytes per group_send")
    for name, runs in results.items():
        rates = [rate for rate, _ in runs]
        sent = statistics.median(sent for _, sent in runs)
        if not medians[name]:
            print(f"  {name:38} did not finish within {TIMEOUT_S:g} s")
            continue
        print(
            f"  {name:38} {medians[name]:12,.0f}  ({min(rates):,.0f} - {max(rates):,.0f})"
            f"  x{medians[name] / (medians[PEER] or 1):.1f}  {sent:,.0f} B"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 100, 1000, 10000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory))
        server.start()
        try:
            for members in options.members:
                results: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
                for _ in range(options.repeats):
                    for name, contender in CONTENDERS.items():
                        results[name].append(asyncio.run(measure(contender, server, members, options.seconds)))
                report(members, results)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
