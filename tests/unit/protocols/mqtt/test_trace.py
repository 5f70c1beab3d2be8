"""Watching one client: its packets both ways, every refusal, and nothing of anybody else; on both loops."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from protocols.asgi import Receive, Scope, Send
from protocols.mqtt.codec.decoder import Decoder, encode
from protocols.mqtt.codec.packets import (
    Connect,
    Disconnect,
    Packet,
    Publish,
    Subscribe,
    Subscription,
    Unsubscribe,
    Will,
)
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.server import MqttServer
from protocols.mqtt.trace import CAPACITY, MAX_TRACES, TooManyTracesError, Trace, TraceEvent
from protocols.server import Listener

DEADLINE_S = 60


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Knows every client but "stranger" as "device/...", and refuses what is "forbidden"."""
    while (event := await receive())["type"] != "mqtt.disconnect":
        forbidden = {"reason_code": 0x87, "reason_string": "not yours"}
        match event["type"]:
            case "mqtt.connect" if scope["client_id"] == "stranger":
                refusal = {"reason_code": 0x86, "reason_string": "unknown token", "log_reason": "sensor-7 is disabled"}
                await send({"type": "mqtt.reject", **refusal})
            case "mqtt.connect":
                client_id, will = f"device/{scope['client_id']}", scope["will"]
                will_counts = will is None or will["topic"] != "forbidden"
                await send({"type": "mqtt.accept", "client_id": client_id, "will": will_counts})
            case "mqtt.publish":
                refused = forbidden if event["topic"].startswith("forbidden") else {}
                drop = event["topic"] == "forbidden, and dropped"
                await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "drop": drop, **refused})
            case "mqtt.subscribe":
                filters = [one["topic_filter"] for one in event["subscriptions"]]
                codes = [0x87 if topic_filter == "forbidden" else 0 for topic_filter in filters]
                reason = {"reason_string": "not yours"} if 0x87 in codes else {}
                await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_codes": codes, **reason})
            case "mqtt.unsubscribe":
                await send({"type": "mqtt.ack", "ack_id": event["ack_id"]})


@pytest.fixture
async def server() -> AsyncIterator[MqttServer]:
    options = MqttOptions(max_queued_messages=1, max_inflight=1)
    server = MqttServer(application, [Listener(bind="127.0.0.1:0", options=options)], state={})
    await server.start()
    yield server
    await server.close()


