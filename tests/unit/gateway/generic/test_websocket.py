"""The generic WebSocket consumers, asynchronous and synchronous: the behaviour of channels.generic.websocket."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

from gateway.exceptions import AcceptConnection, DenyConnection, InvalidChannelLayerError
from gateway.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from gateway.layers import InMemoryChannelLayer
from gateway.testing import WebsocketCommunicator


def consumer(*, sync: bool, json: bool = False, base: type | None = None, **methods: Any) -> Any:
    """A consumer class whose methods are given as functions that return what is to be called with `self`.

    `connect=lambda self: [self.accept, ()]` would be tedious twice: a method here is a generator function that yields
    the calls to make, which are awaited where the consumer is asynchronous.
    """
    bases = {
        (True, False): WebsocketConsumer,
        (False, False): AsyncWebsocketConsumer,
        (True, True): JsonWebsocketConsumer,
        (False, True): AsyncJsonWebsocketConsumer,
    }

    def both(function: Any) -> Any:
        if not callable(function):
            return function
        if sync:

            def method(self: Any, *args: Any, **kwargs: Any) -> None:
                for _ in function(self, *args, **kwargs) or ():
                    pass

            return method

        async def coroutine(self: Any, *args: Any, **kwargs: Any) -> None:
            for call in function(self, *args, **kwargs) or ():
                await call

        return coroutine

    return type("Subject", (bases[sync, json],), {name: both(value) for name, value in methods.items()})


@pytest.fixture(params=[False, True], ids=["async", "sync"])
def sync(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_a_connection_is_accepted_unless_connect_is_overridden(sync: bool) -> None:
    async with WebsocketCommunicator(consumer(sync=sync).as_asgi(), "/") as client:
        assert await client.connect() == (True, None)


async def test_accept_may_choose_a_subprotocol_and_add_headers(sync: bool) -> None:
    def connect(self: Any) -> Any:
        yield self.accept(subprotocol="v2", headers=[(b"x-room", b"1")])

    async with WebsocketCommunicator(
        consumer(sync=sync, connect=connect).as_asgi(), "/", subprotocols=["v2"]
    ) as client:
        assert await client.connect() == (True, "v2")
        assert client.response_headers == [(b"x-room", b"1")]


async def test_accept_without_headers_sends_none(sync: bool) -> None:
    client = WebsocketCommunicator(consumer(sync=sync).as_asgi(), "/")
    await client.send_input({"type": "websocket.connect"})

    assert await client.receive_output() == {"type": "websocket.accept", "subprotocol": None}
    await client.stop()


async def test_close_before_accept_refuses(sync: bool) -> None:
    def connect(self: Any) -> Any:
        yield self.close(code=4001)

    async with WebsocketCommunicator(consumer(sync=sync, connect=connect).as_asgi(), "/") as client:
        assert await client.connect() == (False, 4001)


async def test_deny_lets_the_client_see_the_code(sync: bool) -> None:
    def connect(self: Any) -> Any:
        yield self.deny(4401, "who are you?")

    async with WebsocketCommunicator(consumer(sync=sync, connect=connect).as_asgi(), "/") as client:
        assert await client.connect() == (True, None)
        assert await client.receive_output() == {"type": "websocket.close", "code": 4401, "reason": "who are you?"}


async def test_deny_with_answers_the_handshake_by_an_http_response(sync: bool) -> None:
    def connect(self: Any) -> Any:
        yield self.deny_with(401, [(b"www-authenticate", b"Bearer")], b"who are you?", log_reason="no token")
        yield self.send(text_data="nobody is there any more")

    client = WebsocketCommunicator(consumer(sync=sync, connect=connect).as_asgi(), "/")
    client.scope["extensions"] = {"websocket.http.response": {}}
    async with client:
        await client.send_input({"type": "websocket.connect"})

        assert await client.receive_output() == {
            "type": "websocket.http.response.start",
            "status": 401,
            "headers": [(b"www-authenticate", b"Bearer")],
            "log_reason": "no token",
        }
        assert await client.receive_output() == {"type": "websocket.http.response.body", "body": b"who are you?"}
        assert await client.receive_nothing(timeout=0)


async def test_deny_with_is_a_plain_refusal_where_the_server_sends_no_response(sync: bool) -> None:
    def connect(self: Any) -> Any:
        yield self.deny_with(401, log_reason="no token")

    client = WebsocketCommunicator(consumer(sync=sync, connect=connect).as_asgi(), "/")
    client.scope["extensions"] = {}
    async with client:
        await client.send_input({"type": "websocket.connect"})

        assert await client.receive_output() == {"type": "websocket.close", "reason": "no token"}


@pytest.mark.parametrize(("exception", "answer"), [(AcceptConnection, (True, None)), (DenyConnection, (False, 1000))])
async def test_connect_of_a_websocket_may_answer_by_raising(
    sync: bool, exception: type[Exception], answer: Any
) -> None:
    def connect(self: Any) -> Any:
        raise exception

    async with WebsocketCommunicator(consumer(sync=sync, connect=connect).as_asgi(), "/") as client:
        assert await client.connect() == answer


async def test_frames_are_received_and_sent_as_they_are(sync: bool) -> None:
    def receive(self: Any, text_data: Any = None, bytes_data: Any = None) -> Any:
        yield self.send(text_data=text_data, bytes_data=bytes_data)

    async with WebsocketCommunicator(consumer(sync=sync, receive=receive).as_asgi(), "/") as client:
        await client.connect()
        for frame in ("hello", ""):
            await client.send_to(text_data=frame)
            assert await client.receive_from() == frame
        await client.send_to(bytes_data=b"\x00\xff")
        assert await client.receive_from() == b"\x00\xff"


async def test_sending_nothing_is_an_error(sync: bool) -> None:
    def receive(self: Any, text_data: Any = None, bytes_data: Any = None) -> Any:
        yield self.send()

    client = WebsocketCommunicator(consumer(sync=sync, receive=receive).as_asgi(), "/")
    await client.connect()
    await client.send_to("x")
    with pytest.raises(ValueError, match="You must pass one of bytes_data or text_data"):
        await client.wait()


@pytest.mark.parametrize(
    ("close", "event"),
    [(True, {"type": "websocket.close"}), (4000, {"type": "websocket.close", "code": 4000})],
)
async def test_send_may_close_after_the_frame(sync: bool, close: Any, event: dict[str, Any]) -> None:
    def receive(self: Any, text_data: Any = None, bytes_data: Any = None) -> Any:
        yield self.send(text_data="bye", close=close)

    async with WebsocketCommunicator(consumer(sync=sync, receive=receive).as_asgi(), "/") as client:
        await client.connect()
        await client.send_to("x")
        assert await client.receive_from() == "bye"
        assert await client.receive_output() == event


async def test_close_may_give_a_reason(sync: bool) -> None:
    def receive(self: Any, text_data: Any = None, bytes_data: Any = None) -> Any:
        yield self.close(4000, "enough")

    async with WebsocketCommunicator(consumer(sync=sync, receive=receive).as_asgi(), "/") as client:
        await client.connect()
        await client.send_to("x")
        assert await client.receive_output() == {"type": "websocket.close", "code": 4000, "reason": "enough"}


async def test_disconnect_gets_the_code(sync: bool) -> None:
    codes = []

    def disconnect(self: Any, code: int) -> Any:
        codes.append(code)
        return ()

    async with WebsocketCommunicator(consumer(sync=sync, disconnect=disconnect).as_asgi(), "/") as client:
        await client.connect()
        await client.disconnect(code=4321)

    assert codes == [4321]


async def test_groups_are_joined_before_connect_and_left_at_the_end(sync: bool, layer: InMemoryChannelLayer) -> None:
    members = []

    def connect(self: Any) -> Any:
        members.append(list(layer.groups["room"]) == [self.channel_name])
        yield self.accept()

    subject = consumer(sync=sync, connect=connect, groups=["room"])
    async with WebsocketCommunicator(subject.as_asgi(), "/") as client:
        await client.connect()

    assert members == [True]
    assert layer.groups == {}


async def test_a_test_finds_the_channel_in_the_layer(sync: bool, layer: InMemoryChannelLayer) -> None:
    def greet(self: Any, event: Any) -> Any:
        yield self.send("hello")

    async with WebsocketCommunicator(consumer(sync=sync, greet=greet).as_asgi(), "/") as client:
        await client.connect()
        [channel] = layer.channels
        await layer.send(channel, {"type": "greet"})
        assert await client.receive_from() == "hello"
    assert layer.channels == {}


async def test_groups_without_a_layer_are_an_error(sync: bool, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {}
    client = WebsocketCommunicator(consumer(sync=sync, groups=["room"]).as_asgi(), "/")

    with pytest.raises(InvalidChannelLayerError, match="BACKEND is unconfigured or doesn't support groups"):
        await client.connect()


async def test_an_attribute_error_in_connect_is_told_as_what_it_is(sync: bool, layer: InMemoryChannelLayer) -> None:
    def connect(self: Any) -> Any:
        yield self.no_such_method()

    client = WebsocketCommunicator(consumer(sync=sync, connect=connect, groups=["room"]).as_asgi(), "/")

    with pytest.raises(AttributeError, match="no_such_method"):
        await client.connect()


async def test_sending_after_the_close_does_nothing_but_count(sync: bool) -> None:
    def sends() -> float:
        labels = {"protocol": "websocket"}
        return REGISTRY.get_sample_value("gateway_consumer_sends_after_close_total", labels) or 0

    def receive(self: Any, text_data: Any = None, bytes_data: Any = None) -> Any:
        yield self.close()
        yield self.send(text_data="too late")
        yield self.close()

    before = sends()
    async with WebsocketCommunicator(consumer(sync=sync, receive=receive).as_asgi(), "/") as client:
        await client.connect()
        await client.send_to("x")
        assert await client.receive_output() == {"type": "websocket.close"}
        assert await client.receive_nothing(timeout=0.01)

    assert sends() == before + 2


async def test_sending_in_disconnect_does_nothing(sync: bool) -> None:
    def disconnect(self: Any, code: int) -> Any:
        yield self.send(text_data="too late")

    async with WebsocketCommunicator(consumer(sync=sync, disconnect=disconnect).as_asgi(), "/") as client:
        await client.connect()
        await client.disconnect()
        assert client.output_queue.empty()


async def test_a_server_that_says_that_the_client_has_gone_is_no_error(sync: bool) -> None:
    def receive(self: Any, text_data: Any = None, bytes_data: Any = None) -> Any:
        yield self.send(text_data="one")
        yield self.send(text_data="two")

    application = consumer(sync=sync, receive=receive).as_asgi()

    async def leaving(scope: Any, receive: Any, send: Any) -> None:
        async def refusing(event: Any) -> None:
            if event["type"] == "websocket.send":
                raise ConnectionResetError("gone")
            await send(event)

        await application(scope, receive, refusing)

    async with WebsocketCommunicator(leaving, "/") as client:
        await client.connect()
        await client.send_to("x")
        assert await client.receive_nothing(timeout=0.01)


async def test_an_instance_may_serve_one_connection_after_the_other(sync: bool) -> None:
    def receive(self: Any, text_data: Any = None, bytes_data: Any = None) -> Any:
        yield self.send(text_data=text_data, close=True)

    application = consumer(sync=sync, receive=receive)()
    for text in ("one", "two"):
        async with WebsocketCommunicator(application, "/") as client:
            await client.connect()
            await client.send_to(text)
            assert await client.receive_from() == text


async def test_private_names_are_left_to_subclasses(sync: bool) -> None:
    def receive(self: Any, text_data: Any = None, bytes_data: Any = None) -> Any:
        self._closed = self._inbox = self._task = text_data
        yield self.send(self._inbox)

    def _send_event(self: Any) -> Any:
        raise AssertionError("is nobody else's to call")

    subject = consumer(sync=sync, receive=receive, _send_event=_send_event)
    async with WebsocketCommunicator(subject.as_asgi(), "/") as client:
        await client.connect()
        for text in ("one", "two"):
            await client.send_to(text)
            assert await client.receive_from() == text


class TestJson:
    async def test_frames_are_decoded_and_encoded(self, sync: bool) -> None:
        def receive_json(self: Any, content: Any) -> Any:
            yield self.send_json({"got": content})

        async with WebsocketCommunicator(
            consumer(sync=sync, json=True, receive_json=receive_json).as_asgi(), "/"
        ) as client:
            await client.connect()
            await client.send_json_to({"value": [1, None]})
            assert await client.receive_json_from() == {"got": {"value": [1, None]}}

    @pytest.mark.parametrize("frame", [{"bytes": b"{}"}, {"text": ""}])
    async def test_a_frame_without_text_is_an_error(self, sync: bool, frame: dict[str, Any]) -> None:
        client = WebsocketCommunicator(consumer(sync=sync, json=True).as_asgi(), "/")
        await client.connect()
        await client.send_input({"type": "websocket.receive", **frame})
        with pytest.raises(ValueError, match="No text section for incoming WebSocket frame!"):
            await client.wait()

    async def test_send_json_may_close(self, sync: bool) -> None:
        def receive_json(self: Any, content: Any) -> Any:
            yield self.send_json("bye", close=True)

        async with WebsocketCommunicator(
            consumer(sync=sync, json=True, receive_json=receive_json).as_asgi(), "/"
        ) as client:
            await client.connect()
            await client.send_json_to(None)
            assert await client.receive_json_from() == "bye"
            assert await client.receive_output() == {"type": "websocket.close"}

    async def test_send_may_be_overridden_by_one_that_calls_send_json(self, sync: bool) -> None:
        def receive_json(self: Any, content: Any) -> Any:
            yield self.send(content)

        def send(self: Any, content: Any) -> Any:
            yield self.send_json({"wrapped": content})

        async with WebsocketCommunicator(
            consumer(sync=sync, json=True, receive_json=receive_json, send=send).as_asgi(), "/"
        ) as client:
            await client.connect()
            await client.send_json_to(1)
            assert await client.receive_json_from() == {"wrapped": 1}

    async def test_the_coding_may_be_overridden_by_coroutines(self) -> None:
        class Shouting(AsyncJsonWebsocketConsumer):
            async def receive_json(self, content: Any, **kwargs: Any) -> None:
                await self.send_json(content)

            @classmethod
            async def decode_json(cls, text_data: str) -> Any:
                return text_data

            @classmethod
            async def encode_json(cls, content: Any) -> str:
                return str(content).upper()

        async with WebsocketCommunicator(Shouting.as_asgi(), "/") as client:
            await client.connect()
            await client.send_to("hello")
            assert await client.receive_from() == "HELLO"
