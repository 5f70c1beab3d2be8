"""What only a socket can show: back-pressure both ways, ends, and how the server stops; on both loops (conftest.py)."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import pytest

from protocols.asgi import Application, Event, Receive, Scope, Send
from protocols.mqtt.codec.decoder import Decoder, encode
from protocols.mqtt.codec.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    ReasonCode,
    SubAck,
    Subscribe,
    Subscription,
    Will,
)
from protocols.mqtt.options import BrokerOptions, MqttOptions
from protocols.mqtt.server import MqttServer
from protocols.server import Listener
from tests.support.waiting import until


async def answer(event: Event, send: Send) -> None:
    """Grants everything."""
    match event["type"]:
        case "mqtt.connect":
            await send({"type": "mqtt.accept"})
        case "mqtt.publish":
            await send({"type": "mqtt.ack", "ack_id": event["ack_id"]})
        case "mqtt.subscribe":
            codes = [one["qos"] for one in event["subscriptions"]]
            await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_codes": codes})


async def broker(scope: Scope, receive: Receive, send: Send) -> None:
    while (event := await receive())["type"] != "mqtt.disconnect":
        await answer(event, send)


Serve = Callable[..., Awaitable[MqttServer]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers = []

    async def start(
        application: Application = broker, *, of_broker: BrokerOptions | None = None, **options: Any
    ) -> MqttServer:
        listener = Listener(bind="127.0.0.1:0", options=MqttOptions(**options))
        server = MqttServer(application, [listener], state={"shared": 1}, server_options=of_broker)
        await server.start()
        servers.append(server)
        return server

    yield start
    for client in Client.opened:
        client.writer.transport.abort()
    Client.opened.clear()
    for server in servers:
        await server.close()


class Client:
    """A client made of packets."""

    opened: ClassVar[list["Client"]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = Decoder(max_packet_bytes=1 << 28, version=5)
        self._packets: list[Packet] = []

    @classmethod
    async def connected(cls, server: MqttServer, client_id: str = "c", **connect: Any) -> "Client":
        client = await cls.open(server)
        client.send(Connect(version=5, client_id=client_id, keep_alive_s=60, **connect))
        assert isinstance(await client.receive(), ConnAck)
        return client

    @classmethod
    async def open(cls, server: MqttServer) -> "Client":
        host, _, port = server.addresses[0].rpartition(":")
        client = cls(*await asyncio.open_connection(host, int(port)))
        cls.opened.append(client)
        return client

    def send(self, *packets: Packet) -> None:
        self.writer.write(b"".join(encode(packet, 5) for packet in packets))

    async def subscribe(self, topic_filter: str) -> None:
        self.send(Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter=topic_filter, qos=1),)))
        assert isinstance(await self.receive(), SubAck)

    async def receive(self) -> Packet:
        async with asyncio.timeout(30):
            while not self._packets:
                data = await self.reader.read(65_536)
                if not data:
                    raise EOFError
                self._packets += self._decoder.decode(data)
        return self._packets.pop(0)

    async def ended(self) -> list[Packet]:
        """What comes until the server closes the connection."""
        packets = []
        while True:
            try:
                packets.append(await self.receive())
            except (EOFError, ConnectionResetError):
                return packets


class TestScope:
    async def test_the_scope_says_who_and_where(self, serve: Serve) -> None:
        scopes: list[Scope] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            scopes.append(scope)
            await broker(scope, receive, send)

        server = await serve(application)
        client = await Client.connected(server, "c", username="u")

        [scope] = scopes
        host, port = client.writer.get_extra_info("sockname")
        assert scope == {
            "type": "mqtt",
            "asgi": {"version": "3.0", "spec_version": "1.0"},
            "mqtt_version": 5,
            "client_id": "c",
            "username": "u",
            "clean_start": True,
            "keep_alive_s": 60,
            "will": None,
            "properties": {},
            "client": (host, port),
            "server": client.writer.get_extra_info("peername"),
            "scheme": "mqtt",
            "extensions": {
                "mqtt.limits": {"max_packet_bytes": 262_144, "receive_maximum": 512, "max_messages_per_s": 0}
            },
            "state": {"shared": 1},
        }

    async def test_small_answers_leave_at_once(self, serve: Serve) -> None:
        server = await serve()
        await Client.connected(server)

        [endpoint] = server._endpoints.open
        sock = endpoint.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class TestBackPressure:
    async def test_a_slow_application_stops_the_reading_of_its_client_only(self, serve: Serve) -> None:
        gate = asyncio.Event()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            while (event := await receive())["type"] != "mqtt.disconnect":
                if event["type"] == "mqtt.publish" and scope["client_id"] == "slow":
                    await gate.wait()
                await answer(event, send)

        server = await serve(application)
        slow, quick = await Client.connected(server, "slow"), await Client.connected(server, "quick")
        packet = Publish(topic="t", payload=b"x" * 50_000)
        slow.send(*[packet] * 1_000)
        [endpoint] = [one for one in server._endpoints.open if one._name == "slow"]
        await until(lambda: endpoint.reading.closed_by != 0)

        quick.send(Publish(topic="t", qos=1, packet_id=1))
        assert await quick.receive() == PubAck(1)
        assert endpoint.connection.received_publishes < 100, "the rest is in the sockets, and at the client"

        gate.set()
        await until(lambda: endpoint.connection.received_publishes == 1_000)

    async def test_a_publish_sent_again_and_again_which_the_application_does_not_see_stops_the_reading_of_its_client(
        self, serve: Serve
    ) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            while (event := await receive())["type"] != "mqtt.disconnect":
                if event.get("qos") != 1:
                    await answer(event, send)

        server = await serve(application, receive_maximum=100)
        client = await Client.connected(server)
        again = Publish(topic="t", payload=b"x" * 50_000, qos=2, packet_id=1)
        client.send(again)
        await client.receive()

        client.send(Publish(topic="t", qos=1, packet_id=2), *[again] * 1_000)

        [endpoint] = server._endpoints.open
        await until(lambda: endpoint.reading.closed_by != 0)
        assert endpoint.connection.received_publishes < 200
        endpoint.transport.abort()  # the server would wait seconds for the answer at its close

    async def test_a_client_that_takes_nothing_is_not_read_and_is_cut_off(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = await serve(write_timeout_s=0.5)
        client = await Client.connected(server)
        await client.subscribe("t")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        [endpoint] = server._endpoints.open

        for _ in range(200):
            server.publish("t", b"x" * 100_000, qos=1)
            await asyncio.sleep(0)
        session = endpoint.connection.session
        assert session is not None
        assert session.outbox.queued <= 1_000
        assert (
            server.broker.dropped.total() + server._server_state.statistics.traffic.dropped > 0
        )  # the clock takes from one to the other

        await until(lambda: not server._endpoints.open)
        assert "cut off c from 127.0.0.1:" in caplog.text

    async def test_sending_waits_until_the_client_has_taken_enough(self, serve: Serve) -> None:
        sent: list[int] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await answer(await receive(), send)
            for number in range(200):
                await send({"type": "mqtt.publish", "topic": "t", "payload": b"x" * 100_000})
                sent.append(number)
            await broker(scope, receive, send)

        server = await serve(application)
        client = await Client.connected(server)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        [endpoint] = server._endpoints.open
        await until(lambda: not endpoint.connection.writer.writable)
        waiting_at = len(sent)
        await asyncio.sleep(0)
        assert len(sent) == waiting_at < 200

        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(200):
            assert isinstance(await client.receive(), Publish)


class TestEnds:
    async def test_a_client_whose_certificate_was_revoked_is_told_and_its_will_held_back(self, serve: Serve) -> None:
        server = await serve()
        watcher = await Client.connected(server, "watcher")
        await watcher.subscribe("gone")
        client = await Client.connected(server, will=Will(topic="gone", payload=b"x"))

        [endpoint] = [one for one in server._endpoints.open if one._name == "c"]
        endpoint.certificate_revoked()

        assert [packet.reason_code for packet in await client.ended() if isinstance(packet, Disconnect)] == [0x87]
        watcher.send(PingReq())
        assert isinstance(await watcher.receive(), PingResp)

    async def test_an_application_that_raises_is_logged_once_and_its_client_told(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await answer(await receive(), send)
            await receive()
            raise ArithmeticError("on purpose")

        server = await serve(application)
        client = await Client.connected(server)

        client.send(Publish(topic="t", payload=b"secret", qos=1, packet_id=1))

        [packet] = await client.ended()
        assert isinstance(packet, Disconnect)
        assert packet.reason_code == ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        assert [record.levelname for record in caplog.records].count("ERROR") == 1
        assert "secret" not in caplog.text

    async def test_a_faulty_event_raises_in_the_application(self, serve: Serve) -> None:
        errors: list[Exception] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await answer(await receive(), send)
            for event in ({"type": "mqtt.publish", "topic": "a/#", "payload": b""}, {"type": "mqtt.ack"}):
                try:
                    await send(event)
                except (ValueError, KeyError) as error:
                    errors.append(error)
            await broker(scope, receive, send)

        await Client.connected(await serve(application))
        await until(lambda: len(errors) == 2)

    async def test_the_disconnect_event_comes_after_the_events_before_it(self, serve: Serve) -> None:
        events: list[Event] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            while not events or events[-1]["type"] != "mqtt.disconnect":
                events.append(await receive())
                await answer(events[-1], send)

        client = await Client.connected(await serve(application))

        client.send(Publish(topic="t", payload=b"last words"), Disconnect())

        assert await client.ended() == []
        await until(lambda: bool(events) and events[-1]["type"] == "mqtt.disconnect")
        assert [event["type"] for event in events] == ["mqtt.connect", "mqtt.publish", "mqtt.disconnect"]
        assert events[-1]["reason"] == "client"

    async def test_a_refusal_is_one_line_that_says_what_who_and_why(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "gateway.mqtt")

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            refusal = {"reason_code": 0x86, "reason_string": "unknown token", "log_reason": "sensor-7 is disabled"}
            await send({"type": "mqtt.reject", **refusal})

        client = await Client.open(await serve(application))
        client.send(Connect(version=5, client_id="c\u2028", username="u", password=b"hunter2"))

        [connack] = await client.ended()
        assert isinstance(connack, ConnAck)
        assert connack.properties == {"reason_string": "unknown token"}
        [record] = [record for record in caplog.records if record.name == "gateway.mqtt"]
        line = record.getMessage()
        assert line.startswith("closed c\\u2028 from 127.0.0.1:")
        assert line.endswith("application, 0x86 sensor-7 is disabled")

    async def test_a_client_that_sends_all_before_it_reads_is_told_why_it_is_closed(self, serve: Serve) -> None:
        server = await serve(max_packet_bytes=10_000)
        host, _, port = server.addresses[0].rpartition(":")
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, (host, int(port)))

            packets = Connect(version=5, client_id="c"), Publish(topic="t", payload=b"x" * 10_000_000)
            async with asyncio.timeout(30):
                await loop.sock_sendall(client, b"".join(encode(packet, 5) for packet in packets))

                received = b""
                while data := await loop.sock_recv(client, 65_536):
                    received += data

        *_, packet = Decoder(max_packet_bytes=1_000, version=5).decode(received)
        assert isinstance(packet, Disconnect)
        assert packet.reason_code == ReasonCode.PACKET_TOO_LARGE

    async def test_more_connections_than_allowed_are_closed_at_once(self, serve: Serve) -> None:
        server = await serve(max_connections=1)
        first = await Client.connected(server)

        assert await (await Client.open(server)).ended() == []

        first.send(Disconnect())
        assert await first.ended() == []
        await Client.connected(server)


class TestClose:
    async def test_clients_are_told_and_applications_waited_for(self, serve: Serve) -> None:
        finished: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            event: Event = {}
            while event.get("type") != "mqtt.disconnect":
                event = await receive()
                await answer(event, send)
            await asyncio.sleep(0.01)
            finished.append(event["reason"])

        server = await serve(application)
        client = await Client.connected(server)

        await server.close()

        assert finished == ["shutdown"]
        [packet] = await client.ended()
        assert isinstance(packet, Disconnect)
        assert packet.reason_code == ReasonCode.SERVER_SHUTTING_DOWN

    async def test_cancelled_it_cuts_connections_and_ends_applications(self, serve: Serve) -> None:
        cancelled = asyncio.Event()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await answer(await receive(), send)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        server = await serve(application)
        client = await Client.connected(server)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await server.close()

        await cancelled.wait()
        await client.ended()
        await until(lambda: not server._endpoints.open)

    async def test_a_taken_port_is_named(self, serve: Serve) -> None:
        server = await serve()

        other = MqttServer(broker, [Listener(bind=server.addresses[0], options=MqttOptions())], state={})

        with pytest.raises(OSError, match=f"cannot listen at {server.addresses[0]}"):
            await other.start()
        await other.close()


async def test_what_goes_through_the_server_is_told_below_sys(serve: Serve) -> None:
    server = await serve(of_broker=BrokerOptions(sys_interval_s=1))
    reader, writer = await asyncio.open_connection(*server.addresses[0].split(":"))
    writer.write(encode(Connect(version=4, client_id="c"), 4))
    writer.write(encode(Publish(topic="a", payload=b"12345", qos=1, packet_id=1), 4))
    subscriptions = tuple(
        Subscription(topic_filter=f"$SYS/broker/{name}", qos=0)
        for name in ("publish/bytes/received", "publish/messages/received", "clients/connected", "load/sockets/1min")
    )
    writer.write(encode(Subscribe(packet_id=2, subscriptions=subscriptions), 4))
    decoder, told = Decoder(max_packet_bytes=10_000, version=4), dict[str, bytes]()

    async with asyncio.timeout(60):
        while told.get("publish/bytes/received") != b"5" or len(told) < 4:
            for packet in decoder.decode(await reader.read(10_000)):
                if isinstance(packet, Publish):
                    told[packet.topic.removeprefix("$SYS/broker/")] = packet.payload

    writer.close()
    assert told["publish/messages/received"] == told["clients/connected"] == b"1"
    assert float(told["load/sockets/1min"]) > 0
