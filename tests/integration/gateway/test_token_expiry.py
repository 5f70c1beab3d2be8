"""A token that expires ends the connection on the real wires."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest
from django.urls import path

from gateway.generic.http import AsyncHttpConsumer
from gateway.generic.mqtt import AsyncMqttConsumer
from gateway.generic.websocket import AsyncWebsocketConsumer
from gateway.routing import ProtocolTypeRouter, URLRouter
from gateway.token_auth import TokenAuthMiddleware, TokenUser
from protocols.http import HttpOptions, HttpServer
from protocols.mqtt.server import MqttOptions, MqttServer
from protocols.server import Listener

VALID_S = 0.4
CONNECT = b"\x10\x15\x00\x04MQTT\x05\x82\x00\x3c\x00\x00\x01c\x00\x05token"  # MQTT 5, username "token"

ended: list[Any] = []


class Echo(AsyncWebsocketConsumer):
    channel_layer_alias = "none"

    async def disconnect(self, code: int) -> None:
        ended.append(code)


class Stream(AsyncHttpConsumer):
    channel_layer_alias = "none"

    async def handle(self, body: bytes) -> None:
        await self.send_headers()
        await self.send_body(b"hello", more_body=True)

    async def disconnect(self) -> None:
        ended.append("http")


class Meter(AsyncMqttConsumer):
    channel_layer_alias = "none"

    async def connect(self, password: bytes | None) -> None:
        await self.accept()

    async def disconnect(self, reason_code: int, reason: str) -> None:
        ended.append(reason)


async def get_token_user(token: str) -> TokenUser | None:
    return TokenUser("ann", time.time() + VALID_S) if token == "token" else None


application = TokenAuthMiddleware(
    ProtocolTypeRouter(
        {"http": URLRouter([path("", Stream.as_asgi())]), "websocket": Echo.as_asgi(), "mqtt": Meter.as_asgi()}
    ),
    get_token_user,
    sources=["header", "subprotocol", "first_message", "mqtt"],
)


async def websocket_by_header(url: str, session: aiohttp.ClientSession) -> None:
    async with session.ws_connect(url, headers={"Authorization": "Bearer token"}) as socket:
        message = await socket.receive(timeout=30)
        assert (message.type, socket.close_code) == (aiohttp.WSMsgType.CLOSE, 4401)


async def websocket_by_subprotocol(url: str, session: aiohttp.ClientSession) -> None:
    async with session.ws_connect(url, protocols=["bearer", "token"]) as socket:
        assert socket.protocol == "bearer"
        await socket.receive(timeout=30)
        assert socket.close_code == 4401


async def websocket_by_first_message(url: str, session: aiohttp.ClientSession) -> None:
    async with session.ws_connect(url) as socket:
        await socket.send_str('{"token": "token"}')
        await socket.receive(timeout=30)
        assert socket.close_code == 4401


async def stream(url: str, session: aiohttp.ClientSession) -> None:
    async with session.get(url, headers={"Authorization": "Bearer token"}) as response:
        assert await response.read() == b"hello"


@pytest.mark.parametrize(
    ("client", "end"),
    [
        (websocket_by_header, 4401),
        (websocket_by_subprotocol, 4401),
        (websocket_by_first_message, 4401),
        (stream, "http"),
    ],
)
async def test_http_and_websocket_end(client: Any, end: object) -> None:
    ended.clear()
    server = HttpServer(application, [Listener(bind="127.0.0.1:0", options=HttpOptions())], state={})
    await server.start()
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            await client(f"http://{server.addresses[0]}/", session)
            while not ended:
                await asyncio.sleep(0.01)
    finally:
        await server.close()
    assert ended == [end]


async def test_mqtt_disconnects_with_not_authorized() -> None:
    ended.clear()
    server = MqttServer(application, [Listener(bind="127.0.0.1:0", options=MqttOptions())], state={})
    await server.start()
    try:
        host, _, port = server.addresses[0].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(CONNECT)
        async with asyncio.timeout(30):
            received = await reader.read()
        writer.close()
        await writer.wait_closed()
    finally:
        await server.close()

    assert received[0] == 0x20
    disconnect = received[2 + received[1] :]
    assert (disconnect[0], disconnect[2]) == (0xE0, 0x87)
    assert ended == ["application"]
