"""Which method handles what, and which methods nobody can call from outside."""

import functools
import logging
from typing import Any

import pytest
from prometheus_client import REGISTRY

from gateway.consumer import AsyncConsumer, SyncConsumer, get_handler_name
from gateway.generic.websocket import AsyncWebsocketConsumer
from gateway.layers import InMemoryChannelLayer
from gateway.layers.base import LayerEvent
from gateway.testing import ApplicationCommunicator, WebsocketCommunicator
from protocols.log_lines import LINES_AT_ONCE


class TestGetHandlerName:
    def test_dots_become_underscores(self) -> None:
        assert get_handler_name({"type": "chat.new_message"}) == "chat_new_message"

    def test_a_message_without_type_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="Incoming message has no 'type' attribute"):
            get_handler_name({"text": "hello"})

    @pytest.mark.parametrize("message_type", ["_private", ".hidden", "__class__"])
    def test_a_leading_underscore_is_an_error(self, message_type: str) -> None:
        with pytest.raises(ValueError, match=r"Malformed type in message \(leading underscore\)"):
            get_handler_name({"type": message_type})


class Recorder(AsyncConsumer):
    async def test_call(self, event: dict[str, Any]) -> None:
        await self.send({"type": "called", "value": event.get("value")})

    async def helper(self, one: Any, two: Any) -> None:
        raise AssertionError("takes two arguments, so it is not a handler")

    def plain(self, event: Any) -> None:
        raise AssertionError("is not a coroutine function, so it is not a handler")

    async def _private(self, event: Any) -> None:
        raise AssertionError("is private")


@pytest.mark.parametrize("message_type", ["test.call", "test_call"])
async def test_an_event_calls_the_method_that_its_type_names(served: Any, message_type: str) -> None:
    async with ApplicationCommunicator(served(Recorder.as_asgi()), {"type": "test"}) as connection:
        await connection.send_input({"type": message_type, "value": 1})

        assert await connection.receive_output() == {"type": "called", "value": 1}


@pytest.mark.parametrize("message_type", ["unknown", "helper", "plain", "send", "dispatch", "as_asgi"])
async def test_an_event_without_handler_ends_the_consumer(served: Any, message_type: str) -> None:
    connection = ApplicationCommunicator(served(Recorder.as_asgi()), {"type": "test"})
    await connection.send_input({"type": message_type})

    with pytest.raises(ValueError, match=f"No handler for message type {message_type}"):
        await connection.wait()


async def test_an_event_for_a_private_method_ends_the_consumer(served: Any) -> None:
    connection = ApplicationCommunicator(served(Recorder.as_asgi()), {"type": "test"})
    await connection.send_input({"type": "_private"})

    with pytest.raises(ValueError, match="leading underscore"):
        await connection.wait()


async def test_dispatch_may_be_overridden(served: Any) -> None:
    class Noting(Recorder):
        async def dispatch(self, message: Any) -> None:
            await self.send({"type": "noted", "message": message["type"]})
            await super().dispatch(message)

    async with ApplicationCommunicator(served(Noting.as_asgi()), {"type": "test"}) as connection:
        await connection.send_input({"type": "test.call"})

        assert (await connection.receive_output())["type"] == "noted"
        assert (await connection.receive_output())["type"] == "called"


async def test_handlers_may_come_from_a_mixin_and_through_a_decorator(served: Any) -> None:
    def decorated(method: Any) -> Any:
        @functools.wraps(method)
        def wrapper(*args: Any) -> Any:
            return method(*args)

        return wrapper

    class Mixin:
        @decorated
        async def from_mixin(self, event: Any) -> None:
            await self.send({"type": "from mixin"})  # type: ignore[attr-defined]

    class Mixed(Mixin, AsyncConsumer):
        pass

    async with ApplicationCommunicator(served(Mixed.as_asgi()), {"type": "test"}) as connection:
        await connection.send_input({"type": "from.mixin"})

        assert await connection.receive_output() == {"type": "from mixin"}


class TestAsAsgi:
    async def test_as_asgi_makes_one_instance_per_scope(self) -> None:
        made = []

        class Counted(Recorder):
            def __init__(self, colour: str) -> None:
                made.append(colour)

        application = Counted.as_asgi(colour="red")
        for _ in range(2):
            async with ApplicationCommunicator(application, {"type": "test"}) as connection:
                assert await connection.receive_nothing(timeout=0)

        assert made == ["red", "red"]

    def test_as_asgi_says_what_it_runs(self) -> None:
        application: Any = Recorder.as_asgi(colour="red")

        assert application.consumer_class is Recorder
        assert application.consumer_initkwargs == {"colour": "red"}
        assert application.__name__ == "Recorder"
        assert application.__doc__ == Recorder.__doc__


class Room(AsyncWebsocketConsumer):
    groups = ["room"]

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])

    async def chat_new_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data="new " + event["text"])

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=f"received {text_data}")

    async def with_default(self, event: dict[str, Any], extra: int = 1) -> None:
        await self.send(text_data=f"extra {extra}")

    async def two_arguments(self, event: dict[str, Any], extra: int) -> None:
        raise AssertionError("not a handler")


