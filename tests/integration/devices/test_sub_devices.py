"""A gateway speaks for the devices behind it, by a foreign client, through the real server."""

import json
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import pytest

from protocols.mqtt.codec.packets import PubAck, Publish
from tests.integration.devices.conftest import Gateway
from tests.integration.devices.test_mqtt_devices import Clients
from tests.support.fleet import FleetDevice
from tests.support.waiting import until

TS = 1_700_000_000_000
MAY_ADD = "from devices.models import DeviceType; DeviceType.objects.update(gateways_may_add=True)"
VERSIONS = pytest.mark.parametrize("version", [3, 4, 5])

_numbers = count()

Named = Callable[[str], FleetDevice]


@pytest.fixture
async def clients(gateway: Gateway) -> AsyncIterator[Clients]:
    opened = Clients(gateway)
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def _types_that_may_be_added(gateway: Gateway, devices: Any) -> None:
    gateway.serving.command("manage", "shell", "--command", MAY_ADD)


@pytest.fixture
def speaker(gateway: Gateway, _types_that_may_be_added: None) -> FleetDevice:
    """A device that is a gateway."""
    name = f"speaker-{next(_numbers)}"
    token = gateway.serving.command("device", "add", name, "--gateway").stdout.strip()
    [(pk,)] = gateway.query("SELECT id FROM gateway_devices_device WHERE name = ?", name)
    return FleetDevice(pk, name, token)


@pytest.fixture
def behind(speaker: FleetDevice) -> Named:
    """A device behind it, which need not be there yet."""
    return lambda name: FleetDevice(0, f"{speaker.name}/{name}", "")


def values(gateway: Gateway, device: FleetDevice) -> list[tuple[str, Any]]:
    return [(key, value) for key, _, value in gateway.stored(device)]


def is_connected(gateway: Gateway, device: FleetDevice) -> bool:
    rows = gateway.query(
        "SELECT 1 FROM gateway_devices_connecteddevice c JOIN gateway_devices_device d ON d.id = c.device_id"
        " WHERE d.name = ?",
        device.name,
    )
    return bool(rows)


def payload(**content: Any) -> bytes:
    return json.dumps(content).encode()


@VERSIONS
async def test_telemetry_that_is_acknowledged_is_stored_for_each_device(
    clients: Clients, gateway: Gateway, speaker: FleetDevice, behind: Named, version: int
) -> None:
    client = await clients.paho(speaker, version)
    content = {
        behind("a").name: [
            {"ts": TS, "values": {"t": 1}, "metadata": {"connector": "modbus"}},
            {"ts": TS + 1, "values": {"t": 2}},
        ],
        behind("b").name: [{"t": True}],
    }

    await client.publish("v1/gateway/telemetry", json.dumps(content).encode(), qos=1)

    assert gateway.stored(behind("a")) == [("t", TS, 1.0), ("t", TS + 1, 2.0)]
    assert values(gateway, behind("b")) == [("t", True)]


async def test_the_acknowledgement_follows_the_commit_of_all(
    clients: Clients, gateway: Gateway, speaker: FleetDevice, behind: Named
) -> None:
    client = await clients.log_in(speaker, 5)
    content = {behind(name).name: [{"t": 1}] for name in "abc"}
    message = Publish(topic="v1/gateway/telemetry", payload=json.dumps(content).encode(), qos=1, packet_id=1)
    client.send(message)
    assert await client.receive() == PubAck(packet_id=1)
    with gateway.locked():
        client.send(message)
        await client.expect_nothing_more()

    assert await client.receive() == PubAck(packet_id=1)
    assert [len(gateway.stored(behind(name))) for name in "abc"] == [2, 2, 2]


@VERSIONS
async def test_devices_are_connected_by_the_word_of_their_gateway(
    clients: Clients, gateway: Gateway, speaker: FleetDevice, behind: Named, version: int
) -> None:
    client = await clients.paho(speaker, version)
    a, b = behind("a"), behind("b")

    await client.publish("v1/gateway/connect", payload(device=a.name, type="default"), qos=1)
    await client.publish("v1/gateway/telemetry", json.dumps({b.name: [{"t": 1}]}).encode(), qos=1)
    await until(lambda: is_connected(gateway, a) and is_connected(gateway, b), "both are connected")
    await client.publish("v1/gateway/disconnect", payload(device=a.name), qos=1)
    await until(lambda: not is_connected(gateway, a), "one has gone")
    assert is_connected(gateway, b)
    await client.disconnect()

    await until(lambda: not is_connected(gateway, b), "the other has gone with its gateway")


