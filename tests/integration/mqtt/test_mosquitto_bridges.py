"""A real Mosquitto that is a bridge into the gateway: nothing comes back to it, and what is retained stays retained."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.fixture_types import Address, ConnectPaho
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import until

Bridge: TypeAlias = Callable[[str], Awaitable[Mosquitto]]

pytestmark = pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv50"])
"""The first two set the bridge bit in their protocol level; 5.0 has options to say what it means."""


@pytest.fixture
async def bridge(tmp_path: Path, address: Address, application: AcceptEverything) -> AsyncIterator[Bridge]:
    """Starts a Mosquitto that has the topics loop/# in common with the gateway, and has subscribed to them."""
    started: list[Mosquitto] = []

    async def start(version: str) -> Mosquitto:
        lines = (
            "connection up",
            f"address {address[0]}:{address[1]}",
            f"bridge_protocol_version {version}",
            "restart_timeout 1",
            "topic loop/# both 1",
        )
        started.append(Mosquitto(tmp_path / "field", *lines, max_inflight=20).start())
        await until(lambda: any(event["type"] == "mqtt.subscribe" for _, event in application.events), "its bridge")
        return started[0]

    yield start
    for one in started:
        one.stop()


async def test_what_a_bridge_publishes_does_not_come_back_to_it(
    bridge: Bridge, address: Address, paho: ConnectPaho, version: str
) -> None:
    field_broker = await bridge(version)
    here, field = await paho("here"), await paho("field", to=field_broker.address)
    await here.subscribe("loop/#", 1)
    await field.subscribe("loop/#", 1)

    await field.publish("loop/command", b"toggle", 1)
    assert (await here.message()).payload == b"toggle"
    await here.publish("loop/end", b"end", 1)  # behind an echo, if there were one

    assert [(await field.message()).payload for _ in range(2)] == [b"toggle", b"end"]
    assert (await here.message()).payload == b"end"
    await field.publish("loop/command", b"again", 1)
    assert (await here.message()).payload == b"again"


async def test_what_is_retained_is_so_on_the_other_side_in_both_directions(
    bridge: Bridge, address: Address, paho: ConnectPaho, version: str
) -> None:
    field_broker = await bridge(version)
    here, field = await paho("here"), await paho("field", to=field_broker.address)
    await here.subscribe("loop/#", 1)
    await field.subscribe("loop/#", 1)

    await here.publish("loop/state", b"on", 1, retain=True)
    await field.publish("loop/reading", b"21", 1, retain=True)
    assert {(await field.message()).payload for _ in range(2)} == {b"on", b"21"}
    assert {(await here.message()).payload for _ in range(2)} == {b"on", b"21"}

    for later in (await paho("later"), await paho("later", to=field_broker.address)):
        await later.subscribe("loop/#", 1)
        found = [await later.message() for _ in range(2)]
        assert {(one.topic, one.payload, one.retain) for one in found} == {
            ("loop/state", b"on", True),
            ("loop/reading", b"21", True),
        }


async def test_a_message_that_is_not_retained_does_not_become_so_by_a_bridge(
    bridge: Bridge, address: Address, paho: ConnectPaho, version: str
) -> None:
    field_broker = await bridge(version)
    here, field = await paho("here"), await paho("field", to=field_broker.address)
    await field.subscribe("loop/#", 1)
    await here.publish("loop/event", b"rung", 1)
    await here.publish("loop/state", b"on", 1, retain=True)
    assert [(await field.message()).payload for _ in range(2)] == [b"rung", b"on"]

    later = await paho("later", to=field_broker.address)
    await later.subscribe("loop/#", 1)

    assert (await later.message()).topic == "loop/state"
