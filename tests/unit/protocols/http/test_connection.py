"""HTTP/1.1 connections: what the client sees and what the application sees, without a socket."""

import asyncio
import logging
from typing import Any, Final

import pytest
from prometheus_client import REGISTRY

from protocols.asgi import Receive, Scope, Send
from protocols.http.options import PIPELINE_BYTES
from protocols.runner import ClientDisconnectedError
from tests.support.wire import Client, Recorder, hello, masked

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, *, length: int | None = None, extra: bytes = b"", path: bytes = b"/p") -> bytes:
    length = len(body) if length is None else length
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (path, length, extra, body)


def body_of(response: bytes) -> bytes:
    return response.partition(b"\r\n\r\n")[2]


def status_of(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def counter(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


class TestRequests:
    async def test_one_write_answers_a_request_and_the_connection_stays(self) -> None:
        client = Client(hello)

        assert body_of(await client.send(GET)) == b"/a "
        assert client.transport.writes == 1
        assert body_of(await client.send(post(b"xyz"))) == b"/p xyz"
        assert not client.closed

    @pytest.mark.parametrize("split", [1, 2, 3, 7, 50])
    async def test_pieces_of_any_size_are_the_same_requests(self, split: int) -> None:
        client = Client(hello)
        data = GET + post(b"12345") + b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        data += b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n" + GET

        response = b"".join([await client.send(data[i : i + split]) for i in range(0, len(data), split)])

        assert [body_of(part) for part in response.split(b"HTTP/1.1 ")[1:]] == [
            b"/a ",
            b"/p 12345",
            b"/c abcde",
            b"/a ",
        ]

    async def test_the_body_comes_in_pieces_with_an_end(self) -> None:
        recorder = Recorder()
        client = Client(recorder)
        await client.send(post(b"ab", length=5))
        await client.send(b"cde")

        assert recorder.events == [
            {"type": "http.request", "body": b"ab", "more_body": True},
            {"type": "http.request", "body": b"cde", "more_body": False},
        ]

    async def test_a_slow_application_stops_the_socket(self) -> None:
        gate = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await gate.wait()
            await hello(scope, receive, send)

        client = Client(slow)
        await client.send(post(b"x" * 300_000, length=300_003))
        assert client.transport.reading_paused
        assert not await client.wait(100)

        gate.set()
        await client.receive()
        assert not client.transport.reading_paused
        assert body_of(await client.send(b"end")).endswith(b"xend")

    async def test_the_socket_is_read_on_after_a_large_body_that_the_application_did_not_take(self) -> None:
        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 403})
            await send({"type": "http.response.body"})

        client = Client(refuse)
        assert status_of(await client.send(post(b"x" * 300_000))) == 403

        assert not client.transport.reading_paused
        assert status_of(await client.send(GET)) == 403

    async def test_state_tls_and_proxies_are_in_the_scope(self) -> None:
        recorder = Recorder()
        state = {"shared": object()}
        client = Client(recorder, state=state, trusted_proxies=("192.0.2.0/24",))
        await client.send(
            b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n"
        )

        scope = recorder.scopes[0]
        assert scope["state"] == state
        assert scope["state"] is not state
        assert (scope["client"], scope["scheme"], scope["server"]) == (("203.0.113.9", 0), "https", ("192.0.2.1", 8000))

    async def test_an_absolute_target_replaces_the_host(self) -> None:
        recorder = Recorder()
        await Client(recorder).send(b"GET http://real:80/p HTTP/1.1\r\nHost: claimed\r\nA: b\r\n\r\n")

        assert recorder.scopes[0]["headers"] == [(b"host", b"real:80"), (b"a", b"b")]