@VERSIONS
async def test_attributes_are_reported_and_asked_for(
    clients: Clients, gateway: Gateway, speaker: FleetDevice, behind: Named, version: int
) -> None:
    client = await clients.paho(speaker, version)
    await client.subscribe("v1/gateway/attributes/response", qos=1)
    name = behind("a").name

    await client.publish("v1/gateway/attributes", json.dumps({name: {"firmware": "1.0.3", "slots": 2}}).encode(), qos=1)
    gateway.serving.command("attribute", "set", name, "shared", "interval=60")
    answers = []
    for asked in (
        {"id": 1, "client": True, "key": "firmware"},
        {"id": 2, "client": True, "keys": ["firmware", "slots", "none"]},
        {"id": 3, "key": "interval"},
    ):
        await client.publish("v1/gateway/attributes/request", payload(device=name, **asked), qos=1)
        answers.append(json.loads((await client.message()).payload))

    assert answers == [
        {"id": 1, "device": name, "value": "1.0.3"},
        {"id": 2, "device": name, "values": {"firmware": "1.0.3", "slots": 2}},
        {"id": 3, "device": name, "value": 60},
    ]


async def test_a_device_is_opened_for_claiming(
    clients: Clients, gateway: Gateway, speaker: FleetDevice, behind: Named
) -> None:
    client = await clients.paho(speaker, 5)
    name = behind("a").name

    await client.publish("v1/gateway/claim", json.dumps({name: {"secretKey": "4711"}}).encode(), qos=1)

    gateway.serving.command("device", "claim", name, "4711")


@pytest.mark.parametrize(
    ("topic", "content"),
    [
        ("v1/gateway/telemetry", lambda name: {"new": [{"t": 1}], name: [{"t": 1}]}),
        ("v1/gateway/attributes", lambda name: {name: {"k": 1}}),
        ("v1/gateway/connect", lambda name: {"device": name}),
        ("v1/gateway/attributes/request", lambda name: {"id": 1, "device": name, "key": "k"}),
        ("v1/gateway/rpc", lambda name: {"id": 1, "device": name, "data": 1}),
        ("v1/gateway/claim", lambda name: {name: {}}),
    ],
)
async def test_what_is_said_of_a_device_of_others_is_refused_and_nothing_stored(
    clients: Clients,
    gateway: Gateway,
    speaker: FleetDevice,
    device: FleetDevice,
    topic: str,
    content: Callable[[str], Any],
) -> None:
    client = await clients.log_in(speaker, 5)

    client.send(Publish(topic=topic, payload=json.dumps(content(device.name)).encode(), qos=1, packet_id=1))
    answer = await client.receive()

    assert isinstance(answer, PubAck)
    assert answer.reason_code == 0x90
    assert gateway.stored(device) == []
    assert gateway.query("SELECT 1 FROM gateway_devices_device WHERE name = 'new'") == []


async def test_a_device_that_is_disabled_is_refused_and_its_gateway_goes_on(
    clients: Clients, gateway: Gateway, speaker: FleetDevice, behind: Named
) -> None:
    client = await clients.log_in(speaker, 5)
    a, b = behind("a"), behind("b")

    async def say(device: FleetDevice) -> int:
        content = json.dumps({device.name: [{"t": 1}]}).encode()
        client.send(Publish(topic="v1/gateway/telemetry", payload=content, qos=1, packet_id=1))
        answer = await client.receive()
        assert isinstance(answer, PubAck)
        return answer.reason_code

    assert [await say(a), await say(b)] == [0, 0]
    await until(lambda: is_connected(gateway, a), "it is connected")
    gateway.serving.command("device", "disable", a.name)
    await until(lambda: not is_connected(gateway, a), "it is cut off")

    assert [await say(a), await say(b)] == [0x90, 0]
