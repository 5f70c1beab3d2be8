"""A WebSocket as an ASGI application sees it, and what its client sees meanwhile."""

import asyncio
from typing import Any, Final

import pytest
from prometheus_client import REGISTRY

from protocols.asgi import Event, Receive, Scope, Send
from protocols.http.websocket_connection import SLICE_BYTES, WebSocketConnection
from protocols.runner import ClientDisconnectedError
from protocols.server import Tunnel
from tests.support.wire import Client, Recorder, masked

UPGRADE = (
    b"GET /ws?q=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: one, two\r\n\r\n"
)


def counter(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def close_code(frame: bytes) -> int:
    assert frame[0] == 0x88, frame
    return int.from_bytes(frame[2:4], "big")


class Accepted:
    """A client whose WebSocket the application has accepted."""

    def __init__(self, **options: Any) -> None:
        self.app = Recorder()
        self.client = Client(self.app, **options)

    async def __aenter__(self) -> "Accepted":
        await self.client.send(UPGRADE)
        await self.app.send({"type": "websocket.accept"})
        assert (await self.client.receive()).startswith(b"HTTP/1.1 101 ")
        self.app.events.clear()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.leave()

    async def send(self, data: bytes) -> bytes:
        return await self.client.send(data)

    def disconnects(self) -> list[tuple[int, str]]:
        return [(event["code"], event["reason"]) for event in self.app.events if event["type"].endswith("disconnect")]


async def opened(path: str, **options: Any) -> Client:
    """A WebSocket of either kind: one of the application, or a tunnel."""

    async def accept(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    client = Client(accept, tunnels={"/tunnel": Tunnel("one", asyncio.Protocol)}, **options)
    assert (await client.send(UPGRADE.replace(b"/ws", path.encode()))).startswith(b"HTTP/1.1 101 ")
    return client


class TestHandshake:
    async def test_the_application_is_asked_before_the_client_is_answered(self) -> None:
        app = Recorder()
        client = Client(app)
        assert await client.send(UPGRADE) == b""

        scope = app.scopes[0]
        assert (scope["type"], scope["scheme"], scope["path"], scope["query_string"]) == (
            "websocket",
            "ws",
            "/ws",
            b"q=1",
        )
        assert scope["subprotocols"] == ["one", "two"]
        assert app.events == [{"type": "websocket.connect"}]

        await app.send({"type": "websocket.accept", "subprotocol": "two", "headers": [(b"a", b"b")]})
        response = await client.receive()
        assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in response
        assert b"sec-websocket-protocol: two\r\n" in response
        assert b"a: b\r\n" in response
        assert b"extensions" not in response
        await client.leave()

    async def test_frames_that_come_too_early_wait(self) -> None:
        app = Recorder()
        client = Client(app)
        await client.send(UPGRADE + masked(0x81, b"early")[:4])
        await client.send(masked(0x81, b"early")[4:])
        await app.send({"type": "websocket.accept"})
        await client.receive()

        assert app.events[-1] == {"type": "websocket.receive", "text": "early"}
        await client.leave()

    async def test_a_close_instead_of_an_answer_is_403(self) -> None:
        app = Recorder()
        client = Client(app)
        await client.send(UPGRADE)
        await app.send({"type": "websocket.close", "code": 4001})

        assert (await client.receive()).startswith(b"HTTP/1.1 403 ")
        assert client.closed
        assert [event["type"] for event in app.events] == ["websocket.connect", "websocket.disconnect"]
        assert app.finished == 1

    async def test_the_application_can_answer_with_a_response_of_its_own(self) -> None:
        app = Recorder()
        client = Client(app)
        await client.send(UPGRADE)
        assert "websocket.http.response" in app.scopes[0]["extensions"]
        headers = [(b"content-type", b"text/plain")]
        await app.send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await app.send({"type": "websocket.http.response.body", "body": b"not ", "more_body": True})
        await app.send({"type": "websocket.http.response.body", "body": b"you"})

        response = await client.receive()
        assert response.startswith(b"HTTP/1.1 401 ")
        assert response.endswith(b"\r\n\r\nnot you")
        assert client.closed

    async def test_a_failing_application_is_500(self, caplog: pytest.LogCaptureFixture) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            raise LookupError

        assert (await Client(application).send(UPGRADE)).startswith(b"HTTP/1.1 500 ")

    async def test_an_application_that_returns_without_an_answer_is_500(self, caplog: pytest.LogCaptureFixture) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            pass

        assert (await Client(application).send(UPGRADE)).startswith(b"HTTP/1.1 500 ")
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
            (
                "ERROR",
                "refused websocket /ws from 192.0.2.7:4711 with 500: application_error: the application gave no answer",
            )
        ]

    async def test_a_subprotocol_that_was_not_offered_is_an_error_of_the_application(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.accept", "subprotocol": "three"})

        assert (await Client(application).send(UPGRADE)).startswith(b"HTTP/1.1 500 ")
        assert "'three' was not offered" in caplog.text

    async def test_an_application_that_never_answers_is_503(self) -> None:
        app = Recorder()
        client = Client(app, websocket_handshake_timeout_s=10)
        await client.send(UPGRADE)
        assert await client.wait(9) == b""

        assert (await client.wait(2)).startswith(b"HTTP/1.1 503 ")
        assert [event["type"] for event in app.events] == ["websocket.connect", "websocket.disconnect"]

    async def test_a_client_that_leaves_before_the_answer_is_told_of_once(self) -> None:
        app = Recorder()
        client = Client(app)
        await client.send(UPGRADE)
        await client.leave()

        assert app.events[1:] == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]
        with pytest.raises(ClientDisconnectedError):
            await app.send({"type": "websocket.accept"})

    @pytest.mark.parametrize(
        ("old", "new", "status"),
        [
            (b"Version: 13", b"Version: 12", b"426"),
            (b"Sec-WebSocket-Key", b"X", b"400"),
            (b"GET", b"POST", b"400"),
            (b"Host: x", b"Host: x\r\nContent-Length: 3", b"400"),
        ],
    )
    async def test_a_bad_one_never_reaches_the_application(self, old: bytes, new: bytes, status: bytes) -> None:
        app = Recorder()
        client = Client(app)
        response = await client.send(UPGRADE.replace(old, new, 1))

        assert response.split(b" ")[1] == status
        assert app.scopes == []


class TestMessages:
    async def test_come_in_as_text_or_bytes_empty_ones_too(self) -> None:
        async with Accepted() as it:
            await it.send(masked(0x81, "grün".encode()) + masked(0x82, b"\0") + masked(0x81) + masked(0x82))

            assert it.app.events == [
                {"type": "websocket.receive", "text": "grün"},
                {"type": "websocket.receive", "bytes": b"\0"},
                {"type": "websocket.receive", "text": ""},
                {"type": "websocket.receive", "bytes": b""},
            ]

    async def test_messages_may_come_in_fragments_and_in_pieces_of_one_byte(self) -> None:
        async with Accepted() as it:
            for byte in masked(0x01, b"ab") + masked(0x89, b"x") + masked(0x80, b"cd"):
                await it.send(bytes((byte,)))

            assert it.app.events == [{"type": "websocket.receive", "text": "abcd"}]

    async def test_messages_of_one_loop_pass_go_out_in_one_write(self) -> None:
        async with Accepted() as it:
            writes = it.client.transport.writes
            for event in ({"text": "a"}, {"bytes": b"b"}, {"text": None, "bytes": b""}):
                await it.app.send({"type": "websocket.send", **event})

            assert await it.client.receive() == b"\x81\x01a\x82\x01b\x82\x00"
            assert it.client.transport.writes == writes + 1

    async def test_wait_for_a_client_that_is_slow_and_end_with_it(self, caplog: pytest.LogCaptureFixture) -> None:
        async with Accepted(write_timeout_s=20) as it:
            it.client.transport.protocol.pause_writing()  # type: ignore[union-attr]
            sending = asyncio.create_task(it.app.send({"type": "websocket.send", "text": "x"}))  # type: ignore[arg-type]
            await it.client.receive()
            assert not sending.done()
            await it.client.wait(21)

            assert it.client.transport.aborted
            assert it.disconnects() == [(1006, "")]
            with pytest.raises(ClientDisconnectedError):
                await sending

    async def test_many_in_one_read_fill_the_inbox_no_more_than_a_slice(self) -> None:
        gate = asyncio.Event()
        received: list[Event] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await gate.wait()
            while (event := await receive())["type"] == "websocket.receive":
                received.append(event)

        client = Client(application)
        await client.send(UPGRADE)
        count = 10 * SLICE_BYTES // 7
        await client.send(masked(0x81, b"x") * count)
        inbox = client.transport.protocol.inbox  # type: ignore[union-attr]
        assert client.transport.reading_paused
        assert len(inbox._events) < 2 * SLICE_BYTES / 7

        gate.set()
        for _ in range(40):
            await client.receive()
        assert len(received) == count
        assert not client.transport.reading_paused
        await client.leave()

    async def test_one_without_content_is_an_error_of_the_application(self) -> None:
        async with Accepted() as it:
            with pytest.raises(KeyError):
                await it.app.send({"type": "websocket.send"})


class TestClose:
    async def test_a_close_by_the_client_is_answered_and_told_once(self) -> None:
        async with Accepted() as it:
            assert close_code(await it.send(masked(0x88, b"\x0f\xa1bye"))) == 4001
            assert it.client.closed
            assert it.disconnects() == [(4001, "bye")]
            assert it.app.finished == 1

    async def test_a_close_without_a_code_is_1005(self) -> None:
        async with Accepted() as it:
            assert await it.send(masked(0x88)) == b"\x88\x00"
            assert it.disconnects() == [(1005, "")]

    async def test_an_end_without_a_word_is_1006(self) -> None:
        async with Accepted() as it:
            await it.client.leave()
            assert it.disconnects() == [(1006, "")]

    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535])
    async def test_a_close_with_a_code_that_must_not_be_on_the_wire_is_1002(self, code: int) -> None:
        async with Accepted() as it:
            assert close_code(await it.send(masked(0x88, code.to_bytes(2, "big")))) == 1002
            assert [found for found, _ in it.disconnects()] == [1002]

    @pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1014, 3000, 4999])
    async def test_a_close_with_any_other_code_is_fine(self, code: int) -> None:
        async with Accepted() as it:
            assert close_code(await it.send(masked(0x88, code.to_bytes(2, "big")))) == code

    async def test_a_close_by_the_application_waits_for_the_clients_answer(self) -> None:
        async with Accepted() as it:
            await it.app.send({"type": "websocket.close", "code": 4002, "reason": "over"})
            assert await it.client.receive() == b"\x88\x06\x0f\xa2over"
            assert it.disconnects() == [(4002, "over")]
            assert not it.client.closed

            assert await it.send(masked(0x81, b"late") + masked(0x88, b"\x0f\xa2")) == b""
            assert it.client.closed
            assert len(it.app.events) == 1

    async def test_the_answer_to_a_close_is_not_waited_for_for_ever(self) -> None:
        async with Accepted() as it:
            await it.app.send({"type": "websocket.close"})
            await it.client.wait(4)
            assert not it.client.closed
            await it.client.wait(2)
            assert it.client.transport.aborted

    async def test_what_the_application_sends_after_a_close_is_counted_and_dropped(self) -> None:
        before = counter("gateway_websocket_sends_after_close_total")
        async with Accepted() as it:
            await it.app.send({"type": "websocket.close"})
            await it.client.receive()
            await it.app.send({"type": "websocket.send", "text": "late"})
            await it.app.send({"type": "websocket.close"})

            assert await it.client.receive() == b""
            assert counter("gateway_websocket_sends_after_close_total") == before + 2

    async def test_what_the_application_sends_after_a_close_by_the_client_is_an_oserror(self) -> None:
        async with Accepted() as it:
            await it.send(masked(0x88))
            with pytest.raises(OSError, match="disconnected"):
                await it.app.send({"type": "websocket.send", "text": "late"})
            await it.app.send({"type": "websocket.close"})

    @pytest.mark.parametrize("code", [1005, 1006, 999, 70000])
    async def test_a_close_with_a_bad_code_is_an_error_of_the_application(self, code: int) -> None:
        async with Accepted() as it:
            with pytest.raises(ValueError, match="not a close code"):
                await it.app.send({"type": "websocket.close", "code": code})

    async def test_follows_an_application_that_returns_or_fails(self, caplog: pytest.LogCaptureFixture) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.accept"})
            while (event := await receive()).get("text") is None:
                pass
            if event["text"] == "fail":
                raise LookupError

        for text, code in ((b"fail", 1011), (b"return", 1000)):
            client = Client(application)
            await client.send(UPGRADE)
            assert close_code(await client.send(masked(0x81, text))) == code
            await client.leave()


