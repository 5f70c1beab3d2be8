"""Server-sent events: the stream's bytes as WHATWG HTML, section 9.2, has them, and a consumer with groups."""

from typing import Any

import pytest

from gateway.exceptions import DenyConnection
from gateway.generic.sse import AsyncSseConsumer, encode_event
from gateway.layers import InMemoryChannelLayer
from gateway.testing import HttpCommunicator


class TestEncodeEvent:
    @pytest.mark.parametrize(
        ("arguments", "encoded"),
        [
            ({"data": "hello"}, b"data: hello\n\n"),
            ({"data": ""}, b"data: \n\n"),
            ({"data": "two\nlines"}, b"data: two\ndata: lines\n\n"),
            ({"data": "a\r\nb\rc"}, b"data: a\ndata: b\ndata: c\n\n"),
            (
                {"data": "x", "event": "reading", "id": "7", "retry": 3000},
                b"event: reading\nid: 7\nretry: 3000\ndata: x\n\n",
            ),
            ({"data": "gr\u00fc\u00df"}, "data: gr\u00fc\u00df\n\n".encode()),
            ({"data": "line\u2028separator"}, "data: line\u2028separator\n\n".encode()),
        ],
    )
    def test_an_event_has_each_field_on_a_line(self, arguments: dict[str, Any], encoded: bytes) -> None:
        assert encode_event(**arguments) == encoded

    @pytest.mark.parametrize("field", ["event", "id"])
    @pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
    def test_a_field_that_would_forge_another_is_refused(self, field: str, value: str) -> None:
        with pytest.raises(ValueError, match=f"the {field} of a server-sent event"):
            encode_event("x", **{field: value})


class Readings(AsyncSseConsumer):
    groups = ["readings"]

    async def reading(self, event: dict[str, Any]) -> None:
        await self.send_event(event["text"], event="reading", id=event.get("id"))

    async def finish(self, event: dict[str, Any]) -> None:
        await self.close()


async def test_a_client_is_accepted_at_once_and_gets_what_its_groups_are_sent(
    served: Any, layer: InMemoryChannelLayer
) -> None:
    request = HttpCommunicator(served(Readings.as_asgi()), "GET", "/")
    await request.send_request()
    start = await request.receive_output()
    assert start["status"] == 200
    assert (b"content-type", b"text/event-stream; charset=utf-8") in start["headers"]
    assert await request.receive_body() == (b":\n\n", True)

    await layer.group_send("readings", {"type": "reading", "text": "21.5", "id": "1"})
    assert await request.receive_body() == (b"event: reading\nid: 1\ndata: 21.5\n\n", True)

    await request.disconnect()
    assert layer.local.channels == {}


async def test_the_consumer_may_end_the_stream(served: Any, layer: InMemoryChannelLayer) -> None:
    request = HttpCommunicator(served(Readings.as_asgi()), "GET", "/")
    await request.send_request()
    await request.receive_output()
    await request.receive_body()
    await layer.group_send("readings", {"type": "finish"})

    assert await request.receive_body() == (b"", False)
    await request.wait()
    assert layer.local.channels == {}


async def test_a_comment_is_sent_from_time_to_time(served: Any, layer: InMemoryChannelLayer) -> None:
    class Lively(Readings):
        heartbeat_interval_s = 0.001

    request = HttpCommunicator(served(Lively.as_asgi()), "GET", "/")
    await request.send_request()
    await request.receive_output()

    for _ in range(3):
        assert await request.receive_body() == (b":\n\n", True)
    await request.disconnect()


async def test_connect_may_deny(served: Any, layer: InMemoryChannelLayer) -> None:
    class Denying(Readings):
        async def connect(self) -> None:
            raise DenyConnection

    response = await HttpCommunicator(served(Denying.as_asgi()), "GET", "/").get_response()

    assert response["status"] == 403


async def test_a_client_that_comes_back_says_what_it_has_seen(served: Any, layer: InMemoryChannelLayer) -> None:
    class Resuming(Readings):
        async def connect(self) -> None:
            await self.accept()
            await self.send_event(str(self.last_event_id))

    for headers, seen in (([(b"last-event-id", b"41")], b"41"), ([], b"None")):
        request = HttpCommunicator(served(Resuming.as_asgi()), "GET", "/", headers=headers)
        await request.send_request()
        await request.receive_output()
        await request.receive_body()
        assert await request.receive_body() == (b"data: " + seen + b"\n\n", True)
        await request.disconnect()
