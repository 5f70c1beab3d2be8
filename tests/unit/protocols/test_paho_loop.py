"""Paho's client, driven by the event loop: what its users do not try by themselves (the bridge, `gateway simulate`)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from protocols.paho_loop import PahoLoop

CONNACK = b"\x20\x03\x00\x00\x00"
MESSAGE = b"\x30\x05\x00\x01a\x00x"
UNKNOWN_PROPERTY = b"\x30\x06\x00\x01a\x02\x7f\x00"
Answering = Callable[[bytes], Awaitable[int]]


@pytest.fixture
async def answering() -> AsyncIterator[Answering]:
    """Starts a server that answers each client's first packet with these bytes; its port."""
    servers = []

    async def start(answer: bytes) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1_000)
            writer.write(answer)
            await reader.read()
            writer.close()

        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        port: int = servers[-1].sockets[0].getsockname()[1]
        return port

    yield start
    for server in servers:
        server.close()


def client_of(port: int) -> paho.Client:
    client = paho.Client(
        CallbackAPIVersion.VERSION2, "c", protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
    )
    client.connect_async("127.0.0.1", port)
    return client


async def test_what_a_callback_raises_is_told_and_can_end_the_connection(answering: Answering) -> None:
    client = client_of(await answering(CONNACK + MESSAGE))
    faults: list[Exception] = []

    def fail(*_told: Any) -> None:
        raise ValueError("no message for us")

    def end(error: Exception) -> None:
        faults.append(error)
        driven.abort()

    client.on_message = fail
    driven = PahoLoop(client, on_fault=end)
    await driven.connect()
    await driven.closed

    assert [str(error) for error in faults] == ["no message for us"]
    assert not driven.is_attached


async def test_a_packet_that_paho_does_not_understand_ends_the_connection(answering: Answering) -> None:
    driven = PahoLoop(client_of(await answering(CONNACK + UNKNOWN_PROPERTY)), on_fault=lambda _: None)

    await driven.connect()
    await driven.closed

    assert not driven.is_attached


async def test_a_server_that_is_not_there_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    with pytest.raises(OSError, match="refused"):
        await PahoLoop(client_of(port), on_fault=lambda _: None).connect()


async def test_closing_it_twice_is_closing_it_once(answering: Answering) -> None:
    driven = PahoLoop(client_of(await answering(CONNACK)), on_fault=lambda _: None)
    await driven.connect()

    driven.abort()
    driven.abort()

    assert not driven.is_attached
    assert driven.closed.done()