class Client:
    """A client that sends what it is told to, and waits for as many packets as it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self.reader, self.writer, self.version = reader, writer, version
        self.decoder = Decoder(max_packet_bytes=100_000, version=version)
        self.address = "{}:{}".format(*writer.get_extra_info("sockname"))

    async def send(self, *packets: Packet, answers: int = 1) -> list[Packet]:
        self.writer.write(b"".join(encode(packet, self.version) for packet in packets))
        received: list[Packet] = []
        async with asyncio.timeout(DEADLINE_S):
            while len(received) < answers:
                data = await self.reader.read(10_000)
                assert data, "the server has closed the connection"
                received += self.decoder.decode(data)
        return received


Open = Callable[..., Awaitable[Client]]


@pytest.fixture
async def connected(server: MqttServer) -> AsyncIterator[Open]:
    clients = []

    async def open_one(client_id: str, version: int = 5, **fields: Any) -> Client:
        reader, writer = await asyncio.open_connection(*server.addresses[0].split(":"))
        client = Client(reader, writer, version)
        clients.append(client)
        await client.send(Connect(version=version, client_id=client_id, **fields))
        return client

    yield open_one
    for client in clients:
        client.writer.close()


async def events_until(trace: Trace, kind: str) -> list[TraceEvent]:
    events: list[TraceEvent] = []
    async with asyncio.timeout(DEADLINE_S):
        async for event in trace:
            events.append(event)
            if event.kind == kind:
                break
    return events


def lines(events: list[TraceEvent]) -> list[str]:
    return [" ".join((event.kind, event.packet, event.text)).strip() for event in events]


async def test_a_client_is_watched_from_its_connect_to_its_end(server: MqttServer, connected: Open) -> None:
    with server.trace("c") as trace:
        client = await connected("c", username="TOKEN", keep_alive_s=60)
        await client.send(Publish(topic="a", payload=b"12345", qos=1, packet_id=9))
        client.writer.write(encode(Disconnect(), 5))
        events = await events_until(trace, "closed")

    told = lines(events)
    assert told[0] == "in CONNECT version=5 client_id='c' keep_alive_s=60 username=***"
    assert told[1].startswith("out CONNACK reason_code=0x00")
    assert told[2:] == [
        "in PUBLISH topic='a' payload=5 bytes qos=1 packet_id=9",
        "out PUBACK packet_id=9 reason_code=0x00",
        "in DISCONNECT reason_code=0x00",
        "closed  client 0x00",
    ]
    assert [event.client_id for event in events] == ["c"] * 2 + ["device/c"] * 4
    assert {event.address for event in events} == {client.address}


async def test_a_client_may_be_traced_from_the_middle_of_its_connection(server: MqttServer, connected: Open) -> None:
    client = await connected("c")
    half = encode(Publish(topic="a", payload=b"12345", qos=1, packet_id=9), 5)
    client.writer.write(half[:5])
    [endpoint] = server._endpoints.open
    async with asyncio.timeout(DEADLINE_S):
        while not endpoint.connection._decoder._rest:
            await asyncio.sleep(0)

    with server.trace("device/c") as trace:
        client.writer.write(half[5:])
        await client.send()
        client.writer.close()
        events = await events_until(trace, "closed")

    assert lines(events)[:3] == [
        "opened  is connected already",
        "in PUBLISH topic='a' payload=5 bytes qos=1 packet_id=9",
        "out PUBACK packet_id=9 reason_code=0x00",
    ]


async def test_other_clients_are_not_traced(server: MqttServer, connected: Open) -> None:
    other = await connected("other")
    with server.trace("c") as trace:
        await other.send(Publish(topic="a", qos=1, packet_id=9))
        await connected("another")
        client = await connected("c")
        client.writer.close()
        events = await events_until(trace, "closed")

    assert {event.address for event in events} == {client.address}


@pytest.mark.parametrize("version", [4, 5])
async def test_every_refusal_is_told_with_its_reason_whatever_the_client_is_told(
    server: MqttServer, connected: Open, version: int
) -> None:
    with server.trace("c") as trace:
        client = await connected("c", version)
        await client.send(Publish(topic="forbidden, and dropped", qos=1, packet_id=9))
        subscriptions = tuple(Subscription(topic_filter=one) for one in ("a", "forbidden", "a/#/b"))
        await client.send(Subscribe(packet_id=1, subscriptions=subscriptions))
        await client.send(Subscribe(packet_id=2, subscriptions=subscriptions[2:]))
        await client.send(Unsubscribe(packet_id=3, topic_filters=("a",)))
        client.writer.write(b"\xc1\0")
        events = await events_until(trace, "closed")

    refused = [line for line in lines(events) if line.startswith(("refused", "closed"))]
    assert refused[:4] == [
        "refused PUBLISH 'forbidden, and dropped' 0x87 not yours (dropped)",
        "refused SUBSCRIBE 'forbidden' 0x87 not yours",
        "refused SUBSCRIBE 'a/#/b' 0x8f",
        "refused SUBSCRIBE 'a/#/b' 0x8f",
    ]
    assert refused[4].startswith("refused packet 0x81 ")
    assert refused[5].startswith("closed  protocol_error 0x81 ")


async def test_a_refused_publish_that_ends_the_connection_is_told_too(server: MqttServer, connected: Open) -> None:
    with server.trace("c") as trace:
        client = await connected("c", 4)
        await client.send(Publish(topic="forbidden", qos=1, packet_id=9), answers=0)
        events = await events_until(trace, "closed")

    assert lines(events)[-2:] == [
        "refused PUBLISH 'forbidden' 0x87 not yours",
        "closed  application 0x87 refused a publish to 'forbidden': not yours",
    ]


@pytest.mark.parametrize(("topic", "refusals"), [("forbidden", 1), ("allowed", 0)])
async def test_a_will_that_does_not_count_is_told(
    server: MqttServer, connected: Open, topic: str, refusals: int
) -> None:
    with server.trace("c") as trace:
        await connected("c", will=Will(topic=topic, payload=b"gone"))
        events = await events_until(trace, "out")

    refused = [line for line in lines(events) if line.startswith("refused")]
    assert refused == [f"refused CONNECT '{topic}' 0x87 the will does not count"] * refusals


async def test_a_refused_connection_is_seen_under_the_name_that_it_uses_and_the_reason_is_that_of_the_log(
    server: MqttServer, connected: Open
) -> None:
    with server.trace("stranger") as trace:
        await connected("stranger", username="TOKEN")
        events = await events_until(trace, "closed")

    assert lines(events) == [
        "in CONNECT version=5 client_id='stranger' username=***",
        "out CONNACK reason_code=0x86 reason_string='unknown token'",
        "closed  application 0x86 sensor-7 is disabled",
    ]


def dropped_in_all(server: MqttServer) -> int:
    """What was counted: since the clock has ticked last, and before."""
    return server.broker.dropped.total() + server._server_state.statistics.traffic.dropped


async def test_what_the_client_does_not_get_is_told(server: MqttServer, connected: Open) -> None:
    client = await connected("c")
    await client.send(Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter="a", qos=1),)))
    # An application that grants QoS 0 leaves nothing to queue; the client's own limit drops.
    small = await connected("small", properties={"maximum_packet_size": 30})
    await small.send(Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter="a"),)))
    with server.trace("small") as trace:
        server.publish("a", b"x" * 100)
        events = await events_until(trace, "dropped")

    assert lines(events)[-1] == "dropped PUBLISH to this client: too_large"
    assert dropped_in_all(server) == 1


async def test_what_it_publishes_and_is_not_retained_is_told(server: MqttServer, connected: Open) -> None:
    client = await connected("c")
    with server.trace("c") as trace:
        await client.send(Publish(topic="$SYS/mine", payload=b"x", qos=1, packet_id=9, retain=True))
        events = await events_until(trace, "dropped")

    assert lines(events)[-1] == "dropped PUBLISH not retained: retained_reserved"
    assert dropped_in_all(server) == 1


async def test_payloads_are_shown_to_who_asks(server: MqttServer, connected: Open) -> None:
    with server.trace("c") as plain, server.trace("c", payloads=True) as curious:
        client = await connected("c")
        await client.send(Publish(topic="a", payload=b"21.5", qos=1, packet_id=9))
        client.writer.close()
        first, second = await events_until(plain, "closed"), await events_until(curious, "closed")

    assert lines(first)[2] == "in PUBLISH topic='a' payload=4 bytes qos=1 packet_id=9"
    assert lines(second)[2] == "in PUBLISH topic='a' payload=4 bytes '21.5' qos=1 packet_id=9"


async def test_a_connection_that_is_not_watched_any_more_is_as_it_was(server: MqttServer, connected: Open) -> None:
    client = await connected("c")
    [endpoint] = server._endpoints.open
    connection = endpoint.connection
    before = type(connection._decoder), type(connection.writer)

    with server.trace("c"):
        await client.send(Publish(topic="a", qos=1, packet_id=9))
        assert type(connection._decoder) is not before[0]
        assert type(connection.writer) is not before[1]

    assert (type(connection._decoder), type(connection.writer)) == before
    assert connection.writer.tap is None
    assert await client.send(Publish(topic="a", qos=1, packet_id=10))


async def test_events_that_nobody_reads_are_lost_and_counted() -> None:
    trace = Trace("c", clock=lambda: 1.0)
    for _ in range(CAPACITY + 5):
        trace.add("c", "", "in", "PINGREQ", "")

    events = [await anext(trace) for _ in range(CAPACITY + 1)]

    assert [event.kind for event in events] == ["in"] * CAPACITY + ["lost"]
    assert events[-1].text == "5 events: they came faster than they were read"


async def test_only_so_many_traces_are_open_at_a_time(server: MqttServer) -> None:
    traces = [server.trace("c") for _ in range(MAX_TRACES)]
    for trace in traces:
        trace.__enter__()

    with pytest.raises(TooManyTracesError), server.trace("c"):
        pass

    traces[0].__exit__(None, None, None)
    with server.trace("c"):
        pass
