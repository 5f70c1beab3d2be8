"""The broker beside Mosquitto: acknowledging, delivering to one and to a thousand, exactly once, past subscriptions.

    python benchmarks/mqtt_broker.py [--scenario ack one fanout qos2 subscriptions] [--repeats 5] [--seconds 2]

Ours runs the consumer that clients without credentials get, as `gateway serve` would run it; the peers take turns
within each repeat. Everything is closed loop: so many messages are on the way, the next leave when some have arrived,
so nothing is dropped and nothing queues without end. The load is one process on a core of its own that looks at no
packet: it counts bytes, and answers with bytes cut out of what came. Its share of that core is printed, with the
server's: a server with little of its core was not what limited the rate, and there the processor time of a message is
the figure to compare.
"""

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import uvloop
from load import PUBACK_BYTES, cpu_of, field, free_port, length, own_cpu, running
from mqtt_ingest import ROOT
from peers.mosquitto import mosquitto

PAYLOAD = b'{"temperature": 21.5, "humidity": 60, "battery": 3.31, "n": 123}'
BUSY = 0.9
SETTLE_S = 0.5
MANY = 100_000


# -- our server -------------------------------------------------------------------------------------------------------


async def serve(port: int) -> None:
    """What runs in the server process."""
    sys.path.insert(0, str(ROOT))
    from django.conf import settings

    settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": "gateway.layers.InMemoryChannelLayer"}})
    from gateway.generic.mqtt import AsyncMqttConsumer
    from gateway.serve.supervisor import spare_what_stays
    from protocols.mqtt.server import BrokerOptions, MqttOptions, MqttServer
    from protocols.server import Listener

    options = MqttOptions(allow_anonymous=True, max_connections_per_address=0)
    server = MqttServer(
        AsyncMqttConsumer.as_asgi(),
        [Listener(bind=f"127.0.0.1:{port}", options=options)],
        state={},
        server_options=BrokerOptions(
            sys_interval_s=0, max_sessions_per_owner=100_000, max_subscription_bytes_per_owner=1_073_741_824
        ),
    )
    await server.start()
    spare_what_stays()
    await asyncio.Event().wait()


def ours(port: int, core: int | None):
    return running([sys.executable, __file__, "--serve", str(port)], port, core)


PEERS = {"Mosquitto": mosquitto, "fieldgate": ours}


# -- packets ----------------------------------------------------------------------------------------------------------


def connect_packet(client_id: str) -> bytes:
    body = b"\0\4MQTT\4\2\0\0" + field(client_id.encode())
    return b"\x10" + length(len(body)) + body


def publish_packet(topic: str, qos: int, packet_id: int) -> bytes:
    identifier = packet_id.to_bytes(2, "big") if qos else b""
    body = field(topic.encode()) + identifier + PAYLOAD
    return bytes((0x30 | qos << 1,)) + length(len(body)) + body


def subscribe_packet(filters: Sequence[str], qos: int) -> bytes:
    body = b"\0\1" + b"".join(field(one.encode()) + bytes((qos,)) for one in filters)
    size, encoded = len(body), b""
    while True:
        size, low = divmod(size, 128)
        encoded += bytes((low | 128 if size else low,))
        if not size:
            return b"\x82" + encoded + body


# -- clients ----------------------------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """Connects, and says when the first answer has come whole."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.awaited = 4
        self.answer = b""
        self.answered = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(connect_packet(self.client_id))

    def data_received(self, data):
        if not self.awaited:
            self.received(data)
            return
        self.answer += data
        if len(self.answer) >= self.awaited:
            rest = self.answer[self.awaited :]
            self.awaited = 0
            self.answered.set_result(None)
            if rest:
                self.received(rest)

    async def ask(self, packet: bytes, answer_bytes: int) -> None:
        self.answer, self.awaited = b"", answer_bytes
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(packet)
        await self.answered

    def received(self, data):
        raise NotImplementedError


class Publisher(Client):
    """Sends ready-made packets over and over; counts what `received` makes of the answers."""

    def __init__(self, client_id: str, topic: str, qos: int) -> None:
        super().__init__(client_id)
        self.packets = [publish_packet(topic, qos, number) for number in range(1, 1001)] if qos else []
        self.size = len(publish_packet(topic, qos, 1))
        self.ring = memoryview(b"".join(self.packets) * 2 or publish_packet(topic, 0, 0) * 2000)
        self.position = 0
        self.sent = 0
        self.done = 0
        self.rest = b""

    def publish(self, count: int) -> None:
        start = self.position
        self.transport.write(self.ring[start * self.size : (start + count) * self.size])
        self.position = (start + count) % 1000
        self.sent += count


