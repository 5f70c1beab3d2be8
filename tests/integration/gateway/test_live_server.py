"""ChannelsLiveServerTestCase: the application on a real port, with the database of the test, in memory or not."""

import asyncio
import urllib.error
import urllib.request
from typing import Any

import aiohttp
import pytest
from django.contrib.auth import get_user_model
from django.core.asgi import get_asgi_application
from django.test import override_settings
from django.urls import path

from gateway.auth import AuthMiddlewareStack
from gateway.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from gateway.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from gateway.routing import ProtocolTypeRouter, URLRouter
from gateway.testing import ChannelsLiveServerTestCase
from protocols.asgi import Application


class Counter(WebsocketConsumer):
    """Makes a user by each message, in a thread."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        get_user_model().objects.create_user(text_data)
        self.send(str(get_user_model().objects.count()))


class Listener(AsyncWebsocketConsumer):
    groups = ["news"]

    async def connect(self) -> None:
        await self.accept()
        await self.send(str([user.username async for user in get_user_model().objects.order_by("pk")]))

    async def news_item(self, event: Any) -> None:
        await self.send(event["text"])


class LiveServer(ChannelsLiveServerTestCase):
    @classmethod
    def get_application(cls) -> Application:
        routes = [path("counter/", Counter.as_asgi()), path("news/", Listener.as_asgi())]
        return ProtocolTypeRouter({"http": get_asgi_application(), "websocket": AuthMiddlewareStack(URLRouter(routes))})

    def setUp(self) -> None:
        self.old_layer = channel_layers.set("default", InMemoryChannelLayer())

    def tearDown(self) -> None:
        channel_layers.backends.pop("default")
        if self.old_layer is not None:
            channel_layers.set("default", self.old_layer)

    def fetch(self, path: str) -> tuple[int, bytes]:
        with urllib.request.urlopen(self.live_server_url + path, timeout=30) as response:
            return response.status, response.read()

    def test_pages_and_static_files_are_served(self) -> None:
        assert self.fetch("/login/")[0] == 200
        assert b"{" in self.fetch("/static/admin/css/base.css")[1]

    async def test_the_application_sees_the_database_of_the_test_and_the_test_sees_its(self) -> None:
        await get_user_model().objects.acreate(username="test")
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            sockets = [await session.ws_connect(f"{self.live_server_ws_url}/counter/") for _ in range(5)]
            for number, socket in enumerate(sockets):
                await socket.send_str(f"user-{number}")
            counts = [int((await socket.receive()).data) for socket in sockets]
            for socket in sockets:
                await socket.close()

        assert max(counts) == 6
        assert await get_user_model().objects.acount() == 6

    async def test_what_the_test_sends_over_the_layer_reaches_the_application(self) -> None:
        async with (
            asyncio.timeout(30),
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.live_server_ws_url}/news/") as socket,
        ):
            assert (await socket.receive()).data == "[]"
            layer = get_channel_layer()
            assert layer is not None
            await layer.group_send("news", {"type": "news.item", "text": "from a task"})
            assert (await socket.receive()).data == "from a task"
            await asyncio.to_thread(layer.sync.group_send, "news", {"type": "news.item", "text": "from a thread"})
            assert (await socket.receive()).data == "from a thread"

    @override_settings(ALLOWED_HOSTS=[])
    def test_settings_that_a_test_overrides_count(self) -> None:
        with pytest.raises(urllib.error.HTTPError, match="400"):
            self.fetch("/login/")


class FailsToStart(ChannelsLiveServerTestCase):
    port = 1 << 20

    @classmethod
    def setUpClass(cls) -> None:
        with pytest.raises((OSError, OverflowError, ValueError)):
            super().setUpClass()

    def test_what_keeps_the_server_from_starting_is_raised(self) -> None:
        assert not self.server.is_alive()
