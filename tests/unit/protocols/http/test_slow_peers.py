"""A client that drips is ended, wherever in what it has to say it begins to: no phase of a connection waits for ever.

The scripts are what clients say, and between them have every construct that the wires read. Each is cut at every byte,
in whatever phase that is; a phase that is added is met by the scripts that go through it.
"""

import asyncio
from typing import Any, Final

import pytest

from protocols.http.options import HttpOptions
from protocols.server import Tunnel
from tests.support.wire import Client, Recorder, hello, masked

DRIP_S: Final = 5.0
"""A byte each so many seconds: more often than any time-out ends, and slower than any least rate."""

POST: Final = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE: Final = (
    b"GET /%b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
LONG: Final = b"x" * 300
SCRIPTS: Final = {
    "a request": b"GET /a HTTP/1.1\r\nHost: x\r\nA: " + LONG + b"\r\n\r\n",
    "empty lines before a request": b"\r\n" * 300,
    "a body of a known length": POST + b"Content-Length: 300\r\n\r\n" + LONG,
    "a body that is asked for": POST + b"Expect: 100-continue\r\nContent-Length: 300\r\n\r\n" + LONG,
    "the data of a chunk": CHUNKED + b"12c\r\n" + LONG + b"\r\n0\r\n\r\n",
    "many chunks": CHUNKED + b"1\r\nx\r\n" * 60 + b"0\r\n\r\n",
    "the size of a chunk": CHUNKED + b"0" * 200 + b"1\r\nx\r\n0\r\n\r\n",
    "the extension of a chunk": CHUNKED + b"1;a=" + LONG + b"\r\nx\r\n0\r\n\r\n",
    "the trailers": CHUNKED + b"1\r\nx\r\n0\r\n" + b"A: " + LONG + b"\r\n\r\n",
    "requests ahead of their turn": (POST + b"Content-Length: 1\r\n\r\nx") * 3 + b"GET /" + LONG,
    "what is refused": POST + b"Content-Length: 99999999\r\n\r\n" + LONG,
    "a text": UPGRADE % b"ws" + masked(0x81, LONG),
    "a binary message": UPGRADE % b"ws" + masked(0x82, LONG * 300),
    "fragments": UPGRADE % b"ws" + masked(0x01, b"x") + masked(0x00, b"x") * 40 + masked(0x80, b"x"),
    "empty fragments": UPGRADE % b"ws" + masked(0x01, b"x") + masked(0x00, b"") * 60,
    "pings between fragments": UPGRADE % b"ws" + masked(0x01, b"x") + masked(0x89, b"x") * 60,
    "a ping": UPGRADE % b"ws" + masked(0x89, LONG[:125]),
    "a close": UPGRADE % b"ws" + masked(0x88, b"\x03\xe8" + LONG[:100]) + LONG,
    "a stream in a WebSocket": UPGRADE % b"mqtt" + masked(0x82, b"\x10\x80\x80\x01" + LONG),
}


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers requests, and WebSockets that it takes and never ends."""
    if scope["type"] == "http":
        await hello(scope, receive, send)
        return
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_client_that_drips_is_ended_wherever_it_begins_to(script: str) -> None:
    data = SCRIPTS[script]
    options = HttpOptions()
    longest_s = max(options.keep_alive_s, options.websocket_ping_interval_s + options.websocket_ping_timeout_s)
    tunnels = {"/mqtt": Tunnel("mqtt", asyncio.Protocol)}
    for cut in range(1, min(len(data), 900), 3):
        client = Client(answer, tunnels=tunnels)
        await client.send(data[:cut])
        dripped_s = 0.0
        while not client.closed and dripped_s < 100 * DRIP_S:
            await client.wait(DRIP_S)
            dripped_s += DRIP_S
            at = cut + int(dripped_s / DRIP_S) - 1
            if not client.closed and at < len(data):
                await client.send(data[at : at + 1])
        assert client.closed, f"it goes on for {dripped_s:g} s when cut at {cut}: {data[:cut][-40:]!r}"
        # a phase that ends in time is followed by others: of a head, a body, and an idle connection
        assert dripped_s <= longest_s + options.head_timeout_s + options.body_timeout_s + 6 * DRIP_S, (cut, data[:cut])
        assert client.context.bytes_in_hand.total == 0


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_client_that_is_waited_for_has_a_deadline(script: str) -> None:
    """But while the application has the request: here it never answers."""
    data = SCRIPTS[script]
    for cut in range(1, min(len(data), 900), 3):
        app = Recorder()
        client = Client(app, tunnels={"/mqtt": Tunnel("mqtt", asyncio.Protocol)})
        await client.send(data[:cut])
        has_all_it_waits_for = any(event.get("more_body") is False for event in app.events)
        waits_for_us = b"Expect" in data and not app.events and app.scopes
        (connection,) = client.connections.open or {None}

        if connection is not None and not has_all_it_waits_for and not waits_for_us:
            assert connection.deadline < float("inf"), data[:cut][-40:]
        await client.leave()


async def test_a_client_on_a_slow_line_is_served() -> None:
    """GPRS at its worst: a kilobyte a second, a hundred kilobytes."""
    client = Client(hello)
    body = b"x" * 100_000
    await client.send(POST + b"Content-Length: 100000\r\n\r\n")
    response = b""
    for at in range(0, len(body), 1000):
        await client.wait(1)
        response = await client.send(body[at : at + 1000])

    assert response.startswith(b"HTTP/1.1 200 ")
    assert not client.closed


async def test_a_client_that_is_just_fast_enough_has_its_time_all_the_same() -> None:
    client = Client(hello)
    options = client.context.options
    size = options.max_body_bytes
    response = await client.send(POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * (size // 2))
    waited_s = 0
    while not response:
        response = await client.wait(1)
        waited_s += 1
        response = response or await client.send(b"x" * 2 * options.min_body_bytes_per_s)

    assert response.startswith(b"HTTP/1.1 408 ")
    assert options.request_timeout_s <= waited_s <= options.request_timeout_s + 1
