"""What every ProtocolServer promises the supervisor and its applications, whatever wire it speaks."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from protocols.amqtt.options import AmqttOptions
from protocols.amqtt.server import AmqttServer
from protocols.asgi import Application, Event, Receive, Scope, Send
from protocols.http import HttpOptions, HttpServer
from protocols.mqtt.server import MqttOptions, MqttServer
from protocols.server import Listener, ProtocolServer
from tests.support import line_sensors

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CONNECT = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03abc"
CONNECT_3_1_1 = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abc"
START_STREAM = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


LINES = line_sensors.server_module()
CLIENT_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Wire:
    """One way to have an application at work on a connection."""

    server: type[ProtocolServer]
    options: Any
    hello: bytes
    """What a client sends to begin."""
    answer: bytes
    """What it is answered with, in part."""
    accept: tuple[Event, ...]
    """What the application sends to keep the connection."""
    disconnect: str


WIRES = {
    "http": Wire(
        HttpServer,
        HttpOptions(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"200 OK",
        (START_STREAM, {"type": "http.response.body", "body": b"x", "more_body": True}),
        "http.disconnect",
    ),
    "websocket": Wire(
        HttpServer, HttpOptions(), UPGRADE, b"101 ", ({"type": "websocket.accept"},), "websocket.disconnect"
    ),
    "mqtt": Wire(
        MqttServer, MqttOptions(allow_anonymous=True), CONNECT, b"\x20", ({"type": "mqtt.accept"},), "mqtt.disconnect"
    ),
    "amqtt": Wire(AmqttServer, AmqttOptions(), CONNECT_3_1_1, b"\x20", ({"type": "mqtt.accept"},), "mqtt.disconnect"),
    "line": Wire(
        LINES.LineServer,
        LINES.LineOptions(),
        b"hello\n",
        b"ok",
        ({"type": "line.send", "text": "ok"},),
        "line.disconnect",
    ),
}


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> Wire:
    return WIRES[request.param]


class Residents:
    """An application that accepts, and records how each instance ends. `at_end` is what it does then."""

    def __init__(self, wire: Wire, at_end: Callable[[], Awaitable[None]] | None = None) -> None:
        self.wire = wire
        self.at_end = at_end
        self.begun = 0
        self.disconnects = 0
        self.cancelled = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for event in self.wire.accept:
            await send(dict(event))
        self.begun += 1
        try:
            while (await receive())["type"] != self.wire.disconnect:
                pass
            self.disconnects += 1
            if self.at_end is not None:
                await self.at_end()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def make(wire: Wire, application: Application, *binds: str) -> ProtocolServer:
    listeners = [Listener(bind=bind, options=wire.options) for bind in binds or ("127.0.0.1:0",)]
    return wire.server(application, listeners, state={})


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


async def join(wire: Wire, address: str) -> Stream:
    """Opens a connection on which the application is at work."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(address))
    hello = wire.hello
    if wire.disconnect == "mqtt.disconnect":
        hello = hello[:-3] + b"%03d" % next(CLIENT_NUMBERS)
    writer.write(hello)
    answer = b""
    while wire.answer not in answer:
        piece = await asyncio.wait_for(reader.read(1000), 5)
        assert piece, answer
        answer += piece
    return reader, writer


@pytest.fixture
async def clean_up() -> AsyncIterator[list[Any]]:
    """Closes the writers that a test puts here."""
    things: list[Any] = []
    yield things
    for thing in things:
        thing.close()


async def within(seconds: float, awaitable: Awaitable[None]) -> None:
    async with asyncio.timeout(seconds):
        await awaitable


async def test_port_0_is_any_free_one_and_the_address_tells_which(wire: Wire) -> None:
    server = make(wire, Residents(wire), "127.0.0.1:0", "[::1]:0")
    await server.start()

    four, six = server.addresses
    assert four.startswith("127.0.0.1:")
    assert port_of(four) > 0
    assert six.startswith("[::1]:")
    await within(5, server.close())


async def test_a_taken_port_is_an_oserror_with_the_address_and_leaves_nothing_open(wire: Wire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        free = f"127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        server = make(wire, Residents(wire), free, address)

        with pytest.raises(OSError, match=address):
            await server.start()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port_of(free))
        await within(5, server.close())


async def test_a_bind_address_that_is_none_is_a_valueerror(wire: Wire) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        await make(wire, Residents(wire), "nonsense").start()


