"""A byte stream in binary WebSocket messages, as its protocol sees it."""

import asyncio
from typing import cast

import pytest

from protocols.server import Tunnel
from tests.support.wire import Client, Recorder, masked

UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: chat, mqtt\r\n\r\n"
)


class Stream(asyncio.Protocol):
    """What a byte-stream server would be."""

    def __init__(self) -> None:
        self.received = b""
        self.calls: list[str] = []
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


async def opened() -> tuple[Client, Stream, Recorder]:
    stream, app = Stream(), Recorder()
    client = Client(app, tunnels={"/mqtt": Tunnel("mqtt", lambda: stream)})
    response = await client.send(UPGRADE)
    assert response.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-protocol: mqtt\r\n" in response
    return client, stream, app


async def test_the_stream_is_what_the_messages_hold_wherever_they_end() -> None:
    client, stream, app = await opened()
    await client.send(masked(0x82, b"ab") + masked(0x02, b"c") + masked(0x80, b"d"))

    assert stream.received == b"abcd"
    assert app.scopes == []
    assert stream.transport.get_extra_info("scheme") == "ws"
    assert stream.transport.get_extra_info("peername") == ("192.0.2.7", 4711)
    await client.leave()


async def test_what_the_protocol_writes_goes_out_in_binary_messages() -> None:
    client, stream, _ = await opened()
    stream.transport.write(b"ab")
    stream.transport.write(b"")
    stream.transport.writelines([b"c", bytearray(b"d")])

    assert await client.receive() == b"\x82\x02ab\x82\x02cd"
    await client.leave()


async def test_bytes_behind_the_handshake_are_not_lost() -> None:
    stream = Stream()
    client = Client(Recorder(), tunnels={"/mqtt": Tunnel("mqtt", lambda: stream)})
    await client.send(UPGRADE + masked(0x82, b"early"))

    assert stream.received == b"early"
    await client.leave()


async def test_a_client_must_offer_the_subprotocol() -> None:
    client = Client(Recorder(), tunnels={"/mqtt": Tunnel("mqtt", Stream)})
    response = await client.send(UPGRADE.replace(b"chat, mqtt", b"mqttv3.1"))

    assert response.startswith(b"HTTP/1.1 400 ")


async def test_a_text_message_ends_it() -> None:
    client, stream, _ = await opened()

    assert (await client.send(masked(0x81, b"text")))[2:4] == (1003).to_bytes(2, "big")
    assert stream.lost == [None]


@pytest.mark.parametrize("end", ["close frame", "gone"])
async def test_the_protocol_is_told_once_that_the_client_left(end: str) -> None:
    client, stream, _ = await opened()
    if end == "close frame":
        assert (await client.send(masked(0x88, b"\x03\xe8")))[:1] == b"\x88"
    await client.leave()

    assert stream.lost == [None]
    assert stream.transport.is_closing()


async def test_closing_sends_what_was_written_first() -> None:
    client, stream, _ = await opened()
    stream.transport.write(b"last")
    stream.transport.close()
    stream.transport.write(b"late")
    assert stream.lost == []

    assert await client.receive() == b"\x82\x04last\x88\x02\x03\xe8"
    assert stream.lost == [None]
    await client.send(masked(0x88, b"\x03\xe8"))
    assert client.closed


async def test_aborting_cuts_the_connection() -> None:
    client, stream, _ = await opened()
    stream.transport.abort()
    await client.receive()

    assert client.transport.aborted
    assert stream.lost == [None]


async def test_pauses_go_both_ways() -> None:
    client, stream, _ = await opened()
    wire = client.transport.protocol
    assert wire is not None
    wire.pause_writing()
    wire.resume_writing()
    assert stream.calls == ["pause", "resume"]

    stream.transport.pause_reading()
    assert client.transport.reading_paused
    stream.transport.resume_reading()
    assert not client.transport.reading_paused
    await client.leave()


async def test_shutting_down_leaves_the_protocol_a_moment_for_its_own_goodbye() -> None:
    client, stream, _ = await opened()
    client.shut_down()
    stream.transport.write(b"bye")
    assert await client.receive() == b"\x82\x03bye"
    assert stream.lost == []

    assert (await client.wait(1.1))[2:4] == (1012).to_bytes(2, "big")
    assert stream.lost == [None]