class TestFaultsOfTheClient:
    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            (b"\x81\x05Hello", 1002),  # not masked
            (masked(0xF1, b"a"), 1002),
            (masked(0x81, b"\xc3\x28"), 1007),
            (masked(0x82, b"x" * 101), 1009),
            (masked(0x02, b"x" * 60) + masked(0x80, b"x" * 60), 1009),
        ],
    )
    async def test_close_with_the_code_that_says_which(self, frame: bytes, code: int) -> None:
        before = counter("gateway_websocket_closed_total", code=str(code))
        async with Accepted(websocket_max_message_bytes=100) as it:
            response = await it.send(masked(0x81, b"before") + frame + masked(0x81, b"after"))

            assert close_code(response) == code
            assert it.app.events[0] == {"type": "websocket.receive", "text": "before"}
            assert [event.get("text") for event in it.app.events[1:]] == [None]
            assert [found for found, _ in it.disconnects()] == [code]
            assert counter("gateway_websocket_closed_total", code=str(code)) == before + 1

    async def test_a_message_of_exactly_the_limit_is_none(self) -> None:
        async with Accepted(websocket_max_message_bytes=100) as it:
            assert await it.send(masked(0x82, b"x" * 100)) == b""
            assert it.app.events == [{"type": "websocket.receive", "bytes": b"x" * 100}]