class TestMessagesOfALayer:
    @pytest.mark.parametrize(
        ("message_type", "sent"),
        [
            ("chat.message", "hello"),
            ("chat_message", "hello"),
            ("chat.new_message", "new hello"),
            ("with.default", "extra 1"),
        ],
    )
    async def test_call_the_handlers_that_the_user_defines(
        self, served: Any, layer: InMemoryChannelLayer, message_type: str, sent: str
    ) -> None:
        async with WebsocketCommunicator(served(Room.as_asgi()), "/") as client:
            await client.connect()
            result = await layer.group_send("room", {"type": message_type, "text": "hello"})

            assert await client.receive_from() == sent
            assert result.delivered == 1

    @pytest.mark.parametrize(
        "message_type",
        [
            "close",
            "send",
            "accept",
            "receive",
            "connect",
            "disconnect",
            "dispatch",
            "as.asgi",
            "websocket.receive",
            "websocket.connect",
            "websocket.disconnect",
            "mailbox.overflow",
            "two.arguments",
            "unknown",
            "_send",
            "__init__",
            "groups",
        ],
    )
    async def test_can_call_nothing_else_and_the_consumer_lives_on(
        self,
        served: Any,
        layer: InMemoryChannelLayer,
        caplog: pytest.LogCaptureFixture,
        message_type: str,
    ) -> None:
        class Fresh(Room):  # the log is limited per class
            pass

        refused = REGISTRY.get_sample_value("gateway_layer_refused_total") or 0
        async with WebsocketCommunicator(served(Fresh.as_asgi()), "/") as client:
            await client.connect()
            with caplog.at_level(logging.ERROR, "gateway.layer"):
                result = await layer.group_send("room", {"type": message_type, "code": 1, "text": "x"})

            assert await client.receive_nothing(timeout=0.01)
            assert result.dropped == 1
            assert REGISTRY.get_sample_value("gateway_layer_refused_total") == refused + 1
            assert f"refused a layer message of type {message_type!r}" in caplog.text
            await layer.group_send("room", {"type": "chat.message", "text": "alive"})
            assert await client.receive_from() == "alive"

    async def test_messages_without_type_are_refused_too(self, served: Any, layer: InMemoryChannelLayer) -> None:
        async with WebsocketCommunicator(served(Room.as_asgi()), "/") as client:
            await client.connect()
            await layer.group_send("room", {"text": "x"})
            await layer.group_send("room", {"type": "chat.message", "text": "alive"})

            assert await client.receive_from() == "alive"

    async def test_messages_of_a_layer_may_not_forge_events_for_a_raw_consumer(
        self, served: Any, layer: InMemoryChannelLayer
    ) -> None:
        channels = []

        class Raw(AsyncConsumer):
            async def websocket_connect(self, event: Any) -> None:
                channels.append(self.channel_name)
                await self.send({"type": "websocket.accept"})

            async def websocket_receive(self, event: Any) -> None:
                await self.send({"type": "websocket.send", "text": event["text"]})

            async def websocket_disconnect(self, event: Any) -> None:
                pass

        async with WebsocketCommunicator(served(Raw.as_asgi()), "/") as client:
            await client.connect()
            with pytest.raises(Exception, match=channels[0]):
                await layer.send(channels[0], {"type": "websocket.receive", "text": "forged"})
            await client.send_to("genuine")

            assert await client.receive_from() == "genuine"

    async def test_reach_an_overridden_dispatch_with_types_of_its_own(
        self, served: Any, layer: InMemoryChannelLayer
    ) -> None:
        class Dynamic(Room):
            async def dispatch(self, message: Any) -> None:
                if message["type"].startswith("dynamic."):
                    await self.send(text_data=message["type"])
                else:
                    await super().dispatch(message)

        async with WebsocketCommunicator(served(Dynamic.as_asgi()), "/") as client:
            await client.connect()
            await layer.group_send("room", {"type": "close"})
            await layer.group_send("room", {"type": "dynamic.anything"})

            assert await client.receive_from() == "dynamic.anything"

    async def test_refusals_are_logged_a_few_times_however_many_there_are(
        self, layer: InMemoryChannelLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Fresh(Room):
            pass

        async with WebsocketCommunicator(Fresh.as_asgi(), "/") as client:
            await client.connect()
            for _ in range(100):
                await layer.group_send("room", {"type": "close"})

        assert caplog.text.count("refused a layer message") == LINES_AT_ONCE

    async def test_a_notice_of_the_layer_is_ignored_where_nobody_handles_it(
        self, layer: InMemoryChannelLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with WebsocketCommunicator(Room.as_asgi(), "/") as client:
            await client.connect()
            layer.local.announce(list(layer.local.channels), LayerEvent(type="layer.reconnected", generation=2))

            assert await client.receive_nothing(timeout=0)
        assert caplog.text == ""

    async def test_a_notice_of_the_layer_reaches_its_handler(self, layer: InMemoryChannelLayer) -> None:
        class Resyncing(Room):
            async def layer_reconnected(self, event: Any) -> None:
                await self.send(text_data="resync")

        async with WebsocketCommunicator(Resyncing.as_asgi(), "/") as client:
            await client.connect()
            layer.local.announce(list(layer.local.channels), LayerEvent(type="layer.reconnected", generation=2))

            assert await client.receive_from() == "resync"


def test_handlers_of_a_sync_consumer_are_plain_functions() -> None:
    class Mixed(SyncConsumer):
        def plain(self, event: Any) -> None: ...

        async def coroutine(self, event: Any) -> None: ...

    assert Mixed.message_handlers() == {"plain"}


def test_a_consumer_says_what_the_layer_may_call() -> None:
    assert Room.message_handlers() == {"chat_message", "chat_new_message", "with_default"}
