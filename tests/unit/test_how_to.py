"""The recipes of docs/how-to.md do what they say."""

import asyncio
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.db.models.signals import post_save
from django.test import RequestFactory

from gateway.db import database_sync_to_async
from gateway.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from gateway.mqtt.relay import relayed_to_broker
from gateway.testing import WebsocketCommunicator
from tests.unit.test_docs_code import module_of

DEADLINE_S = 30


@pytest.fixture
def how_to() -> Iterator[ModuleType]:
    old = channel_layers.set("default", InMemoryChannelLayer())
    module = module_of("how-to.md")
    yield module
    post_save.disconnect(module.announce_user, sender=get_user_model())
    channel_layers.backends.pop("default")
    if old is not None:
        channel_layers.set("default", old)
    sys.modules.pop("docs_page", None)


@pytest.mark.django_db(transaction=True)
async def test_a_row_that_is_saved_is_told_to_the_group_once_committed(how_to: ModuleType) -> None:
    layer = get_channel_layer()
    assert layer is not None
    channel = await layer.new_channel()
    await layer.group_add("users", channel)

    user = await database_sync_to_async(get_user_model().objects.create)(username="ada")

    async with asyncio.timeout(DEADLINE_S):
        assert await layer.receive(channel) == {"type": "user.saved", "id": user.pk, "created": True}


async def test_the_sockets_of_a_user_are_closed(how_to: ModuleType) -> None:
    user = get_user_model()(pk=7)
    client = WebsocketCommunicator(how_to.Inbox.as_asgi(), "/")
    client.scope["user"] = user
    async with client:
        assert await client.connect(DEADLINE_S) == (True, None)

        await database_sync_to_async(how_to.log_out_everywhere)(user)

        closed = await client.receive_output(DEADLINE_S)
        assert (closed["type"], closed["code"], closed["reason"]) == ("websocket.close", 4401, "logged out")


async def test_a_stranger_sees_the_close_code(how_to: ModuleType) -> None:
    client = WebsocketCommunicator(how_to.Inbox.as_asgi(), "/")
    client.scope["user"] = AnonymousUser()
    async with client:
        assert await client.connect(DEADLINE_S) == (True, None)
        assert (await client.receive_output(DEADLINE_S))["code"] == 4401


async def test_a_dashboard_that_is_behind_gets_the_newest_value_of_each_sensor(how_to: ModuleType) -> None:
    layer = get_channel_layer()
    assert layer is not None
    async with WebsocketCommunicator(how_to.Dashboard.as_asgi(), "/") as client:
        await client.connect(DEADLINE_S)
        for value in range(5):  # all before the consumer runs again
            await layer.group_send("readings", {"type": "reading.stored", "sensor": "a", "value": value})
        await layer.group_send("readings", {"type": "reading.stored", "sensor": "b", "value": 9})

        shown: list[Any] = []
        while not shown or shown[-1]["sensor"] != "b":
            shown.append(await client.receive_json_from(DEADLINE_S))

    of_a = [each["value"] for each in shown if each["sensor"] == "a"]
    assert of_a[-1] == 4
    assert len(of_a) < 5


async def test_a_client_that_sends_too_much_is_closed(how_to: ModuleType) -> None:
    async with WebsocketCommunicator(how_to.Limited.as_asgi(), "/") as client:
        await client.connect(DEADLINE_S)
        outputs = []
        for number in range(1000):
            await client.send_json_to(number)
            outputs.append(await client.receive_output(DEADLINE_S))
            if outputs[-1]["type"] == "websocket.close":
                break

        assert len(outputs) > how_to.Limited.burst
        assert outputs[-1]["code"] == 4429


async def test_a_view_sends_a_message_to_devices(how_to: ModuleType) -> None:
    published = asyncio.Queue[tuple[Any, ...]]()

    class Broker:
        def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
            published.put_nowait((topic, payload, {"qos": qos, "retain": retain}))

    layer = get_channel_layer()
    assert layer is not None
    async with relayed_to_broker(layer, Broker()):
        response = await asyncio.to_thread(how_to.set_target, RequestFactory().get("/"), "kitchen")
        async with asyncio.timeout(DEADLINE_S):
            assert await published.get() == (
                "rooms/kitchen/target",
                b'{"target": 21}',
                {"qos": 1, "retain": True},
            )
    assert response.status_code == 200
