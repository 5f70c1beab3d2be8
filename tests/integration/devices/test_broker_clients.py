"""Devices and ordinary clients of the broker on one listener: neither gets at what is the other's."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from protocols.mqtt.codec.packets import Publish, Will
from tests.integration.devices.conftest import Gateway, Watched, running
from tests.integration.mqtt.raw_client import RawClient
from tests.support.fleet import FleetDevice
from tests.support.mosquitto import Mosquitto

COMMANDS = "v1/devices/me/rpc/request/+"
COMMAND = "v1/devices/me/rpc/request/1"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One that takes clients without credentials."""
    with running(tmp_path_factory.mktemp("gateway"), "--set", "listeners.1.allow_anonymous=true") as gateway:
        yield gateway


class Clients:
    """The clients of one test."""

    def __init__(self, gateway: Gateway) -> None:
        self._address = (gateway.host, gateway.mqtt_port)
        self._opened: list[RawClient] = []

    async def connect(self, client_id: str, **connect: object) -> RawClient:
        """A client of MQTT 5 that was let in."""
        client = await RawClient.open(self._address, 5)
        self._opened.append(client)
        connack = await client.connect(client_id, **connect)
        assert connack.reason_code == 0
        assert not connack.session_present
        return client

    def close(self) -> None:
        for client in self._opened:
            client.abort()


@pytest.fixture
async def clients(gateway: Gateway) -> AsyncIterator[Clients]:
    opened = Clients(gateway)
    yield opened
    opened.close()


async def test_no_client_identifier_gives_an_anonymous_client_the_session_of_a_device(
    clients: Clients, device: FleetDevice
) -> None:
    victim = await clients.connect(
        "sensor", username=device.token, clean_start=False, properties={"session_expiry_interval": 3600}
    )
    assert await victim.subscribe(COMMANDS) == 0

    await clients.connect(f"{device.pk}/sensor", clean_start=False)

    await victim.expect_nothing_more()


@pytest.mark.parametrize(
    "credentials",
    [{"username": "user", "password": b"secret"}, {"username": "user"}, {"username": ""}, {"password": b"secret"}],
    ids=["both", "a user name", "an empty user name", "a password"],
)
async def test_other_credentials_than_a_token_are_taken_no_notice_of(
    clients: Clients, credentials: dict[str, object]
) -> None:
    client = await clients.connect("anybody", **credentials)

    assert await client.subscribe("any/topic", 1) == 1


@pytest.mark.parametrize("version", [4, 5])
async def test_what_looks_like_a_token_is_one_and_has_to_be_valid(gateway: Gateway, version: int) -> None:
    client = await RawClient.open((gateway.host, gateway.mqtt_port), version)

    connack = await client.connect("sensor", username="NoSuchTokenNoSuchTokenNoSuchToken")

    assert connack.reason_code == (0x86 if version == 5 else 0x87)
    await client.expect_end()


async def test_telemetry_of_a_client_without_a_token_closes_an_older_one_so_that_it_notices(gateway: Gateway) -> None:
    client = await RawClient.open((gateway.host, gateway.mqtt_port), 4)
    await client.connect("sensor", username="short-token")

    client.send(Publish(topic="v1/devices/me/telemetry", payload=b"{}", qos=1, packet_id=1))

    await client.expect_end()


async def test_a_will_is_no_way_to_publish_what_its_client_may_not(
    clients: Clients, gateway: Gateway, device: FleetDevice, devices: Iterator[FleetDevice], watched: Watched
) -> None:
    commanded = await clients.connect("commanded", username=device.token)
    assert await commanded.subscribe(COMMANDS) == 0
    listening = await clients.connect("listening")
    assert await listening.subscribe("#") == 0
    will = Will(topic=COMMAND, payload=b'{"method": "unlock"}', retain=True)

    other = next(devices)
    for credentials, who in (({"username": other.token}, f"{other.name}: mqtt villain"), ({}, "mqtt villain")):
        villain = await clients.connect("villain", will=will, **credentials)
        villain.abort()
        assert f"refused will 'v1/devices/me/rpc/request/1' of {who} from 127.0.0.1:" in await watched.line()
        watched = Watched(gateway)

    goodbye = await clients.connect("goodbye", will=Will(topic="goodbye", payload=b"1"))
    goodbye.abort()

    assert await listening.receive() == Publish(topic="goodbye", payload=b"1")
    await commanded.expect_nothing_more()


@pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv50"])
async def test_a_bridge_of_mosquitto_as_it_comes_stays_connected_and_says_whether_it_is_there(
    clients: Clients, watched: Watched, gateway: Gateway, tmp_path: Path, version: str
) -> None:
    bridge = f"field.{version}"
    state = f"$SYS/broker/connection/{bridge}/state"
    watching = await clients.connect("watching")
    for topic_filter in (state, f"{version}/#"):
        assert await watching.subscribe(topic_filter) == 0
    lines = (
        f"connection {version}",
        f"address {gateway.host}:{gateway.mqtt_port}",
        f"bridge_protocol_version {version}",
        f"remote_clientid {bridge}",
        f"topic {version}/# out 1",
    )
    field_broker = Mosquitto(tmp_path / "field", *lines, max_inflight=20).start()
    try:
        assert await watching.receive() == Publish(topic=state, payload=b"1")
        field = await RawClient.open(field_broker.address)
        await field.connect("field")
        field.send(Publish(topic=f"{version}/reading", payload=b"21"))
        assert await watching.receive() == Publish(topic=f"{version}/reading", payload=b"21")
        field.abort()

        later = await clients.connect("later")
        assert await later.subscribe(state) == 0
        assert await later.receive() == Publish(topic=state, payload=b"1", retain=True)
        assert watched.lines() == []
    finally:
        field_broker.stop()
    assert await later.receive() == Publish(topic=state, payload=b"0")