async def test_a_unix_socket_is_served_like_a_port(wire: Wire, tmp_path: Path) -> None:
    residents = Residents(wire)
    server = make(wire, residents, f"unix:{tmp_path}/s")
    await server.start()
    assert list(server.addresses) == [f"unix:{tmp_path}/s"]
    reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/s")
    writer.write(wire.hello)
    assert wire.answer in await asyncio.wait_for(reader.read(1000), 5)

    await within(10, server.close())
    assert residents.disconnects == 1
    writer.close()


async def test_stop_accepting_refuses_new_connections_and_keeps_old_ones(wire: Wire, clean_up: list[Any]) -> None:
    residents = Residents(wire)
    server = make(wire, residents)
    await server.start()
    reader, writer = await join(wire, server.addresses[0])
    clean_up.append(writer)

    server.stop_accepting()
    server.stop_accepting()
    with pytest.raises(ConnectionRefusedError):
        await join(wire, server.addresses[0])
    await asyncio.sleep(0.05)
    assert residents.disconnects == 0
    assert not reader.at_eof()
    await within(10, server.close())


async def test_closing_tells_each_application_once_and_waits_for_it(wire: Wire, clean_up: list[Any]) -> None:
    ended = 0

    async def linger() -> None:
        nonlocal ended
        await asyncio.sleep(0.05)
        ended += 1

    residents = Residents(wire, linger)
    server = make(wire, residents)
    await server.start()
    streams = [await join(wire, server.addresses[0]) for _ in range(5)]
    clean_up += [writer for _, writer in streams]

    await within(10, server.close())

    assert (residents.begun, residents.disconnects, ended, residents.cancelled) == (5, 5, 5, 0)
    for reader, _ in streams:
        await asyncio.wait_for(reader.read(), 5)


async def test_closing_is_not_held_up_by_an_application_that_raises(
    wire: Wire, clean_up: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise LookupError

    residents = Residents(wire, fail)
    server = make(wire, residents)
    await server.start()
    clean_up += [(await join(wire, server.addresses[0]))[1] for _ in range(3)]

    await within(10, server.close())
    assert residents.disconnects == 3
    assert caplog.text.count("application raised while serving") == 3


async def test_cancelling_close_cuts_connections_and_ends_applications(wire: Wire, clean_up: list[Any]) -> None:
    residents = Residents(wire, asyncio.Event().wait)  # type: ignore[arg-type]
    server = make(wire, residents)
    await server.start()
    streams = [await join(wire, server.addresses[0]) for _ in range(3)]
    clean_up += [writer for _, writer in streams]

    with pytest.raises(TimeoutError):
        await within(0.3, server.close())
    for reader, _ in streams:
        await asyncio.wait_for(reader.read(), 5)
    async with asyncio.timeout(30):
        while residents.cancelled < 3:  # they are cancelled by now, but may not have had their turn
            await asyncio.sleep(0)

    assert residents.disconnects == 3


async def test_closing_twice_and_closing_what_never_started_do_nothing(wire: Wire) -> None:
    server = make(wire, Residents(wire))
    await within(1, server.close())
    await server.start()
    await within(5, server.close())
    await within(1, server.close())


async def test_a_client_that_leaves_is_told_of_once_even_if_the_server_closes_then(
    wire: Wire, clean_up: list[Any]
) -> None:
    residents = Residents(wire)
    server = make(wire, residents)
    await server.start()
    for _ in range(3):
        _, writer = await join(wire, server.addresses[0])
        writer.transport.abort()
        clean_up.append(writer)

    await within(10, server.close())
    assert residents.disconnects == 3


async def test_the_state_of_the_lifespan_is_in_each_scope(wire: Wire, clean_up: list[Any]) -> None:
    scopes: list[Scope] = []
    residents = Residents(wire)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await residents(scope, receive, send)

    shared = object()
    listener = Listener(bind="127.0.0.1:0", options=wire.options)
    server = wire.server(application, [listener], state={"shared": shared})
    await server.start()
    clean_up += [(await join(wire, server.addresses[0]))[1] for _ in range(2)]
    await within(10, server.close())

    assert [scope["state"]["shared"] for scope in scopes] == [shared, shared]
    assert scopes[0]["state"] is not scopes[1]["state"]
    assert scopes[0]["client"][0] == "127.0.0.1"
    assert scopes[0]["server"] == ("127.0.0.1", port_of(server.addresses[0]))
