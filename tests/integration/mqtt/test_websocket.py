"""MQTT over WebSocket [MQTT5-6]: the tunnel at /mqtt of the HTTP server, with Paho and with frames of our own."""

from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from protocols.http import HttpOptions, HttpServer
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.server import MqttServer
from protocols.server import Listener
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.conftest import as_address
from tests.integration.mqtt.fixture_types import Address
from tests.integration.mqtt.paho_client import PahoClient
from tests.integration.mqtt.raw_client import RawClient
from tests.support.waiting import until

CONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c"


@pytest.fixture
async def addresses(application: AcceptEverything) -> AsyncIterator[tuple[Address, Address]]:
    """A broker on TCP, and the HTTP server that carries it: (MQTT, HTTP)."""
    listener = Listener(bind="127.0.0.1:0", options=MqttOptions(allow_anonymous=True))
    mqtt = MqttServer(application, [listener], state={})
    http = HttpServer(
        application,
        [Listener(bind="127.0.0.1:0", options=HttpOptions())],
        state={},
        tunnels=mqtt.offered_tunnels(),
    )
    await mqtt.start()
    await http.start()
    yield as_address(mqtt.addresses[0]), as_address(http.addresses[0])
    for server in (mqtt, http):
        await server.close()


@pytest.fixture
def url(addresses: tuple[Address, Address]) -> str:
    host, port = addresses[1]
    return f"ws://{host}:{port}/mqtt"


@pytest.mark.mqtt("MQTT5-6.0.0-4", "MQTT3-6.0.0-4", "MQTT5-4.2-1")
@pytest.mark.parametrize("version", [3, 4, 5])
async def test_paho_publishes_over_websocket_to_a_subscriber_on_tcp_and_back(
    addresses: tuple[Address, Address], version: int
) -> None:
    tcp_address, http_address = addresses
    over_tcp = PahoClient(tcp_address, "tcp", version)
    over_websocket = PahoClient(http_address, "websocket", version, transport="websockets")
    over_websocket.client.ws_set_options(path="/mqtt")
    for client in (over_tcp, over_websocket):
        assert (await client.connect())[1] == 0
    await over_tcp.subscribe("to/tcp", 2)
    await over_websocket.subscribe("to/websocket", 2)

    for qos in (0, 1, 2):
        await over_websocket.publish("to/tcp", b"x" * 70_000, qos)
        await over_tcp.publish("to/websocket", b"y" * 70_000, qos)

    for qos in (0, 1, 2):
        message = await over_tcp.message()
        assert (message.payload, message.qos) == (b"x" * 70_000, qos)
        message = await over_websocket.message()
        assert (message.payload, message.qos) == (b"y" * 70_000, qos)
    for client in (over_tcp, over_websocket):
        await client.disconnect()


async def test_the_scope_says_that_it_came_over_websocket(url: str, application: AcceptEverything) -> None:
    async with connect(url, subprotocols=["mqtt"]) as websocket:  # type: ignore[list-item]
        await websocket.send(CONNECT)
        assert await websocket.recv() == b"\x20\x02\x00\x00"

    (scope,) = application.scopes
    assert (scope["type"], scope["scheme"], scope["client"][0]) == ("mqtt", "ws", "127.0.0.1")


@pytest.mark.mqtt("MQTT5-6.0.0-2", "MQTT3-6.0.0-2")
async def test_packets_need_not_begin_with_messages(url: str) -> None:
    """[MQTT5-6.0.0-2]"""
    async with connect(url, subprotocols=["mqtt"]) as websocket:  # type: ignore[list-item]
        assert websocket.subprotocol == "mqtt"  # [MQTT5-6.0.0-4]
        stream = CONNECT + b"\x32\x06\x00\x01a\x00\x01x" + b"\xc0\x00"
        for index in range(len(stream)):
            await websocket.send(stream[index : index + 1])

        received = b""
        while len(received) < 10:
            message = await websocket.recv()
            assert isinstance(message, bytes)
            received += message
        assert received[:4] == b"\x20\x02\x00\x00"
        # PINGRESP need not wait for the application, the PUBACK does.
        assert received[4:] in (b"\x40\x02\x00\x01\xd0\x00", b"\xd0\x00\x40\x02\x00\x01")


@pytest.mark.mqtt("MQTT5-6.0.0-1", "MQTT3-6.0.0-1")
async def test_a_text_message_closes_the_connection(url: str, application: AcceptEverything) -> None:
    """[MQTT5-6.0.0-1]"""
    async with connect(url, subprotocols=["mqtt"]) as websocket:  # type: ignore[list-item]
        await websocket.send(CONNECT)
        await websocket.recv()

        await websocket.send("text")

        with pytest.raises(ConnectionClosed):
            await websocket.recv()
    await until(lambda: application.seen("mqtt.disconnect", "c"), "the disconnect event")


@pytest.mark.mqtt("MQTT5-6.0.0-3", "MQTT3-6.0.0-3")
async def test_the_subprotocol_must_be_offered(url: str) -> None:
    """[MQTT5-6.0.0-3]"""
    with pytest.raises(InvalidStatus) as caught:
        await connect(url)

    assert caught.value.response.status_code == 400


async def test_a_client_of_mqtt_3_1_may_ask_for_its_own_subprotocol(url: str) -> None:
    async with connect(url, subprotocols=["mqttv3.1"]) as websocket:  # type: ignore[list-item]
        assert websocket.subprotocol == "mqttv3.1"
        await websocket.send(b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c")

        assert await websocket.recv() == b"\x20\x02\x00\x00"
    async with connect(url, subprotocols=["mqttv3.1", "mqtt"]) as websocket:  # type: ignore[list-item]
        assert websocket.subprotocol == "mqtt"


async def test_a_malformed_packet_closes_the_websocket(url: str) -> None:
    async with connect(url, subprotocols=["mqtt"]) as websocket:  # type: ignore[list-item]
        await websocket.send(CONNECT)
        await websocket.recv()

        await websocket.send(b"\x00\x00")

        with pytest.raises(ConnectionClosed):
            await websocket.recv()


async def test_a_websocket_that_is_lost_is_a_lost_connection(
    addresses: tuple[Address, Address], url: str, application: AcceptEverything
) -> None:
    watcher = await RawClient.open(addresses[0])
    await watcher.connect("watcher")
    async with connect(url, subprotocols=["mqtt"]) as websocket:  # type: ignore[list-item]
        await websocket.send(CONNECT)
        await websocket.recv()
        websocket.transport.abort()

    await until(lambda: application.seen("mqtt.disconnect", "c"), "the disconnect event")
    assert application.seen("mqtt.disconnect", "c")[0]["reason"] == "lost"
    watcher.abort()