class TestExpectContinue:
    HEAD = post(b"", length=3, extra=b"Expect: 100-continue\r\n")

    async def test_the_body_is_asked_for_when_the_application_waits_for_it(self) -> None:
        client = Client(hello)

        assert await client.send(self.HEAD) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert body_of(await client.send(b"abc")) == b"/p abc"
        assert not client.closed

    async def test_an_application_that_refuses_by_the_head_is_sent_no_body(self) -> None:
        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 401})
            await send({"type": "http.response.body"})

        client = Client(refuse)
        response = await client.send(self.HEAD)

        assert status_of(response) == 401
        assert b"connection: close" in response
        assert client.transport.eof_written

    async def test_a_client_that_does_not_wait_is_not_asked(self) -> None:
        assert (await Client(hello).send(self.HEAD + b"abc")).startswith(b"HTTP/1.1 200")

    async def test_another_expectation_is_refused(self) -> None:
        assert status_of(await Client(hello).send(post(b"", length=3, extra=b"Expect: miracles\r\n"))) == 417


class TestPipelining:
    async def test_requests_are_served_one_at_a_time_in_order(self) -> None:
        recorder = Recorder()
        client = Client(recorder)
        assert await client.send(GET + GET.replace(b"/a", b"/b") + GET.replace(b"/a", b"/c")) == b""
        assert [scope["path"] for scope in recorder.scopes] == ["/a"]

        await recorder.respond(b"1")
        assert body_of(await client.receive()) == b"1"
        await recorder.respond(b"2")
        await client.receive()
        assert [scope["path"] for scope in recorder.scopes] == ["/a", "/b", "/c"]

    async def test_what_comes_too_early_stays_in_the_socket(self) -> None:
        recorder = Recorder()
        client = Client(recorder)
        await client.send(GET)
        await client.send(GET * (PIPELINE_BYTES // len(GET) + 1))
        assert client.transport.reading_paused

        await recorder.respond()
        await client.receive()
        assert not client.transport.reading_paused

    async def test_a_client_that_takes_no_responses_gets_no_further_request_served(self) -> None:
        client = Client(hello)
        protocol = client.transport.protocol
        assert protocol is not None
        await client.send(GET)
        protocol.pause_writing()
        assert await client.send(GET) == b""

        protocol.resume_writing()
        assert body_of(await client.receive()) == b"/a "

    async def test_a_bad_request_behind_a_good_one_is_answered_after_it(self) -> None:
        response = await Client(hello).send(GET + b"nonsense\r\n\r\n")

        assert [part.split()[0] for part in response.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]


class TestEndOfConnections:
    @pytest.mark.parametrize(
        ("request_head", "kept"),
        [
            (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
            (b"GET / HTTP/1.0\r\n\r\n", False),
            (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
            (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", False),
        ],
    )
    async def test_a_connection_ends_if_the_client_wishes(self, request_head: bytes, kept: bool) -> None:
        client = Client(hello)
        response = await client.send(request_head)

        assert status_of(response) == 200
        assert (b"connection: close" in response) is not kept
        assert client.closed is not kept

    async def test_a_connection_ends_after_idling(self) -> None:
        client = Client(hello, keep_alive_s=75)
        await client.wait(74)
        await client.send(GET)
        await client.wait(74)
        assert not client.closed
        await client.wait(2)
        assert client.closed

    async def test_a_head_must_come_in_time_however_its_bytes_trickle(self) -> None:
        before = counter("gateway_http_refused_total", reason="head_timeout")
        client = Client(hello, head_timeout_s=10)
        for byte in GET[:10]:
            response = await client.send(bytes((byte,)))
            assert response == b""
            response = await client.wait(1)

        assert status_of(response) == 408
        assert counter("gateway_http_refused_total", reason="head_timeout") == before + 1

    async def test_a_body_must_go_on(self) -> None:
        recorder = Recorder()
        client = Client(recorder, body_timeout_s=30, min_body_bytes_per_s=10)
        await client.send(post(b"a", length=1000))
        assert await client.wait(29) == b""
        await client.send(b"b" * 50)  # five seconds' worth
        assert await client.wait(5) == b""

        assert status_of(await client.wait(2)) == 408
        assert recorder.events[-1] == {"type": "http.disconnect"}

    async def test_what_came_fast_does_not_make_up_for_a_body_that_stops(self) -> None:
        client = Client(Recorder(), body_timeout_s=30)
        await client.send(post(b"a" * 200_000, length=200_001))

        assert status_of(await client.wait(31)) == 408

    async def test_the_application_may_take_its_time_with_a_body(self) -> None:
        gate = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await gate.wait()
            await hello(scope, receive, send)

        client = Client(slow, body_timeout_s=30)
        await client.send(post(b"x" * 300_000, length=300_003))
        assert await client.wait(1000) == b""
        gate.set()
        await client.receive()
        assert await client.wait(29) == b""

        assert status_of(await client.send(b"end")) == 200

    async def test_what_a_refused_client_still_sends_is_read_for_a_moment(self) -> None:
        client = Client(Recorder(), max_body_bytes=10)
        assert status_of(await client.send(post(b"x", length=11))) == 413
        assert client.transport.eof_written
        assert not client.closed
        assert await client.send(b"x" * 10) == b""

        await client.wait(3)
        assert client.transport.aborted

    async def test_a_body_cut_short_is_counted_and_the_application_told(self) -> None:
        before = counter("gateway_http_aborted_total", reason="body_cut_short")
        recorder = Recorder()
        client = Client(recorder)
        await client.send(post(b"ab", length=5))
        await client.leave()

        assert recorder.events[-1] == {"type": "http.disconnect"}
        assert recorder.finished == 1
        assert counter("gateway_http_aborted_total", reason="body_cut_short") == before + 1

    async def test_sending_to_a_client_that_left_raises_an_oserror(self) -> None:
        recorder = Recorder()
        client = Client(recorder)
        await client.send(GET)
        await client.leave()

        with pytest.raises(OSError, match="disconnected"):
            await recorder.respond()

    async def test_a_connection_above_the_limit_is_answered_503(self) -> None:
        first = Client(hello, max_connections=1)
        second = Client(hello, context=first.context)
        assert status_of(await second.receive()) == 503

        await first.leave()
        await second.leave()
        assert status_of(await Client(hello, context=first.context).send(GET)) == 200


class TestBytesInHand:
    SHARES: Final = {"max_body_bytes": 50_000, "max_body_bytes_per_address": 100_000, "max_body_bytes_in_all": 200_000}

    @staticmethod
    def forwarded(address: bytes, size: int = 50_000) -> bytes:
        return post(b"x" * (size - 1), length=size, extra=b"X-Forwarded-For: " + address + b"\r\n")

    async def test_bytes_in_hand_of_one_address_are_less_than_of_all(self) -> None:
        before = [
            counter("gateway_http_refused_total", reason=f"max_body_bytes_{of}") for of in ("per_address", "in_all")
        ]
        first = Client(Recorder(), trusted_proxies=("192.0.2.7",), **self.SHARES)
        context = first.context
        clients = [first, *(Client(context.application, context=context) for _ in range(6))]

        addresses = [b"203.0.113.1", b"203.0.113.1:80", b"203.0.113.1", b"203.0.113.2", b"203.0.113.2", b"203.0.113.3"]
        responses = [
            await client.send(self.forwarded(address)) for client, address in zip(clients, addresses, strict=False)
        ]

        assert [response and status_of(response) for response in responses] == [b"", b"", 503, b"", b"", 503]
        assert b"retry-after: 5\r\n" in responses[2]
        after = [
            counter("gateway_http_refused_total", reason=f"max_body_bytes_{of}") for of in ("per_address", "in_all")
        ]
        assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1]
        assert context.bytes_in_hand.total == counter("gateway_http_bytes_in_hand") == 4 * 49_999
        for client in clients:
            await client.leave()
        assert context.bytes_in_hand.total == counter("gateway_http_bytes_in_hand") == 0

    async def test_count_until_the_application_has_ended(self) -> None:
        gate = asyncio.Event()

        async def keeps(scope: Scope, receive: Receive, send: Send) -> None:
            await hello(scope, receive, send)
            await gate.wait()

        client = Client(keeps)
        assert status_of(await client.send(post(b"x" * 10_000))) == 200
        assert client.context.bytes_in_hand.total == 10_000
        await client.leave()
        assert client.context.bytes_in_hand.total == 10_000

        gate.set()
        await client.receive()
        assert client.context.bytes_in_hand.total == 0

    async def test_bytes_in_hand_count_when_they_are_ahead_of_their_turn(self) -> None:
        before = counter("gateway_http_aborted_total", reason="max_body_bytes_per_address")
        recorder = Recorder()
        first = Client(recorder, **self.SHARES)
        clients = [first, Client(recorder, context=first.context)]
        for client in clients:
            await client.send(GET + GET * 1_500)
        assert first.context.bytes_in_hand.total == 2 * 1_500 * len(GET)
        await clients[1].send(GET * 1_000)

        assert [client.transport.aborted for client in clients] == [False, True]
        assert counter("gateway_http_aborted_total", reason="max_body_bytes_per_address") == before + 1
        await first.leave()
        assert first.context.bytes_in_hand.total == 0

    async def test_bytes_that_are_served_count_no_longer(self) -> None:
        client = Client(hello)
        await client.send(GET * 500 + post(b"x" * 100_000) + GET * 500)
        for _ in range(200):
            await client.receive()

        assert client.context.bytes_in_hand.total == 0
        assert not client.closed

    async def test_bytes_of_a_head_are_bounded_and_count(self) -> None:
        client = Client(hello)
        header = b"A: " + b"x" * 1000 + b"\r\n"
        await client.send(GET[:-2] + header * 9)
        assert client.context.bytes_in_hand.total > 9_000
        response = b""
        for _ in range(60):
            response = response or await client.send(header)

        assert status_of(response) == 431
        await client.leave()
        assert client.context.bytes_in_hand.total == 0


class TestBadRequests:
    @pytest.mark.parametrize(
        ("data", "status", "reason"),
        [
            (b"GET /s3cret\r\n\r\n", 505, "http_version"),
            (b"GET /s3cret HTTP/2.0\r\nHost: x\r\n\r\n", 505, "http_version"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed"),
            (b"GET /s3cret HTTP/1.1\r\n\r\n", 400, "bad_host"),
            (b"GET / HTTP/1.1\r\nHost: s3cret/b\r\n\r\n", 400, "bad_host"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nHost: s3cret\r\n\r\n", 400, "bad_host"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nA: s3cret\x85\r\n\r\n", 400, "control_byte"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nA: s3cret\x0b\r\n\r\n", 400, "malformed"),
            (b"s3cret / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
            (b"GET /" + b"s3cret" * 2000, 431, "head_too_large"),
            (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"s3cret: x\r\n" * 200, 431, "too_many_headers"),
            (post(b"", length=17 * 1024 * 1024), 413, "body_too_large"),
        ],
    )
    async def test_bad_requests_are_refused_counted_and_not_echoed(
        self, data: bytes, status: int, reason: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        before = counter("gateway_http_refused_total", reason=reason)
        recorder = Recorder()
        response = await Client(recorder).send(data)

        assert status_of(response) == status
        assert b"s3cret" not in response
        assert [event["type"] for event in recorder.events] == (["http.disconnect"] if status == 413 else [])
        assert counter("gateway_http_refused_total", reason=reason) == before + 1
        (line,) = [record.getMessage() for record in caplog.records]
        who = "http POST /p from" if status == 413 else "a request of"
        assert line.startswith(f"refused {who} 192.0.2.7:4711 with {status}: {reason}: ")
        why = line.partition(f"{reason}: ")[2]
        assert body_of(response).endswith(f": {why}\n".encode())

    async def test_an_application_that_asks_for_no_body_says_itself_that_it_is_too_large(self) -> None:
        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

        client = Client(refuse, max_body_bytes=10)

        response = await client.send(post(b"x" * 5, length=11))

        assert status_of(response) == 401
        assert client.transport.eof_written
        assert await client.send(b"x" * 6) == b""

    async def test_a_chunked_body_over_the_limit_is_refused_while_it_comes(self) -> None:
        recorder = Recorder()
        client = Client(recorder, max_body_bytes=5)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert await client.send(head + b"4\r\nabcd\r\n") == b""

        assert status_of(await client.send(b"4\r\nabcd\r\n")) == 413
        assert recorder.events[-1] == {"type": "http.disconnect"}

    @pytest.mark.parametrize(
        ("chunk", "refused"),
        [
            (b"1\r\nx\r\n", False),
            (b"a\r\n0123456789\r\n", False),
            (b"1;a=b\r\nx\r\n", True),
            (b"1;" + b"a" * 100 + b"\r\nx\r\n", True),
            (b"0" * 100 + b"1\r\nx\r\n", True),
        ],
    )
    async def test_a_chunked_body_that_is_mostly_framing_is_refused(self, chunk: bytes, refused: bool) -> None:
        before = counter("gateway_http_refused_total", reason="chunk_framing")
        client = Client(hello)
        response = await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(60):
            response = response or await client.send(chunk * 1000)
        response = response or await client.send(b"0\r\n\r\n")

        assert status_of(response) == (400 if refused else 200)
        assert counter("gateway_http_refused_total", reason="chunk_framing") == before + refused

    async def test_a_broken_chunk_ends_the_request(self) -> None:
        recorder = Recorder()
        client = Client(recorder)
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")

        assert status_of(await client.send(b"zz\r\n")) == 400
        assert recorder.events[-1] == {"type": "http.disconnect"}


class TestResponses:
    async def test_stream_in_chunks_each_at_the_end_of_the_loop_pass(self) -> None:
        recorder = Recorder()
        client = Client(recorder)
        await client.send(GET)
        await recorder.respond(b"one", more_body=True)
        assert body_of(await client.receive()) == b"3\r\none\r\n"
        await recorder.send({"type": "http.response.body", "body": b"", "more_body": True})
        assert await client.receive() == b""
        await recorder.send({"type": "http.response.body", "body": b"two"})
        assert await client.receive() == b"3\r\ntwo\r\n0\r\n\r\n"
        assert not client.closed

    async def test_the_events_of_one_pass_are_one_write(self) -> None:
        recorder = Recorder()
        client = Client(recorder)
        await client.send(GET)
        await recorder.respond(b"one", more_body=True)
        await recorder.send({"type": "http.response.body", "body": b"two", "more_body": True})
        await client.receive()

        assert client.transport.writes == 1

    async def test_a_head_request_gets_no_body(self) -> None:
        response = await Client(hello).send(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"content-length: 3\r\n" in response
        assert body_of(response) == b""

    @pytest.mark.parametrize(("body", "length"), [(b"toolong", b"3"), (b"a", b"3")])
    async def test_a_body_that_is_not_as_long_as_promised_cuts_the_connection(
        self, body: bytes, length: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            headers = [(b"content-length", length)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            await send({"type": "http.response.body", "body": body})

        client = Client(application)
        await client.send(GET)

        assert client.transport.aborted
        assert "Content-Length" in caplog.text

    async def test_a_client_that_takes_nothing_holds_up_the_application_and_is_cut_off(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        recorder = Recorder()
        client = Client(recorder, write_timeout_s=20)
        protocol = client.transport.protocol
        assert protocol is not None
        await client.send(GET)
        protocol.pause_writing()
        sending = asyncio.create_task(recorder.respond(b"x", more_body=True))
        await client.receive()
        assert not sending.done()

        await client.wait(21)
        assert client.transport.aborted
        with pytest.raises(ClientDisconnectedError):
            await sending
        assert "did not take what it was sent within 20 s" in caplog.text
        assert recorder.events[-1] == {"type": "http.disconnect"}

    async def test_a_client_that_takes_again_lets_the_application_go_on(self) -> None:
        recorder = Recorder()
        client = Client(recorder)
        protocol = client.transport.protocol
        assert protocol is not None
        await client.send(GET)
        protocol.pause_writing()
        sending = asyncio.create_task(recorder.respond(b"x", more_body=True))
        await client.receive()
        protocol.resume_writing()
        await client.receive()

        assert sending.done()
        await client.wait(100)
        assert not client.closed

    async def test_the_end_of_a_response_is_told_to_the_application(self) -> None:
        recorder = Recorder()
        client = Client(recorder)
        await client.send(GET)
        await recorder.respond(b"x")
        await client.receive()

        assert recorder.events[-1] == {"type": "http.disconnect"}
        with pytest.raises(RuntimeError, match="after the response was complete"):
            await recorder.send({"type": "http.response.body"})

    @pytest.mark.parametrize(
        ("events", "error"),
        [
            ([{"type": "http.response.body"}], "before 'http.response.start'"),
            ([{"type": "http.response.start", "status": 200}] * 2, "sent twice"),
            ([{"type": "websocket.send"}], "cannot send 'websocket.send'"),
            ([{"type": "http.response.start", "status": 99}, {"type": "http.response.body"}], "final response"),
        ],
    )
    async def test_an_event_out_of_turn_is_an_error_of_the_application(
        self, events: list[Any], error: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            for event in events:
                await send(event)

        assert status_of(await Client(application).send(GET)) == 500
        assert error in caplog.text


class TestApplicationsThatFail:
    async def test_before_the_response_are_500(self, caplog: pytest.LogCaptureFixture) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            raise LookupError("s3cret")

        client = Client(application)
        response = await client.send(post(b"", path=b"/api/v1/s3cret-token/telemetry"))

        assert status_of(response) == 500
        assert b"s3cret" not in response
        assert client.closed
        assert "serving http POST /api/v1/***/telemetry from 192.0.2.7:4711" in caplog.text
        assert "s3cret-token" not in caplog.text

    async def test_an_application_that_fails_within_the_response_cuts_the_connection(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = counter("gateway_http_aborted_total", reason="application_error")

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
            raise LookupError

        client = Client(application)
        assert b"0\r\n\r\n" not in await client.send(GET)
        assert client.transport.aborted
        assert counter("gateway_http_aborted_total", reason="application_error") == before + 1

    async def test_an_application_that_returns_nothing_is_500(self, caplog: pytest.LogCaptureFixture) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200})

        assert status_of(await Client(application).send(GET)) == 500
        assert "returned without a response" in caplog.text

    async def test_after_the_response_hurt_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await hello(scope, receive, send)
            raise LookupError

        client = Client(application)
        assert [status_of(await client.send(GET)) for _ in range(2)] == [200, 200]


class TestShutDown:
    async def test_shutdown_ends_an_idle_connection(self) -> None:
        client = Client(hello)
        await client.send(GET)
        client.shut_down()
        await client.receive()

        assert client.closed

    async def test_shutdown_ends_a_connection_that_comes_too_late(self) -> None:
        first = Client(hello)
        first.shut_down()

        assert Client(hello, context=first.context).closed

    async def test_shutdown_lets_a_response_end(self) -> None:
        recorder = Recorder()
        client = Client(recorder)
        await client.send(GET)
        client.shut_down()
        await client.receive()
        assert recorder.events == [{"type": "http.request", "body": b"", "more_body": False}]

        await recorder.respond(b"done")
        response = await client.receive()
        assert b"connection: close" in response
        assert client.closed

    async def test_shutdown_ends_an_event_stream_at_once(self) -> None:
        recorder = Recorder()
        client = Client(recorder)
        await client.send(GET)
        await recorder.respond(b"data: 1\n\n", more_body=True, headers=[(b"content-type", b"text/event-stream")])
        client.shut_down()
        await client.receive()

        assert recorder.events[-1] == {"type": "http.disconnect"}
        assert client.closed
        assert not client.transport.aborted


async def test_an_access_log_line_has_the_facts_but_no_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.access")
    await Client(hello, access_log=True).send(post(b"12", path=b"/api/v1/s3cret/telemetry?token=s3cret"))

    assert [record.getMessage() for record in caplog.records] == ['192.0.2.7:4711 "POST /api/v1/***/telemetry" 200 27']


class TestBehindATrustedProxy:
    """The log names the client that the proxy tells, and it is that client's share of the log."""

    FORWARDED: Final = b"X-Forwarded-For: 203.0.113.9:17085\r\n"
    UPGRADE: Final = (
        b"GET /watch HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n" % FORWARDED
    )

    @pytest.fixture(autouse=True)
    def log(self, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
        caplog.set_level(logging.INFO)
        return caplog

    @pytest.fixture
    async def client(self, app: Recorder) -> Client:
        return Client(app, access_log=True, write_timeout_s=20, trusted_proxies=("192.0.2.7",))

    @pytest.fixture
    def app(self) -> Recorder:
        return Recorder()

    async def test_lines_of_a_response_name_the_client_behind_a_trusted_proxy(
        self, client: Client, app: Recorder, log: pytest.LogCaptureFixture
    ) -> None:
        await client.send(post(b"12", extra=self.FORWARDED))
        await app.respond(b"")

        assert log.messages == ['203.0.113.9:17085 "POST /p" 200 0']

    async def test_lines_of_a_body_that_is_cut_short_name_the_client_behind_a_trusted_proxy(
        self, client: Client, log: pytest.LogCaptureFixture
    ) -> None:
        await client.send(post(b"12", length=9, extra=self.FORWARDED))
        await client.leave()

        assert log.messages == ["cut off 203.0.113.9:17085: it left before the end of its request body"]

    async def test_lines_of_a_client_that_takes_nothing_name_it_behind_a_trusted_proxy(
        self, client: Client, app: Recorder, log: pytest.LogCaptureFixture
    ) -> None:
        await client.send(post(b"12", extra=self.FORWARDED))
        assert client.transport.protocol is not None
        client.transport.protocol.pause_writing()
        sending = asyncio.create_task(app.respond(b"x", more_body=True))
        await client.wait(21)
        with pytest.raises(ClientDisconnectedError):
            await sending

        assert "cut off 203.0.113.9:17085: it did not take what it was sent within 20 s" in log.messages

    async def test_lines_of_a_websocket_name_the_client_behind_a_trusted_proxy(
        self, client: Client, app: Recorder, log: pytest.LogCaptureFixture
    ) -> None:
        await client.send(self.UPGRADE)
        await app.send({"type": "websocket.accept"})
        await client.send(masked(0xF1))
        await client.leave()

        assert log.messages == ["closed the WebSocket of 203.0.113.9:17085 with 1002: protocol error"]

    async def test_the_line_of_a_request_that_cannot_be_read_names_the_proxy(
        self, client: Client, app: Recorder, log: pytest.LogCaptureFixture
    ) -> None:
        await client.send(post(b"12", extra=self.FORWARDED))
        await app.respond(b"")
        log.clear()
        await client.send(b"GET / HTTP/1.1\nHost: x\r\n\r\n")

        assert len(log.messages) == 1
        assert log.messages[0].startswith("refused a request of 192.0.2.7:4711 with 400: malformed: ")
