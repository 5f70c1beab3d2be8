"""Topic handlers: patterns in the style of django.urls.path, found at class creation."""

import uuid
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from gateway.generic.mqtt import AsyncMqttConsumer, MqttConsumer, topic
from gateway.mqtt.topics import compile_topic
from gateway.testing import MqttCommunicator


class Device(AsyncMqttConsumer):
    """Answers with what its handlers were given."""

    async def connect(self, password: bytes | None) -> None:
        await self.accept()

    async def receive_publish(self, topic: str, payload: bytes, **how: Any) -> None:
        await self.publish("else", topic)

    @topic("v1/telemetry")
    @topic("v1/t")
    async def telemetry(self, event: Any) -> None:
        await self.publish("telemetry", event["topic"])

    @topic("v1/rpc/<int:request_id>")
    async def rpc(self, event: Any, request_id: int) -> None:
        await self.publish("rpc", repr(request_id))

    @topic("v1/rpc/<name>")
    async def named_rpc(self, event: Any, name: str) -> None:
        await self.publish("named rpc", name)

    @topic("firmware/<uuid:image>/chunk/<int:number>", route=False)
    async def chunk(self, event: Any, number: int, image: uuid.UUID) -> None:
        await self.publish("chunk", f"{image} {number}")

    @topic("raw/<path:rest>")
    async def raw(self, event: Any, **captures: Any) -> None:
        await self.publish("raw", captures["rest"])


@pytest.mark.parametrize(
    ("published", "handler", "given"),
    [
        ("v1/telemetry", "telemetry", "v1/telemetry"),
        ("v1/t", "telemetry", "v1/t"),
        ("v1/rpc/17", "rpc", "17"),
        ("v1/rpc/017", "rpc", "17"),
        ("v1/rpc/on", "named rpc", "on"),
        ("v1/rpc/", "else", "v1/rpc/"),
        ("v1/rpc/1/2", "else", "v1/rpc/1/2"),
        ("v1/telemetry/", "else", "v1/telemetry/"),
        ("/v1/telemetry", "else", "/v1/telemetry"),
        ("v1/telemetry\n", "else", "v1/telemetry\n"),
        (
            "firmware/b8a0b0a0-0000-4000-8000-000000000001/chunk/3",
            "chunk",
            "b8a0b0a0-0000-4000-8000-000000000001 3",
        ),
        ("raw/a/b//c", "raw", "a/b//c"),
    ],
)
async def test_a_publish_is_given_to_the_handler_of_its_topic(published: str, handler: str, given: str) -> None:
    async with MqttCommunicator(Device.as_asgi()) as client:
        await client.connect()
        await client.send_publish(published, b"")
        called = await client.receive_publish()

        assert (called["topic"], called["payload"].decode()) == (handler, given)


@pytest.mark.parametrize(
    ("published", "routed"), [("v1/t", True), ("firmware/b8a0b0a0-0000-4000-8000-000000000001/chunk/1", False)]
)
async def test_a_handler_says_whether_other_subscribers_get_the_message(published: str, routed: bool) -> None:
    async with MqttCommunicator(Device.as_asgi()) as client:
        await client.connect()
        await client.send_publish(published, b"")
        await client.receive_publish()

        assert (await client.receive_ack()).get("route", True) is routed


async def test_a_subclass_may_override_a_handler_and_add_others() -> None:
    class Newer(Device):
        @topic("v2/telemetry")
        async def telemetry(self, event: Any) -> None:
            await self.publish("newer", event["topic"])

    async with MqttCommunicator(Newer.as_asgi()) as client:
        await client.connect()
        await client.send_publish("v2/telemetry", b"")
        assert (await client.receive_publish())["topic"] == "newer"
        await client.receive_ack()
        await client.send_publish("v1/telemetry", b"")
        assert (await client.receive_publish())["topic"] == "else"
        await client.receive_ack()
        await client.send_publish("v1/rpc/1", b"")
        assert (await client.receive_publish())["topic"] == "rpc"


class TestFaultsAreFoundWhenTheClassIsMade:
    def test_one_topic_with_two_handlers(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"the topic 'a' is that of .*first already"):

            class Subject(AsyncMqttConsumer):
                @topic("a")
                async def first(self, event: Any) -> None: ...

                @topic("a")
                async def second(self, event: Any) -> None: ...

    def test_placeholders_that_the_method_does_not_take(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="handler does not fit the topic 'a/<int:n>'"):

            class Subject(AsyncMqttConsumer):
                @topic("a/<int:n>")
                async def handler(self, event: Any) -> None: ...

    def test_a_plain_function_in_an_asynchronous_consumer(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="must be a coroutine function"):

            class Subject(AsyncMqttConsumer):
                @topic("a")
                def handler(self, event: Any) -> None: ...

    def test_a_coroutine_function_in_a_synchronous_consumer(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="must be a plain function"):

            class Subject(MqttConsumer):
                @topic("a")
                async def handler(self, event: Any) -> None: ...

    @pytest.mark.parametrize("pattern", ["", "a/+", "a/#", "a/<int:n", "a>b"])
    def test_what_no_topic_can_be(self, pattern: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="a topic has no wildcards"):
            compile_topic(pattern)

    def test_an_unknown_converter(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="invalid converter 'float'"):
            compile_topic("a/<float:value>")

    @pytest.mark.parametrize("pattern", ["<int:1st>", "<a>/<a>"])
    def test_a_placeholder_that_cannot_be_an_argument(self, pattern: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="is not a name, or used more than once"):
            compile_topic(pattern)
