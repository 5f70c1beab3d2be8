"""AsyncHttpConsumer: whole responses, streams and long polling."""

import asyncio
from typing import Any

import pytest

from gateway.generic.http import AsyncHttpConsumer
from gateway.layers import InMemoryChannelLayer
from gateway.testing import HttpCommunicator


class Consumer(AsyncHttpConsumer):
    """Counts its disconnects."""

    disconnect_grace_s = 0
    disconnects = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.disconnects = 0

    async def disconnect(self) -> None:
        type(self).disconnects += 1


async def test_handle_gets_the_whole_body_and_answers(served: Any) -> None:
    class Echo(Consumer):
        async def handle(self, body: bytes) -> None:
            await self.send_response(201, b"got " + body, headers={b"content-type": b"text/plain"})

    request = HttpCommunicator(served(Echo.as_asgi()), "post", "/path?x=1")
    await request.send_input({"type": "http.request", "body": b"one ", "more_body": True})
    await request.send_input({"type": "http.request", "body": b"two", "more_body": False})

    assert await request.receive_output() == {
        "type": "http.response.start",
        "status": 201,
        "headers": [(b"content-type", b"text/plain")],
    }
    assert await request.receive_body() == (b"got one two", False)
    await request.wait()
    assert Echo.disconnects == 1


