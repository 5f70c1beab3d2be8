"""MQTT clients for Python, as they are installed: each publishes and subscribes, and is a device."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiomqtt
import gmqtt
import pytest
from amqtt.client import MQTTClient
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

from tests.integration.clients.conftest import TELEMETRY, Gateway
from tests.integration.mqtt.paho_client import PahoClient
from tests.support.fleet import FleetDevice
from tests.support.waiting import DEADLINE_S

Unique = Callable[[str], str]
QOS = [0, 1, 2]
READING = json.dumps({"temperature": 21.5})


class TestPaho:
    @pytest.mark.parametrize("transport", ["tcp", "websockets"])
    @pytest.mark.parametrize("version", [3, 4, 5])
    async def test_paho_publishes_subscribes_and_is_a_device(
        self, gateway: Gateway, device: FleetDevice, unique: Unique, version: int, transport: str
    ) -> None:
        address = (gateway.host, gateway.port if transport == "tcp" else gateway.web_port)
        ordinary = PahoClient(address, "", version, transport=transport)
        sensor = PahoClient(address, "sensor", version, transport=transport, username=device.token)
        for client in (ordinary, sensor):
            assert (await client.connect())[1] == 0

        await ordinary.subscribe(unique("#"), 2)
        for qos in QOS:
            await ordinary.publish(unique("t"), b"%d" % qos, qos, retain=qos == 1)
        await sensor.publish(TELEMETRY, READING.encode(), 1)

        messages = [await ordinary.message() for _ in QOS]
        assert [(message.topic, message.payload, message.qos) for message in messages] == [
            (unique("t"), b"%d" % qos, qos) for qos in QOS
        ]
        assert await gateway.stored(device) == [21.5]
        for client in (ordinary, sensor):
            await client.disconnect()


class TestAiomqtt:
    @pytest.mark.parametrize("version", [aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5])
    async def test_aiomqtt_publishes_subscribes_and_is_a_device(
        self, gateway: Gateway, device: FleetDevice, unique: Unique, version: Any
    ) -> None:
        async with asyncio.timeout(DEADLINE_S):
            async with aiomqtt.Client(gateway.host, gateway.port, protocol=version) as client:
                await client.subscribe(unique("#"), qos=2)
                for qos in QOS:
                    await client.publish(unique("t"), str(qos), qos=qos)
                received = []
                async for message in client.messages:
                    received.append((message.topic.value, message.payload, message.qos))
                    if len(received) == len(QOS):
                        break
            async with aiomqtt.Client(gateway.host, gateway.port, username=device.token, protocol=version) as sensor:
                await sensor.publish(TELEMETRY, READING, qos=1)

        assert received == [(unique("t"), b"%d" % qos, qos) for qos in QOS]
        assert await gateway.stored(device) == [21.5]


class TestGmqtt:
    @pytest.mark.parametrize("version", [MQTTv311, MQTTv50])
    async def test_gmqtt_publishes_subscribes_and_is_a_device(
        self, gateway: Gateway, device: FleetDevice, unique: Unique, version: int
    ) -> None:
        received: asyncio.Queue[tuple[str, bytes, int]] = asyncio.Queue()
        subscribed = asyncio.Event()
        client, sensor = gmqtt.Client(unique("client").replace("/", "-")), gmqtt.Client("gmqtt-sensor")
        client.on_message = lambda _client, topic, payload, qos, _properties: received.put_nowait((topic, payload, qos))
        client.on_subscribe = lambda *_arguments: subscribed.set()
        sensor.set_auth_credentials(device.token, None)
        async with asyncio.timeout(DEADLINE_S):
            await client.connect(gateway.host, gateway.port, version=version)
            await sensor.connect(gateway.host, gateway.port, version=version)
            client.subscribe(unique("#"), qos=2)
            await subscribed.wait()

            for qos in QOS:
                client.publish(unique("t"), str(qos), qos=qos)
            sensor.publish(TELEMETRY, READING, qos=1)

            messages = [await received.get() for _ in QOS]
            assert messages == [(unique("t"), b"%d" % qos, qos) for qos in QOS]
            assert await gateway.stored(device) == [21.5]
            for one in (client, sensor):
                await one.disconnect()


class TestAmqtt:
    @pytest.mark.parametrize("transport", ["tcp", "websockets"])
    async def test_amqtts_client_publishes_subscribes_and_is_a_device(
        self, gateway: Gateway, device: FleetDevice, unique: Unique, transport: str
    ) -> None:
        tcp, path = f"{gateway.host}:{gateway.port}", f"{gateway.host}:{gateway.web_port}/mqtt"
        url = "mqtt://{user}" + tcp if transport == "tcp" else "ws://{user}" + path
        client = MQTTClient(config={"auto_reconnect": False})
        sensor = MQTTClient("amqtt-sensor", config={"auto_reconnect": False})
        async with asyncio.timeout(DEADLINE_S):
            await client.connect(url.format(user=""))
            await sensor.connect(url.format(user=f"{device.token}@"))
            assert await client.subscribe([(unique("#"), 2)]) == [2]

            for qos in QOS:
                await client.publish(unique("t"), b"%d" % qos, qos)
            await sensor.publish(TELEMETRY, READING.encode(), 1)

            messages = [await client.deliver_message(timeout_duration=DEADLINE_S) for _ in QOS]
            assert [(message.topic, bytes(message.data)) for message in messages] == [
                (unique("t"), b"%d" % qos) for qos in QOS
            ]
            assert await gateway.stored(device) == [21.5]
            for one in (client, sensor):
                await one.disconnect()