class TestPings:
    async def test_pings_of_the_client_are_answered(self) -> None:
        async with Accepted() as it:
            assert await it.send(masked(0x89, b"abc")) == b"\x8a\x03abc"

    async def test_pings_of_a_client_that_takes_nothing_are_answered_by_the_last(self) -> None:
        async with Accepted() as it:
            protocol = it.client.transport.protocol
            assert protocol is not None
            protocol.pause_writing()
            assert await it.send(masked(0x89, b"1") + masked(0x89, b"2")) == b""
            protocol.resume_writing()
            assert await it.client.receive() == b"\x8a\x012"

    @pytest.mark.parametrize(("interval_s", "timeout_s"), [(20, 20), (20, 5), (3, 20), (10, 10), (20, 60)])
    @pytest.mark.parametrize("path", ["/ws", "/tunnel"])
    async def test_go_to_a_silent_client_every_interval(self, path: str, interval_s: float, timeout_s: float) -> None:
        client = await opened(path, websocket_ping_interval_s=interval_s, websocket_ping_timeout_s=timeout_s)
        pings = []
        for second in range(1, 121):
            if b"\x89\x00" in await client.wait(1):
                pings.append(second)
                await client.send(masked(0x8A))

        assert pings == list(range(int(interval_s), 121, int(interval_s)))
        assert not client.closed

    @pytest.mark.parametrize(("interval_s", "timeout_s"), [(20, 20), (20, 5), (3, 20), (20, 60)])
    async def test_pings_that_are_not_answered_in_time_end_the_connection(
        self, interval_s: float, timeout_s: float
    ) -> None:
        async with Accepted(websocket_ping_interval_s=interval_s, websocket_ping_timeout_s=timeout_s) as it:
            for second in range(1, int(interval_s + timeout_s)):
                assert await it.client.wait(1) == (b"\x89\x00" if second == interval_s else b"")

            assert close_code(await it.client.wait(1)) == 1011
            assert it.disconnects() == [(1011, "no answer to a ping")]

    async def test_pings_are_not_needed_where_there_is_traffic(self) -> None:
        async with Accepted(websocket_ping_interval_s=20) as it:
            for second in range(1, 101):
                if second % 15 == 0:
                    await it.send(masked(0x81, b"x"))
                assert await it.client.wait(1) == b""

    async def test_come_an_interval_after_the_last_that_was_heard(self) -> None:
        async with Accepted(websocket_ping_interval_s=20) as it:
            for second in range(1, 27):
                if second == 7:  # heard of at 6, as exactly as the clock ticks
                    await it.send(masked(0x81, b"x"))
                assert await it.client.wait(1) == (b"\x89\x00" if second == 26 else b"")

    async def test_wait_while_we_do_not_read_the_answers(self) -> None:
        async with Accepted(websocket_ping_interval_s=20, websocket_ping_timeout_s=20) as it:
            websocket = it.client.transport.protocol
            assert isinstance(websocket, WebSocketConnection)
            websocket.pause_reading()
            for _ in range(200):
                await it.client.wait(1)
            assert not it.client.closed

            websocket.resume_reading()
            assert not it.disconnects()
            for _ in range(60):
                await it.client.wait(1)
            assert it.disconnects() == [(1011, "no answer to a ping")]

    async def test_can_be_turned_off(self) -> None:
        async with Accepted(websocket_ping_interval_s=0) as it:
            assert await it.client.wait(10_000) == b""