async def test_headers_may_be_pairs(served: Any) -> None:
    class Cookies(Consumer):
        async def handle(self, body: bytes) -> None:
            await self.send_response(200, b"", headers=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])

    response = await HttpCommunicator(served(Cookies.as_asgi()), "GET", "/").get_response()

    assert response == {"status": 200, "headers": [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")], "body": b""}


async def test_events_may_be_sent_as_they_are(served: Any) -> None:
    class Raw(Consumer):
        async def handle(self, body: bytes) -> None:
            await self.send({"type": "http.response.start", "status": 204})
            await self.send({"type": "http.response.body"})

    request = HttpCommunicator(served(Raw.as_asgi()), "GET", "/")

    assert await request.get_response() == {"status": 204, "headers": [], "body": b""}
    await request.wait()
    assert Raw.disconnects == 1


async def test_send_may_be_overridden(served: Any) -> None:
    class Signed(Consumer):
        async def handle(self, body: bytes) -> None:
            await self.send_response(200, b"answer")

        async def send(self, message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-signed", b"yes"))
            await super().send(message)

    response = await HttpCommunicator(served(Signed.as_asgi()), "GET", "/").get_response()

    assert response == {"status": 200, "headers": [(b"x-signed", b"yes")], "body": b"answer"}


async def test_a_body_of_str_is_an_error(served: Any) -> None:
    class Wrong(Consumer):
        async def handle(self, body: bytes) -> None:
            await self.send_response(200, "text")  # type: ignore[arg-type]

    request = HttpCommunicator(served(Wrong.as_asgi()), "GET", "/")
    with pytest.raises(AssertionError, match="Body is not bytes"):
        await request.get_response()
    assert Wrong.disconnects == 1


async def test_handle_is_to_be_overridden(served: Any) -> None:
    with pytest.raises(NotImplementedError, match="must provide a handle"):
        await HttpCommunicator(served(Consumer.as_asgi()), "GET", "/").get_response()


async def test_an_exception_in_handle_reaches_the_server_after_disconnect(served: Any) -> None:
    class Failing(Consumer):
        async def handle(self, body: bytes) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await HttpCommunicator(served(Failing.as_asgi()), "GET", "/").get_response()
    assert Failing.disconnects == 1


async def test_a_consumer_that_answers_nothing_ends(served: Any) -> None:
    class Silent(Consumer):
        async def handle(self, body: bytes) -> None:
            pass

    request = HttpCommunicator(served(Silent.as_asgi()), "GET", "/")
    await request.send_request()
    await request.wait()

    assert Silent.disconnects == 1


async def test_a_response_may_be_streamed(served: Any) -> None:
    class Streaming(Consumer):
        async def handle(self, body: bytes) -> None:
            await self.send_headers(status=200)
            for n in range(3):
                await self.send_body(b"%d" % n, more_body=True)
            await self.send_body(b"")

    assert (await HttpCommunicator(served(Streaming.as_asgi()), "GET", "/").get_response())["body"] == b"012"


class LongPoll(Consumer):
    async def handle(self, body: bytes) -> None:
        assert self.channel_layer is not None
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send_headers(status=200)
        await self.send_body(b"", more_body=True)

    async def chat_message(self, event: Any) -> None:
        await self.send_body(event["body"])


async def test_long_polling_a_later_message_completes_the_response(served: Any, layer: InMemoryChannelLayer) -> None:
    LongPoll.disconnects = 0
    request = HttpCommunicator(served(LongPoll.as_asgi()), "GET", "/")
    await request.send_request()
    assert (await request.receive_output())["status"] == 200
    assert await request.receive_body() == (b"", True)
    assert LongPoll.disconnects == 0

    await layer.group_send("room", {"type": "chat.message", "body": b"news"})

    assert await request.receive_body() == (b"news", False)
    await request.wait()
    assert LongPoll.disconnects == 1
    assert layer.local.channels == {}


async def test_long_polling_the_client_may_leave_before_the_response(served: Any, layer: InMemoryChannelLayer) -> None:
    LongPoll.disconnects = 0
    request = HttpCommunicator(served(LongPoll.as_asgi()), "GET", "/")
    await request.send_request()
    await request.receive_output()
    await request.disconnect()

    assert LongPoll.disconnects == 1
    assert layer.local.channels == {}


async def test_a_consumer_without_an_alias_takes_part_in_no_layer(served: Any, layer: InMemoryChannelLayer) -> None:
    class Apart(Consumer):
        channel_layer_alias = None

        async def handle(self, body: bytes) -> None:
            await self.send_response(200, f"{self.channel_layer} {len(layer.local.channels)}".encode())

    assert (await HttpCommunicator(served(Apart.as_asgi()), "GET", "/").get_response())["body"] == b"None 0"


async def test_an_endless_handle_is_cancelled_when_the_client_leaves(served: Any) -> None:
    class Endless(Consumer):
        async def handle(self, body: bytes) -> None:
            await self.send_headers()
            while True:
                await self.send_body(b"data", more_body=True)
                if not self._gateway_run.inbox.disconnected:
                    await asyncio.sleep(0)

    request = HttpCommunicator(served(Endless.as_asgi()), "GET", "/")
    await request.send_request()
    assert (await request.receive_output())["status"] == 200
    await request.disconnect()

    assert Endless.disconnects == 1


async def test_work_after_a_complete_response_is_not_interrupted(served: Any) -> None:
    left, done = asyncio.Event(), []

    class Afterwards(Consumer):
        async def handle(self, body: bytes) -> None:
            await self.send_response(200, b"ok")
            await left.wait()
            for _ in range(5):
                await asyncio.sleep(0)
            done.append(True)

    request = HttpCommunicator(served(Afterwards.as_asgi()), "GET", "/")
    assert (await request.get_response())["body"] == b"ok"
    await request.send_input({"type": "http.disconnect"})
    left.set()
    await request.wait()

    assert done == [True]
    assert Afterwards.disconnects == 1


async def test_a_body_over_the_limit_is_refused_with_413(served: Any) -> None:
    class Small(Consumer):
        max_body_bytes = 10

        async def handle(self, body: bytes) -> None:
            await self.send_response(200, body)

    request = HttpCommunicator(served(Small.as_asgi()), "POST", "/")
    await request.send_input({"type": "http.request", "body": b"12345678", "more_body": True})
    await request.send_input({"type": "http.request", "body": b"90a", "more_body": True})

    answer = await request.receive_output()
    assert (answer["status"], answer["log_reason"]) == (413, "a body has at most 10 bytes")
    assert await request.receive_body() == (b"a body has at most 10 bytes\n", False)
    await request.wait()
    assert Small.disconnects == 1
    assert (await HttpCommunicator(Small.as_asgi(), "POST", "/", body=b"1234567890").get_response())["status"] == 200


class Guarded(Consumer):
    """Refuses by the head alone who has no token, and larger bodies than 10 bytes."""

    max_body_bytes = 10

    async def before_body(self) -> None:
        if (b"token", b"right") not in self.scope["headers"]:
            await self.send_response(401, b"no token")

    async def body_too_large(self) -> None:
        await self.send_response(413, b"at most 10 bytes")

    async def handle(self, body: bytes) -> None:
        await self.send_response(200, body)


class TestWhatTheHeadDecides:
    async def test_an_answer_before_the_body_is_final(self, served: Any) -> None:
        Guarded.disconnects = 0
        request = HttpCommunicator(served(Guarded.as_asgi()), "POST", "/")

        assert (await request.receive_output())["status"] == 401  # and no part of the body has been sent
        assert await request.receive_body() == (b"no token", False)
        await request.wait()
        assert Guarded.disconnects == 1

    async def test_the_body_is_read_if_the_head_decides_nothing(self, served: Any) -> None:
        headers = [(b"token", b"right"), (b"content-length", b"4")]
        request = HttpCommunicator(served(Guarded.as_asgi()), "POST", "/", b"body", headers)

        assert await request.get_response() == {"status": 200, "headers": [], "body": b"body"}

    @pytest.mark.parametrize("length", [b"11", b"0011", b"9" * 5000])
    async def test_a_length_beyond_the_limit_is_refused_before_the_body_is_read(
        self, served: Any, length: bytes
    ) -> None:
        headers = [(b"token", b"right"), (b"content-length", length)]
        request = HttpCommunicator(served(Guarded.as_asgi()), "POST", "/", headers=headers)

        assert (await request.receive_output())["status"] == 413
        assert await request.receive_body() == (b"at most 10 bytes", False)
        await request.wait()

    async def test_a_failure_there_reaches_the_server_after_disconnect(self, served: Any) -> None:
        class Failing(Consumer):
            async def before_body(self) -> None:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await HttpCommunicator(served(Failing.as_asgi()), "GET", "/").get_response()
        assert Failing.disconnects == 1

    async def test_a_client_that_leaves_meanwhile_ends_it(self, served: Any) -> None:
        class Waiting(Consumer):
            async def before_body(self) -> None:
                await asyncio.Event().wait()

        request = HttpCommunicator(served(Waiting.as_asgi()), "GET", "/")
        await request.disconnect()

        assert Waiting.disconnects == 1