class Acknowledged(Publisher):
    """QoS 1: keeps `window` publishes on the way, refilled by halves: one for one, a server that writes each
    acknowledgement alone would read each publish alone too, and the load would be what is measured."""

    def __init__(self, client_id: str, window: int, load: "Load") -> None:
        super().__init__(client_id, f"bench/{client_id}", 1)
        self.window, self.load = window, load
        self.refill = max(1, window // 2)
        self.bytes = self.due = 0

    def received(self, data):
        self.bytes += len(data)
        count, self.bytes = divmod(self.bytes, PUBACK_BYTES)
        self.due += count
        self.load.messages += count
        if self.due >= self.refill and not self.load.stopping:
            self.publish(self.due)
            self.due = 0


class ExactlyOnce(Publisher):
    """QoS 2: answers each PUBREC with a PUBREL; a message is over with its PUBCOMP."""

    def __init__(self, client_id: str, window: int, load: "Load") -> None:
        super().__init__(client_id, f"bench/{client_id}", 2)
        self.window, self.load = window, load
        self.refill = max(1, window // 2)
        self.due = 0

    def received(self, data):
        data = self.rest + data
        whole = len(data) // 4 * 4
        self.rest = data[whole:]
        kinds = data[:whole:4]
        completed = kinds.count(0x70)
        if completed < len(kinds):
            if completed:
                ids = b"".join(data[at + 2 : at + 4] for at in range(0, whole, 4) if data[at] == 0x50)
            else:
                ids = bytearray(whole // 2)
                ids[0::2], ids[1::2] = data[2:whole:4], data[3:whole:4]
            count = len(ids) // 2
            answer = bytearray(b"\x62\2\0\0" * count)
            answer[2::4], answer[3::4] = ids[0::2], ids[1::2]
            self.transport.write(answer)
        self.due += completed
        self.load.messages += completed
        if self.due >= self.refill and not self.load.stopping:
            self.publish(self.due)
            self.due = 0


class Source(Publisher):
    """Publishes when the load says so; at QoS 1 its acknowledgements are only thrown away."""

    def received(self, data):
        pass


class Subscriber(Client):
    """Counts what is delivered, and acknowledges it at QoS 1."""

    def __init__(self, client_id: str, size: int, topic: str, qos: int, load: "Load") -> None:
        super().__init__(client_id)
        self.size, self.qos, self.load = size, qos, load
        self.id_at = size - len(PAYLOAD) - 2
        self.rest = b""
        self.bytes = 0

    def received(self, data):
        if not self.qos:
            self.bytes += len(data)
            count, self.bytes = divmod(self.bytes, self.size)
        else:
            data = self.rest + data if self.rest else data
            count = len(data) // self.size
            whole = count * self.size
            self.rest = data[whole:]
            if count:
                answer = bytearray(b"\x40\2\0\0" * count)
                answer[2::4], answer[3::4] = (
                    data[self.id_at : whole : self.size],
                    data[self.id_at + 1 : whole : self.size],
                )
                self.transport.write(answer)
        self.load.delivered(count)


class Load:
    """What all clients of a run count together."""

    def __init__(self) -> None:
        self.messages = 0
        self.stopping = False
        self.delivered: Callable[[int], None] = lambda count: None


class Run(NamedTuple):
    rate: float
    server_share: float
    load_share: float

    @property
    def cost_us(self) -> float:
        """Processor time of the server for a message."""
        return self.server_share / self.rate * 1e6


async def connect(port: int, client: Client) -> None:
    await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", port)
    await client.answered


async def measure(load: Load, pid: int, seconds: float, transports: Sequence[asyncio.Transport]) -> Run:
    """Counts for so long, once it runs."""
    await asyncio.sleep(SETTLE_S)
    loop = asyncio.get_running_loop()
    began, own, theirs, count = loop.time(), own_cpu(), cpu_of(pid), load.messages
    await asyncio.sleep(seconds)
    took = loop.time() - began
    run = Run((load.messages - count) / took, (cpu_of(pid) - theirs) / took, (own_cpu() - own) / took)
    load.stopping = True
    await asyncio.sleep(0.1)
    for transport in transports:
        transport.abort()
    return run


# -- scenarios --------------------------------------------------------------------------------------------------------


async def windowed(
    kind: type[Acknowledged | ExactlyOnce], port: int, pid: int, window: int, connections: int, seconds: float
) -> Run:
    load = Load()
    clients = [kind(f"c{number}", window, load) for number in range(connections)]
    for client in clients:
        await connect(port, client)
    for client in clients:
        client.publish(window)
    return await measure(load, pid, seconds, [client.transport for client in clients])


async def delivering(port: int, pid: int, subscribers: int, qos: int, window: int, seconds: float) -> Run:
    """One publisher; `window` messages are on the way to all the subscribers."""
    load = Load()
    topic = "bench/fan-out"
    source = Source("source", topic, qos)
    receivers = [Subscriber(f"s{number}", source.size, topic, qos, load) for number in range(subscribers)]
    for receiver in receivers:
        await connect(port, receiver)
        await receiver.ask(subscribe_packet([topic], qos), 5)
    await connect(port, source)
    step = max(1, window // 2) * subscribers
    due = 0

    def delivered(count: int) -> None:
        nonlocal due
        due += count
        load.messages += count
        if due >= step and not load.stopping:
            source.publish(due // subscribers)
            due %= subscribers

    load.delivered = delivered
    source.publish(window)
    return await measure(load, pid, seconds, [client.transport for client in (source, *receivers)])


async def past_subscriptions(port: int, pid: int, subscriptions: int, seconds: float) -> Run:
    """QoS 1 publishes to topics without subscribers, while others have these many filters, a third with wildcards."""
    idle: list[Client] = []
    for first in range(0, subscriptions, 1000):
        client = Client(f"idle{first}")
        await connect(port, client)
        numbers = range(first, first + 1000)
        filters = [(f"fleet/{n}/t", f"fleet/{n}/+/t", f"site/{n % 100}/device/{n}")[n % 3] for n in numbers]
        await client.ask(subscribe_packet(filters, 0), 2 + 2 + 1 + len(filters))
        idle.append(client)
    run = await windowed(Acknowledged, port, pid, 50, 10, seconds)
    for client in idle:
        client.transport.abort()
    return run


Scenario = Callable[[int, int], Awaitable[Run]]


def scenarios(names: Sequence[str], seconds: float) -> dict[str, tuple[float | None, Scenario]]:
    """Label -> (goal, as a ratio to Mosquitto; what to run)."""
    found: dict[str, tuple[float | None, Scenario]] = {}
    if "ack" in names:
        for window, goal in ((1, 0.7), (10, 1.0), (100, 1.0)):
            found[f"QoS 1, acknowledged, window {window}"] = (
                goal,
                lambda port, pid, window=window: windowed(Acknowledged, port, pid, window, 10, seconds),
            )
    if "one" in names:
        found["QoS 0, to one subscriber"] = (0.5, lambda port, pid: delivering(port, pid, 1, 0, 200, seconds))
    if "fanout" in names:
        for qos, goal in ((0, 1.0), (1, 0.7)):
            for subscribers in (10, 100, 1000) if qos == 0 else (1, 10, 100, 1000):
                found[f"QoS {qos}, to {subscribers:,} subscriber{'s' if subscribers > 1 else ''}"] = (
                    goal,
                    lambda port, pid, count=subscribers, qos=qos: delivering(port, pid, count, qos, 20, seconds),
                )
    if "qos2" in names:
        for window in (10, 100):
            found[f"QoS 2, window {window}"] = (
                0.5,
                lambda port, pid, window=window: windowed(ExactlyOnce, port, pid, window, 10, seconds),
            )
    if "subscriptions" in names:
        for count in (0, MANY):
            found[f"QoS 1, past {count:,} subscriptions"] = (
                None,
                lambda port, pid, count=count: past_subscriptions(port, pid, count, seconds),
            )
    return found


ALL = ("ack", "one", "fanout", "qos2", "subscriptions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenario", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", choices=[*PEERS], help="measure one of the servers")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    load_average = os.getloadavg()[0]
    print(
        f"server on core {cores[0]}, load on core {cores[-1]}, {options.repeats} repeats, load average {load_average}"
    )
    peers = {name: start for name, start in PEERS.items() if options.only in (None, name)}
    runs: dict[str, dict[str, list[Run]]] = {}
    chosen = scenarios(options.scenario, options.seconds)
    for label, (goal, scenario) in chosen.items():
        results = runs[label] = {name: [] for name in peers}
        for _ in range(options.repeats):
            for name, start in peers.items():
                port = free_port()
                with start(port, cores[0]) as pid:
                    results[name].append(uvloop.run(scenario(port, pid)))
        report(label, goal, results)
    report_subscriptions(runs)


def report(label: str, goal: float | None, results: dict[str, list[Run]]) -> None:
    print(f"\n{label}" + ("" if goal is None else f" (goal: {goal:g} x)"))
    rates, costs = {}, {}
    for name, runs in results.items():
        each = sorted(run.rate for run in runs)
        rates[name] = statistics.median(each)
        costs[name] = statistics.median(run.cost_us for run in runs)
        theirs = statistics.median(run.server_share for run in runs)
        own = statistics.median(run.load_share for run in runs)
        note = "" if theirs >= BUSY else "  (not limited by the server)"
        print(
            f"  {name:<10} {rates[name]:>9,.0f}/s  ({each[0]:,.0f} to {each[-1]:,.0f})"
            f"  {costs[name]:.2f} us each  server {theirs:.0%}, load {own:.0%} of a core{note}"
        )
    if len(rates) == len(PEERS):
        by_rate, by_cost = rates["fieldgate"] / rates["Mosquitto"], costs["Mosquitto"] / costs["fieldgate"]
        print(f"  fieldgate / Mosquitto = {by_rate:.2f} by rate, {by_cost:.2f} by processor time", flush=True)


def report_subscriptions(runs: dict[str, dict[str, list[Run]]]) -> None:
    labels = [label for label in runs if "past" in label]
    if not labels:
        return
    without, with_many = (runs[label] for label in labels)
    for name in without:
        before, after = (statistics.median(run.cost_us for run in each[name]) for each in (without, with_many))
        print(f"  {name}: {MANY:,} subscriptions change the cost of a publish by {after / before - 1:+.0%}")


if __name__ == "__main__":
    main()