class TestWhatComesBeforeTheAnswerToTheHandshake:
    OPTIONS: Final = {"max_body_bytes": 50_000, "max_body_bytes_per_address": 50_000}
    MESSAGE = masked(0x82, b"x" * 20_000)

    async def test_what_comes_before_the_answer_counts_among_the_bytes_in_hand_until_it_is_read(self) -> None:
        app = Recorder()
        client = Client(app, **self.OPTIONS)
        await client.send(UPGRADE + self.MESSAGE)
        assert client.context.bytes_in_hand.total == len(self.MESSAGE)
        await client.send(self.MESSAGE)
        assert client.context.bytes_in_hand.total == 2 * len(self.MESSAGE)

        await app.send({"type": "websocket.accept"})
        await client.receive()
        assert [len(event["bytes"]) for event in app.events[1:]] == [20_000, 20_000]
        assert client.context.bytes_in_hand.total == 0
        await client.leave()

    @pytest.mark.parametrize("end", ["leaves", "is refused"])
    async def test_what_comes_before_the_answer_is_given_back_at_the_end(self, end: str) -> None:
        app = Recorder()
        client = Client(app, **self.OPTIONS)
        await client.send(UPGRADE + self.MESSAGE)
        if end == "leaves":
            await client.leave()
        else:
            await app.send({"type": "websocket.close"})
        assert client.context.bytes_in_hand.total == 0

    async def test_what_comes_before_the_answer_is_refused_beyond_the_share_of_its_address(self) -> None:
        client = Client(Recorder(), **self.OPTIONS)
        await client.send(UPGRADE + self.MESSAGE)

        assert (await client.send(self.MESSAGE + self.MESSAGE)).startswith(b"HTTP/1.1 503 ")
        assert client.context.bytes_in_hand.total == 0


