"""Methods of any making as handlers, and how tests come at them."""

import asyncio
import functools
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

import pytest
from asgiref.sync import async_to_sync

from gateway.consumer import AsyncConsumer, SyncConsumer
from gateway.db import database_sync_to_async
from gateway.exceptions import StopConsumer
from gateway.generic.http import AsyncHttpConsumer
from gateway.generic.websocket import AsyncWebsocketConsumer, JsonWebsocketConsumer
from gateway.layers import InMemoryChannelLayer
from gateway.testing import ApplicationCommunicator, WebsocketCommunicator


def bare(method: Any) -> Any:
    """A decorator as many write them: without functools.wraps."""

    def wrapper(consumer: Any, event: Any) -> Any:
        return method(consumer, event)

    return wrapper


class Decorated(AsyncConsumer):
    @bare
    async def by_bare_decorator(self, event: Any) -> None:
        await self.send({"type": "called"})

    @database_sync_to_async
    def in_a_thread(self, event: Any) -> None:
        async_to_sync(self.send)({"type": "called"})

    async def _with_colour(self, colour: str, event: Any) -> None:
        await self.send({"type": "called"})

    partial = functools.partialmethod(_with_colour, "red")

    @database_sync_to_async
    def store(self, one: Any, two: Any) -> None:
        raise AssertionError("takes two arguments, so it is not a handler")

    @staticmethod
    async def static(event: Any) -> None:
        raise AssertionError("is no method")

    class Meta:
        pass


class TestWhatADecoratorMade:
    @pytest.mark.parametrize("message_type", ["by.bare.decorator", "in.a.thread", "partial"])
    async def test_handles_events_and_messages(
        self, served: Any, layer: InMemoryChannelLayer, message_type: str
    ) -> None:
        async with ApplicationCommunicator(served(Decorated.as_asgi()), {"type": "test"}) as connection:
            await connection.send_input({"type": message_type})
            assert await connection.receive_output() == {"type": "called"}

            await layer.send(next(iter(layer.local.channels)), {"type": message_type})
            assert await connection.receive_output() == {"type": "called"}

    def test_what_a_decorator_made_is_no_handler_if_it_cannot_take_one_event(self) -> None:
        assert Decorated.message_handlers() == {"by_bare_decorator", "in_a_thread", "partial"}

    async def test_what_a_decorator_made_may_be_a_handler_of_connection_events(self, served: Any) -> None:
        class Raw(AsyncConsumer):
            @database_sync_to_async
            def websocket_connect(self, event: Any) -> None:
                async_to_sync(self.send)({"type": "websocket.accept"})

            async def websocket_disconnect(self, event: Any) -> None:
                raise StopConsumer

        async with WebsocketCommunicator(served(Raw.as_asgi()), "/") as client:
            assert await client.connect() == (True, None)

    async def test_what_a_decorator_made_is_a_handler_of_a_sync_consumer_if_it_is_called_synchronously(
        self, served: Any
    ) -> None:
        called = []

        class Mixed(SyncConsumer):
            @async_to_sync
            async def coroutine(self, event: Any) -> None:
                called.append(event)
                raise StopConsumer

            @database_sync_to_async
            def awaitable(self, event: Any) -> None: ...

        assert Mixed.message_handlers() == {"coroutine"}
        connection = ApplicationCommunicator(served(Mixed.as_asgi()), {"type": "test"})
        await connection.send_input({"type": "coroutine"})
        await connection.wait(timeout=30)
        assert called == [{"type": "coroutine"}]


class Room(AsyncWebsocketConsumer):
    groups = ["room"]

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class TestAsTestsUseConsumers:
    @pytest.mark.parametrize("message_type", ["chat.message", "chat_message", "chat.message_"])
    async def test_a_mock_takes_the_place_of_a_handler(
        self, served: Any, layer: InMemoryChannelLayer, message_type: str
    ) -> None:
        class Mocked(Room):
            async def chat_message_(self, event: Any) -> None: ...

        message = {"type": message_type}
        called = asyncio.Event()
        name = message_type.replace(".", "_")
        with patch.object(Mocked, name, side_effect=lambda event: called.set()) as handler:
            async with WebsocketCommunicator(served(Mocked.as_asgi()), "/") as client:
                await client.connect()
                await layer.group_send("room", message)
                await asyncio.wait_for(called.wait(), 30)

        handler.assert_awaited_once_with(message)
        async with WebsocketCommunicator(served(Mocked.as_asgi()), "/") as client:
            await client.connect()
            await layer.group_send("room", {"type": "chat.message", "text": "the original again"})
            assert await client.receive_from() == "the original again"

    async def test_a_mock_may_be_set_on_an_instance(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Mocked(Room):
            pass

        called = asyncio.Event()
        consumer = Mocked()
        consumer.chat_message = AsyncMock(side_effect=lambda event: called.set())  # type: ignore[method-assign]
        async with WebsocketCommunicator(served(consumer), "/") as client:
            await client.connect()
            await layer.group_send("room", {"type": "chat.message"})
            await asyncio.wait_for(called.wait(), 30)

        consumer.chat_message.assert_awaited_once_with({"type": "chat.message"})

    @pytest.mark.parametrize("target", ["class", "instance"])
    async def test_a_handler_may_be_patched_while_the_consumer_runs(
        self, served: Any, layer: InMemoryChannelLayer, target: str
    ) -> None:
        class Mocked(Room):
            pass

        consumer = Mocked()
        async with WebsocketCommunicator(served(consumer), "/") as client:
            await client.connect()
            await layer.group_send("room", {"type": "chat.message", "text": "the original"})
            assert await client.receive_from(timeout=30) == "the original"

            called = asyncio.Event()
            patched = Mocked if target == "class" else consumer
            with patch.object(patched, "chat_message", AsyncMock(side_effect=lambda event: called.set())) as handler:
                await layer.group_send("room", {"type": "chat.message", "text": "for the mock"})
                await asyncio.wait_for(called.wait(), 30)
            handler.assert_awaited_once_with({"type": "chat.message", "text": "for the mock"})

            await layer.group_send("room", {"type": "chat.message", "text": "the original again"})
            assert await client.receive_from(timeout=30) == "the original again"

    async def test_methods_may_be_called_without_running_the_consumer(self) -> None:
        consumer = Room()
        consumer.base_send = AsyncMock()

        await consumer.chat_message({"type": "chat.message", "text": "hello"})
        await consumer.dispatch({"type": "chat.message", "text": "world"})
        await consumer.close(4000)

        assert [call.args[0] for call in consumer.base_send.await_args_list] == [
            {"type": "websocket.send", "text": "hello"},
            {"type": "websocket.send", "text": "world"},
            {"type": "websocket.close", "code": 4000},
        ]

    def test_methods_of_a_sync_consumer_may_be_called_without_running_it(self) -> None:
        consumer = JsonWebsocketConsumer()
        consumer.base_send = Mock()

        consumer.connect()
        consumer.send_json({"a": 1})

        assert [call.args[0] for call in consumer.base_send.call_args_list] == [
            {"type": "websocket.accept", "subprotocol": None},
            {"type": "websocket.send", "text": '{"a": 1}'},
        ]

    async def test_methods_of_an_http_consumer_may_be_called_without_running_it(self) -> None:
        consumer = AsyncHttpConsumer()
        consumer.base_send = AsyncMock()

        await consumer.send_response(204, b"")

        assert consumer.base_send.await_count == 2
