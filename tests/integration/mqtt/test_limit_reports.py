"""Each bound of docs/limits.md that has a counter, exceeded at a real server: the reason code and the counter are those
that the page names."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from prometheus_client import REGISTRY

from protocols.asgi import Event, Send
from protocols.mqtt.codec.packets import ConnAck, Disconnect, PubAck, Publish, SubAck, Subscribe, Subscription
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.fixture_types import OpenRaw, Serve
from tests.integration.mqtt.raw_client import RawClient
from tests.support.waiting import until

PAGE = (Path(__file__).parents[3] / "docs" / "limits.md").read_text()
SECTION = PAGE.partition("\n## MQTT\n")[2].partition("\n## HTTP")[0]
ROWS = {
    option: (codes, counters)
    for option, codes, counters in re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", SECTION, re.M)
    if "gateway_" in counters
}

Open: TypeAlias = Callable[[], Awaitable[RawClient]]
Told: TypeAlias = set[int]
"""The reason codes that the client was told."""

EXCEED: dict[str, Callable[[Open], Awaitable[Told]]] = {}
"""By option, or by what of it."""


def exceeds(name: str) -> Callable[[Callable[[Open], Awaitable[Told]]], Callable[[Open], Awaitable[Told]]]:
    def enter(client: Callable[[Open], Awaitable[Told]]) -> Callable[[Open], Awaitable[Told]]:
        EXCEED[name] = client
        return client

    return enter


async def connected(open_one: Open, client_id: str = "c", **fields: Any) -> RawClient:
    client = await open_one()
    assert (await client.connect(client_id, **fields)).reason_code == 0
    return client


async def told(client: RawClient) -> Told:
    """The reason code of a DISCONNECT, or of a CONNACK that refuses; and nothing comes after it."""
    packet = await client.receive()
    assert isinstance(packet, Disconnect | ConnAck), packet
    await client.expect_end()
    return {packet.reason_code}


async def absent(open_one: Open) -> None:
    """A client that has subscribed and is away, and for whom two messages come."""
    client = await connected(open_one, "absent", properties={"session_expiry_interval": 100})
    assert await client.subscribe("a", 1) == 1
    await client.disconnect()
    publisher = await connected(open_one)
    publisher.send(*(Publish(topic="a", payload=b"x" * 40, qos=1, packet_id=number) for number in (1, 2)))


@exceeds("connect_timeout_s")
async def says_nothing(open_one: Open) -> Told:
    await (await open_one()).expect_end()
    return set()


@exceeds("max_connections")
@exceeds("max_connections_per_address")
async def comes_twice(open_one: Open) -> Told:
    await connected(open_one)
    await (await open_one()).expect_end()
    return set()


@exceeds("max_connects_per_s")
async def comes_too_often(open_one: Open) -> Told:
    codes: Told = set()
    while not codes:  # on a slow machine a second may have passed
        clients = [await open_one() for _ in range(3)]
        codes = {(await client.connect("c")).reason_code for client in clients} - {0}
    return codes


@exceeds("max_messages_per_s")
@exceeds("max_bytes_per_s")
async def sends_a_little_too_fast(open_one: Open) -> Told:
    client = await connected(open_one)
    client.send(*[Publish(topic="a")] * 5)
    return set()


@exceeds("max_slowed_s, messages")
@exceeds("max_slowed_s, bytes")
async def goes_on_too_fast(open_one: Open) -> Told:
    client = await open_one()
    if code := (await client.connect("c")).reason_code:  # the CONNECT was too much already
        return {code}
    client.send(*[Publish(topic="a")] * 5)
    return await told(client)


@exceeds("max_packet_bytes")
async def sends_a_large_packet(open_one: Open) -> Told:
    client = await connected(open_one)
    client.send(Publish(topic="a", payload=bytes(200)))
    return await told(client)


async def subscribes(client: RawClient, *filters: str) -> Told:
    client.send(Subscribe(packet_id=1, subscriptions=tuple(Subscription(topic_filter=one) for one in filters)))
    packet = await client.receive()
    assert isinstance(packet, SubAck)
    return set(packet.reason_codes) - {0}


@exceeds("max_topic_length")
async def has_a_long_topic(open_one: Open) -> Told:
    client = await connected(open_one)
    refused = await subscribes(client, "long")
    client.send(Publish(topic="long"))
    return refused | await told(client)


@exceeds("max_topic_levels")
async def has_a_deep_topic(open_one: Open) -> Told:
    client = await connected(open_one)
    client.send(Publish(topic="a/b/c", payload=b"x", retain=True))
    return await subscribes(client, "a/b/c")


@exceeds("max_subscription_bytes_in_all")
@exceeds("max_subscription_bytes_per_owner")
@exceeds("max_subscriptions")
async def subscribes_to_much(open_one: Open) -> Told:
    return await subscribes(await connected(open_one), "a", "b")


@exceeds("max_topic_aliases")
async def has_many_aliases(open_one: Open) -> Told:
    client = await connected(open_one)
    client.send(Publish(topic="a", properties={"topic_alias": 2}))
    return await told(client)


@exceeds("receive_maximum")
async def does_not_wait_for_acknowledgements(open_one: Open) -> Told:
    client = await connected(open_one)
    client.send(*(Publish(topic="kept waiting", qos=1, packet_id=number) for number in (1, 2)))
    return await told(client)


@exceeds("max_queued_messages")
@exceeds("max_queued_bytes")
@exceeds("max_queued_bytes_in_all")
@exceeds("max_queued_bytes_per_owner")
async def is_away(open_one: Open) -> Told:
    await absent(open_one)
    return set()


@exceeds("write_timeout_s")
async def reads_nothing(open_one: Open) -> Told:
    client = await connected(open_one, "slow")
    assert await client.subscribe("a") == 0
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    publisher = await connected(open_one)
    for _ in range(100):
        publisher.send(Publish(topic="a", payload=bytes(250_000)))
        await publisher.writer.drain()
    return set()


@exceeds("max_sessions")
@exceeds("max_sessions_per_owner")
async def wants_one_more_session(open_one: Open) -> Told:
    await connected(open_one, "one")
    client = await open_one()
    codes = {(await client.connect("two")).reason_code}
    await client.expect_end()
    return codes


@exceeds("max_retained_messages")
@exceeds("max_retained_messages_per_owner")
@exceeds("max_retained_bytes")
@exceeds("max_retained_bytes_per_owner")
async def retains(open_one: Open) -> Told:
    client = await connected(open_one)
    client.send(Publish(topic="a", payload=b"x", retain=True, qos=1, packet_id=1))
    packet = await client.receive()
    assert isinstance(packet, PubAck)
    return {packet.reason_code}


LOW: dict[str, dict[str, float]] = {
    "connect_timeout_s": {"connect_timeout_s": 0.1},
    "max_bytes_per_s": {"max_bytes_per_s": 10},
    "max_slowed_s, messages": {"max_slowed_s": 0, "max_messages_per_s": 1},
    "max_slowed_s, bytes": {"max_slowed_s": 0, "max_bytes_per_s": 10},
    "max_packet_bytes": {"max_packet_bytes": 128},
    "max_topic_length": {"max_topic_length": 3},
    "max_topic_levels": {"max_topic_levels": 2},
    "max_subscription_bytes_in_all": {"max_subscription_bytes_in_all": 1_000},
    "max_subscription_bytes_per_owner": {"max_subscription_bytes_per_owner": 1_000},
    "max_queued_bytes": {"max_queued_bytes": 60},
    "max_queued_bytes_in_all": {"max_queued_bytes_in_all": 60},
    "max_queued_bytes_per_owner": {"max_queued_bytes_per_owner": 60},
    "write_timeout_s": {"write_timeout_s": 0.2},
    "max_retained_messages": {"max_retained_messages": 0},
    "max_retained_messages_per_owner": {"max_retained_messages_per_owner": 0},
    "max_retained_bytes": {"max_retained_bytes": 0},
    "max_retained_bytes_per_owner": {"max_retained_bytes_per_owner": 0},
}
"""How low the bound is set; 1 unless it is here."""


class Waiting(AcceptEverything):
    """Answers one topic never."""

    async def publish(self, event: Event, send: Send) -> None:
        if event["topic"] != "kept waiting":
            await super().publish(event, send)


def total(counter: str) -> float:
    """What the page calls `name{label="value"}`, over all other labels."""
    name, label, value = re.fullmatch(r'(\w+)\{(\w+)="(\w+)"\}', counter).groups()  # type: ignore[union-attr]
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == name and sample.labels[label] == value
    )


def test_every_bound_of_the_page_that_has_a_counter_is_here() -> None:
    assert {name.partition(",")[0] for name in EXCEED} == set(ROWS)


@pytest.mark.parametrize("name", EXCEED)
async def test_a_limit_is_told_and_counted_as_the_page_says(name: str, serve: Serve, open_raw: OpenRaw) -> None:
    option = name.partition(",")[0]
    codes, counters = ROWS[option][0].partition("before")[0], re.findall(r"`(gateway_[^`]+)`", ROWS[option][1])
    address = await serve(Waiting(), **LOW.get(name, {option: 1}))
    before = [total(counter) for counter in counters]

    async with asyncio.timeout(60):
        heard = await EXCEED[name](lambda: open_raw(5, to=address))

    expected = {int(code, 16) for code in re.findall("0x[0-9A-F]{2}", codes)}
    assert heard == expected or (", " in name and heard < expected)
    await until(lambda: all(total(one) > earlier for one, earlier in zip(counters, before, strict=True)), "the counts")
