"""MQTT in a WebSocket: paho, through the HTTP server's listener, to the MQTT server's broker."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import paho.mqtt.client as paho
import pytest

from protocols.http import HttpOptions, HttpServer
from protocols.mqtt.server import MqttOptions, MqttServer
from protocols.server import Listener
from tests.integration.mqtt.application import AcceptEverything

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5])
def test_a_client_publishes_to_itself(run: Run, version: Any) -> None:
    async def main() -> None:
        application = AcceptEverything()
        broker = MqttServer(
            application, [Listener(bind="127.0.0.1:0", options=MqttOptions(allow_anonymous=True))], state={}
        )
        http = HttpServer(
            application,
            [Listener(bind="127.0.0.1:0", options=HttpOptions())],
            state={},
            tunnels=broker.offered_tunnels(),
        )
        await broker.start()
        await http.start()
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id="over-websocket", protocol=version, transport="websockets"
        )
        subscribed, arrived = threading.Event(), threading.Event()
        received: list[bytes] = []

        def on_message(*arguments: Any) -> None:
            received.append(arguments[2].payload)
            if len(received) == 2:
                arrived.set()

        client.on_subscribe = lambda *arguments: subscribed.set()
        client.on_connect = lambda *arguments: client.subscribe("a/#", 1)
        client.on_message = on_message
        client.connect_async("127.0.0.1", int(http.addresses[0].rpartition(":")[2]))
        client.loop_start()
        try:
            assert await asyncio.to_thread(subscribed.wait, 10)
            client.publish("a/b", b"x" * 200_000, qos=1)
            client.publish("a/c", b"small", qos=1)
            assert await asyncio.to_thread(arrived.wait, 10)
        finally:
            await asyncio.gather(http.close(), broker.close())
            await asyncio.to_thread(client.loop_stop)

        assert received == [b"x" * 200_000, b"small"]
        assert application.scopes[0]["scheme"] == "ws"

    run(main())
