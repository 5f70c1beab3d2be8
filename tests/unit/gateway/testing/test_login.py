"""`login` of the communicators, inside the transaction of a TestCase."""

import pytest
from django.contrib.auth import get_user_model
from django.test import TestCase

from gateway.auth import AuthMiddlewareStack
from gateway.generic.http import AsyncHttpConsumer
from gateway.generic.mqtt import AsyncMqttConsumer
from gateway.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from gateway.testing import HttpCommunicator, MqttCommunicator, WebsocketCommunicator


class Greeter(AsyncWebsocketConsumer):
    channel_layer_alias = "none"

    async def connect(self) -> None:
        await self.accept()
        await self.send(f"{self.scope['user']} {self.scope['cookies'].get('theme')}")


class SyncGreeter(WebsocketConsumer):
    channel_layer_alias = "none"

    def connect(self) -> None:
        self.accept()
        self.send(f"{get_user_model().objects.get(pk=self.scope['user'].pk)} {self.scope['cookies'].get('theme')}")


class Whoami(AsyncHttpConsumer):
    channel_layer_alias = "none"

    async def handle(self, body: bytes) -> None:
        await self.send_response(200, str(self.scope["user"]).encode())


class Meter(AsyncMqttConsumer):
    channel_layer_alias = "none"

    async def connect(self, password: bytes | None) -> None:
        assert str(self.scope["user"]) == "alice"
        await self.accept()


class Login(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        cls.alice = get_user_model().objects.create_user("alice")

    async def test_a_websocket_is_the_users(self) -> None:
        for consumer in (Greeter, SyncGreeter):
            client = WebsocketCommunicator(
                AuthMiddlewareStack(consumer.as_asgi()), "/", headers=[(b"cookie", b"theme=dark")]
            )
            await client.login(self.alice)
            async with client:
                assert await client.connect() == (True, None)
                assert await client.receive_from() == "alice dark"

    async def test_a_request_is_the_users(self) -> None:
        client = HttpCommunicator(AuthMiddlewareStack(Whoami.as_asgi()), "GET", "/")
        await client.login(self.alice)
        assert (await client.get_response())["body"] == b"alice"

    async def test_without_it_one_is_anonymous(self) -> None:
        client = HttpCommunicator(AuthMiddlewareStack(Whoami.as_asgi()), "GET", "/")
        assert (await client.get_response())["body"] == b"AnonymousUser"

    async def test_an_mqtt_connection_has_the_user_in_its_scope(self) -> None:
        client = MqttCommunicator(Meter.as_asgi())
        await client.login(self.alice)
        async with client:
            assert await client.connect() == (True, 0)

    async def test_a_login_is_too_late_when_the_application_runs(self) -> None:
        async with WebsocketCommunicator(AuthMiddlewareStack(Greeter.as_asgi()), "/") as client:
            with pytest.raises(RuntimeError, match=r"call login\(\) before the first event"):
                await client.login(self.alice)
