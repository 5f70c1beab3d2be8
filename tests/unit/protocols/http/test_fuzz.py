"""Whatever bytes come, in whatever pieces: nothing is raised past the connection, and each application ends."""

import asyncio
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.asgi import Receive, Scope, Send
from tests.support.wire import Client, hello, masked

PIECES = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"\r\n",
    b"HTTP/1.1",
    b"Host: ",
    b"\xff\x85\x00",
]
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

http_bytes = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=12).map(b"".join)
frames = st.builds(masked, st.integers(0, 255), st.binary(max_size=140))
websocket_bytes = st.lists(frames | st.binary(max_size=20), max_size=12).map(b"".join)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes over HTTP and WebSocket."""
    if scope["type"] == "http":
        await hello(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


async def converse(data: bytes, cuts: list[int]) -> None:
    client = Client(application)
    positions = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(positions):
        if not client.closed:
            await client.send(data[start:end])
    await client.wait(1000)
    await client.leave()
    await client.receive()

    assert not client.connections.open
    assert not client.connections.runs
    assert client.context.connection_limits.open == 0
    client.connections.stop()


@given(data=http_bytes, cuts=st.lists(st.integers(0, 500), max_size=6))
@settings(deadline=None)
def test_any_bytes_are_answered_as_http(data: bytes, cuts: list[int]) -> None:
    asyncio.run(converse(data, cuts))


@given(data=websocket_bytes, cuts=st.lists(st.integers(0, 500), max_size=6))
@settings(deadline=None)
def test_any_bytes_are_answered_as_websocket_frames(data: bytes, cuts: list[int]) -> None:
    asyncio.run(converse(UPGRADE + data, cuts))
