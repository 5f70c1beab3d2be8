"""Several consumers over one WebSocket: each ready, closed and disconnected by itself."""

import asyncio
from typing import Any, ClassVar

import pytest

from gateway.exceptions import DenyConnection
from gateway.generic.multiplex import AsyncJsonWebsocketDemultiplexer
from gateway.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from gateway.layers import InMemoryChannelLayer
from gateway.testing import WebsocketCommunicator


class Echo(AsyncJsonWebsocketConsumer):
    groups = ["echo"]
    disconnects: ClassVar[list[int]] = []

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if content == "close":
            await self.close(4001, "asked to")
        elif content == "fail":
            raise ZeroDivisionError
        else:
            await self.send_json({"echo": content})

    async def news(self, event: Any) -> None:
        await self.send(text_data=event["text"])

    async def disconnect(self, code: int) -> None:
        self.disconnects.append(code)


class Upper(JsonWebsocketConsumer):
    disconnects: ClassVar[list[int]] = []

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.send_json(content.upper())

    def disconnect(self, code: int) -> None:
        self.disconnects.append(code)


class Both(AsyncJsonWebsocketDemultiplexer):
    applications = {"echo": Echo, "upper": Upper.as_asgi()}


@pytest.fixture(autouse=True)
def forget_disconnects() -> None:
    Echo.disconnects.clear()
    Upper.disconnects.clear()


async def become_ready(client: WebsocketCommunicator, *names: str) -> None:
    assert (await client.connect())[0]
    frames = [await client.receive_json_from() for _ in names]
    assert sorted(frame["stream"] for frame in frames) == sorted(names)
    assert all(frame["ready"] for frame in frames)


async def test_each_stream_says_when_it_is_ready(served: Any, layer: InMemoryChannelLayer) -> None:
    async with WebsocketCommunicator(served(Both.as_asgi()), "/") as client:
        await become_ready(client, "echo", "upper")

        assert list(layer.groups) == ["echo"]


async def test_a_frame_goes_to_its_stream_and_the_answer_says_where_it_is_from(served: Any, layer: Any) -> None:
    async with WebsocketCommunicator(served(Both.as_asgi()), "/") as client:
        await become_ready(client, "echo", "upper")

        await client.send_json_to({"stream": "upper", "payload": "abc"})
        assert await client.receive_json_from() == {"stream": "upper", "payload": "ABC"}
        await client.send_json_to({"stream": "echo", "payload": [1]})
        assert await client.receive_json_from() == {"stream": "echo", "payload": {"echo": [1]}}


async def test_a_frame_that_comes_early_waits_until_its_stream_is_ready(served: Any) -> None:
    class Slow(Echo):
        groups = []

        async def connect(self) -> None:
            await asyncio.sleep(0.02)
            await self.accept()

    class Demultiplexer(AsyncJsonWebsocketDemultiplexer):
        applications = {"slow": Slow}

    async with WebsocketCommunicator(served(Demultiplexer.as_asgi()), "/") as client:
        await client.connect()
        await client.send_json_to({"stream": "slow", "payload": 1})

        assert await client.receive_json_from() == {"stream": "slow", "ready": True}
        assert await client.receive_json_from() == {"stream": "slow", "payload": {"echo": 1}}


async def test_each_consumer_has_its_own_channel_and_groups(served: Any, layer: InMemoryChannelLayer) -> None:
    async with WebsocketCommunicator(served(Both.as_asgi()), "/") as client:
        await become_ready(client, "echo", "upper")

        await layer.group_send("echo", {"type": "news", "text": '{"x": 1}'})

        assert await client.receive_json_from() == {"stream": "echo", "payload": {"x": 1}}


async def test_the_frame_of_a_group_message_is_made_once(served: Any, layer: InMemoryChannelLayer) -> None:
    one = WebsocketCommunicator(served(Both.as_asgi()), "/")
    two = WebsocketCommunicator(served(Both.as_asgi()), "/")
    async with one, two:
        await become_ready(one, "echo", "upper")
        await become_ready(two, "echo", "upper")

        await layer.group_send("echo", {"type": "news", "text": "[1, 2]"})

        assert await one.receive_from() is await two.receive_from()