class TestMessagesThatDoNotComeOn:
    @pytest.mark.parametrize("path", ["/ws", "/tunnel"])
    async def test_end_the_connection(self, path: str) -> None:
        client = await opened(path, body_timeout_s=30, min_body_bytes_per_s=10, websocket_ping_interval_s=0)
        message = masked(0x82, b"x" * 1000)
        await client.send(message[:50])
        assert await client.wait(25) == b""
        await client.send(message[50:150])  # ten seconds' worth
        assert await client.wait(14) == b""

        assert close_code(await client.wait(2)) == 1008

    async def test_only_messages_that_have_begun_have_a_time_limit(self) -> None:
        async with Accepted(websocket_ping_interval_s=0) as it:
            for _ in range(50):
                await it.send(masked(0x81, b"x") + masked(0x89, b"x"))
                assert await it.client.wait(29) == b""
            await it.send(masked(0x01, b"x"))
            await it.send(masked(0x80, b"x"))
            assert await it.client.wait(1000) == b""

    async def test_a_message_may_rest_while_we_do_not_read(self) -> None:
        async with Accepted(websocket_ping_interval_s=0) as it:
            websocket = it.client.transport.protocol
            assert isinstance(websocket, WebSocketConnection)
            await it.send(masked(0x82, b"x" * 1000)[:50])
            websocket.pause_reading()
            assert await it.client.wait(1000) == b""
            websocket.resume_reading()
            assert await it.client.wait(29) == b""
            assert close_code(await it.client.wait(2)) == 1008

    async def test_count_among_the_bytes_in_hand(self) -> None:
        before = counter("gateway_http_refused_total", reason="max_body_bytes_per_address")
        options = {"max_body_bytes": 100_000, "max_body_bytes_per_address": 100_000}
        async with Accepted(**options) as it, Accepted() as other:
            other.client.context.bytes_in_hand = it.client.context.bytes_in_hand
            message = masked(0x82, b"x" * 60_000)
            await it.send(message[:50_000])
            assert it.client.context.bytes_in_hand.total == 50_000 - 8
            await it.send(message[50_000:])
            assert it.client.context.bytes_in_hand.total == 0
            assert it.app.events[0]["bytes"] == b"x" * 60_000

            await it.send(message[:-1])
            assert close_code(await other.send(message[:-1])) == 1013
        assert it.client.context.bytes_in_hand.total == 0
        assert counter("gateway_http_refused_total", reason="max_body_bytes_per_address") == before + 1


async def test_shutting_down_says_that_the_service_restarts() -> None:
    async with Accepted() as it:
        it.client.shut_down()
        assert close_code(await it.client.receive()) == 1012
        assert it.disconnects() == [(1012, "service restart")]


async def test_a_connection_is_counted_in_and_out() -> None:
    names = ("gateway_websocket_connections", "gateway_http_connections")
    before = [counter(name) for name in names]
    async with Accepted() as it:
        assert [counter(name) for name in names] == [count + 1 for count in before]
        assert it.client.context.connection_limits.open == 1
    assert [counter(name) for name in names] == before
    assert it.client.context.connection_limits.open == 0
    assert not it.client.connections.open
    assert not it.client.connections.runs