async def test_all_consumers_are_disconnected_once_when_the_client_leaves(served: Any, layer: Any) -> None:
    async with WebsocketCommunicator(served(Both.as_asgi()), "/") as client:
        await become_ready(client, "echo", "upper")
        await client.disconnect(1001)

    assert (Echo.disconnects, Upper.disconnects) == ([1001], [1001])
    assert layer.groups == {}


async def test_every_stream_is_told_when_the_server_cancels(served: Any, layer: Any) -> None:
    client = WebsocketCommunicator(served(Both.as_asgi()), "/")
    await become_ready(client, "echo", "upper")
    await client.stop()

    assert (Echo.disconnects, Upper.disconnects) == ([1012], [1012])
    assert layer.groups == {}


async def test_a_stream_may_close_and_the_others_go_on(served: Any, layer: InMemoryChannelLayer) -> None:
    async with WebsocketCommunicator(served(Both.as_asgi()), "/") as client:
        await become_ready(client, "echo", "upper")

        await client.send_json_to({"stream": "echo", "payload": "close"})
        assert await client.receive_json_from() == {"stream": "echo", "closed": 4001, "reason": "asked to"}
        await client.send_json_to({"stream": "echo", "payload": "more"})
        assert await client.receive_json_from() == {"stream": "echo", "error": "no such stream"}
        await client.send_json_to({"stream": "upper", "payload": "still"})
        assert await client.receive_json_from() == {"stream": "upper", "payload": "STILL"}

    assert Echo.disconnects == [4001]


async def test_a_consumer_that_fails_closes_its_stream_only(served: Any, layer: Any, caplog: Any) -> None:
    async with WebsocketCommunicator(served(Both.as_asgi()), "/") as client:
        await become_ready(client, "echo", "upper")

        await client.send_json_to({"stream": "echo", "payload": "fail"})
        assert await client.receive_json_from() == {"stream": "echo", "closed": 1011, "reason": ""}
        await client.send_json_to({"stream": "upper", "payload": "still"})
        assert await client.receive_json_from() == {"stream": "upper", "payload": "STILL"}

    assert Echo.disconnects == [1011]
    assert "application raised" in caplog.text


async def test_the_connection_closes_with_its_last_stream(served: Any) -> None:
    class Refusing(AsyncJsonWebsocketConsumer):
        async def connect(self) -> None:
            raise DenyConnection

    class Demultiplexer(AsyncJsonWebsocketDemultiplexer):
        applications = {"no": Refusing}

    async with WebsocketCommunicator(served(Demultiplexer.as_asgi()), "/") as client:
        await client.connect()

        assert await client.receive_json_from() == {"stream": "no", "closed": 1000, "reason": ""}
        assert await client.receive_output() == {"type": "websocket.close", "code": 1000}


async def test_no_stream_starts_on_a_connection_that_was_refused(served: Any) -> None:
    class Demultiplexer(Both):
        async def connect(self) -> None:
            await self.close()

    async with WebsocketCommunicator(served(Demultiplexer.as_asgi()), "/") as client:
        assert await client.connect() == (False, 1000)

        assert await client.receive_nothing(0.02)


@pytest.mark.parametrize(
    "frame", ["no JSON", "[]", '{"payload": 1}', '{"stream": "echo"}', '{"stream": [], "payload": 1}']
)
async def test_a_frame_of_another_form_closes_the_connection(served: Any, layer: Any, frame: str) -> None:
    async with WebsocketCommunicator(served(Both.as_asgi()), "/") as client:
        await become_ready(client, "echo", "upper")
        await client.send_to(text_data=frame)

        assert (await client.receive_output())["code"] == 1007


async def test_a_consumer_that_does_not_keep_up_holds_back_the_connection(served: Any) -> None:
    go_on = asyncio.Event()

    class Slow(AsyncJsonWebsocketConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await go_on.wait()

    class Demultiplexer(AsyncJsonWebsocketDemultiplexer):
        applications = {"slow": Slow, "upper": Upper}

    async with WebsocketCommunicator(served(Demultiplexer.as_asgi()), "/") as client:
        await become_ready(client, "slow", "upper")
        for _ in range(4):
            await client.send_json_to({"stream": "slow", "payload": "x" * 200_000})
        await client.send_json_to({"stream": "upper", "payload": "behind it"})

        assert await client.receive_nothing(0.05)
        go_on.set()
        assert await client.receive_json_from() == {"stream": "upper", "payload": "BEHIND IT"}
