"""An endpoint on a transport that the test plays: what a real socket shows only when everything comes at a bad time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from protocols.asgi import Event, Receive, Scope, Send
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.codec.decoder import Decoder, encode
from protocols.mqtt.codec.packets import (
    Auth,
    Connect,
    Disconnect,
    Packet,
    PubAck,
    Publish,
    ReasonCode,
    Subscribe,
    Subscription,
)
from protocols.mqtt.endpoint import Endpoint
from protocols.mqtt.endpoints import Endpoints
from protocols.mqtt.message import Message
from protocols.mqtt.options import BrokerOptions, MqttOptions
from protocols.mqtt.server_state import ListenerContext, ServerState
from tests.support.waiting import until
from tests.support.wire import FakeTransport
from tests.unit.protocols.mqtt.test_server import answer, broker

HIGH_WATER_BYTES = 64 * 1024


class Socket(FakeTransport):
    """A transport whose peer takes what it is sent when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.buffered = 0
        self.full = False
        self.closing = False
        self.peer_takes_all = True
        self.shutdown_error: OSError | None = None
        """What the end of our half ends in, as that of a socket which the peer has reset."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        if self.peer_takes_all:
            return
        self.buffered += len(data)
        if self.buffered > HIGH_WATER_BYTES and not self.full:
            self.full = True
            assert self.protocol is not None
            self.protocol.pause_writing()

    def take(self) -> None:
        """The peer takes what is in the buffer."""
        self.buffered = 0
        if self.full:
            self.full = False
            assert self.protocol is not None
            self.protocol.resume_writing()

    def write_eof(self) -> None:
        super().write_eof()
        if self.shutdown_error is not None:
            raise self.shutdown_error

    def half_close(self) -> None:
        """The peer sends no more; the transport closes."""
        assert self.protocol is not None
        assert not self.protocol.eof_received()
        self.close()

    def close(self) -> None:
        """Waits until the buffer is empty, as real ones do."""
        if self.buffered:
            self.closing = True
        else:
            super().close()

    def is_closing(self) -> bool:
        return self.closing or super().is_closing()


class Peer:
    """A client of MQTT 5 at the other end of such a transport."""

    def __init__(self, context: ListenerContext) -> None:
        self.endpoint = Endpoint(context)
        self.transport = Socket()
        self.transport.protocol = self.endpoint
        self.endpoint.connection_made(self.transport)

    @classmethod
    async def connected(cls, context: ListenerContext, client_id: str = "c") -> "Peer":
        peer = cls(context)
        peer.send(Connect(version=5, client_id=client_id, keep_alive_s=60))
        await until(lambda: bool(peer.transport.written))
        peer.transport.written.clear()
        return peer

    def send(self, *packets: Packet) -> None:
        """Sends the packets in one piece."""
        self.endpoint.data_received(b"".join(encode(packet, 5) for packet in packets))

    async def subscribe(self, topic_filter: str) -> None:
        """Subscribes at QoS 1."""
        self.send(Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter=topic_filter, qos=1),)))
        await until(lambda: bool(self.transport.written))
        self.transport.written.clear()

    def received(self) -> list[Packet]:
        """What has been sent to it since the last look."""
        packets = list(Decoder(max_packet_bytes=1 << 28, version=5).decode(bytes(self.transport.written)))
        self.transport.written.clear()
        return packets


MakeContext = Callable[..., ListenerContext]


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts, and answers no publish."""
    await receive()
    await send({"type": "mqtt.accept"})
    while (await receive())["type"] != "mqtt.disconnect":
        pass


@pytest.fixture
async def make_context() -> AsyncIterator[MakeContext]:
    started: list[tuple[ServerState, Endpoints]] = []

    def make(application: Any = broker, **chosen: Any) -> ListenerContext:
        options = MqttOptions(**chosen)
        the_broker = Broker(BrokerOptions())
        server_state = ServerState(application, {}, the_broker)
        endpoints = Endpoints(server_state)
        endpoints.start(shortest_timeout_s=60)
        started.append((server_state, endpoints))
        return ListenerContext(server_state, options, "mqtt")

    yield make
    for server_state, endpoints in started:
        server_state.connections.abort_all()
        async with asyncio.timeout(30):
            await server_state.connections.wait_until_empty()
        endpoints.stop()


def publish(packet_id: int = 1, topic: str = "t", payload: bytes = b"x") -> Publish:
    return Publish(topic=topic, payload=payload, qos=1, packet_id=packet_id)


async def passes(count: int = 5) -> None:
    """Lets the loop do all that is due."""
    for _ in range(count):
        await asyncio.sleep(0)


class TestBeginning:
    @pytest.mark.parametrize("packet", [Disconnect(), Auth(), publish()], ids=["DISCONNECT", "AUTH", "PUBLISH"])
    async def test_a_client_that_is_gone_before_its_proof_was_asked_for_is_not_shown_to_the_application(
        self, make_context: MakeContext, packet: Packet
    ) -> None:
        scopes: list[Scope] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            scopes.append(scope)

        peer = Peer(make_context(application))
        connect = Connect(version=5, client_id="c", properties={"authentication_method": "SCRAM-SHA-256"})

        peer.send(connect, packet)
        await passes()

        assert peer.endpoint.connection.end is not None
        assert peer.transport.closed or peer.transport.eof_written
        assert scopes == []

    async def test_nothing_is_read_of_a_connection_that_is_one_too_many(self, make_context: MakeContext) -> None:
        scopes: list[Scope] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            scopes.append(scope)
            await broker(scope, receive, send)

        context = make_context(application, max_connections=1)
        await Peer.connected(context)

        other = Peer(context)
        other.send(Connect(version=5, client_id="other"))  # what a tunnel had read already
        await passes()

        assert other.transport.aborted
        assert [scope["client_id"] for scope in scopes] == ["c"]


class TestAnswering:
    """An application may try again, or leave out, what `send` has refused to take."""

    @staticmethod
    def careless(faulty: dict[str, Any]) -> Any:
        """Acknowledges with `faulty` added to the answer of each publish of "faulty", and does not mind the error."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            while (event := await receive())["type"] != "mqtt.disconnect":
                if event["type"] == "mqtt.publish" and event["topic"] == "faulty":
                    with pytest.raises(ValueError):  # noqa: PT011  # any that says it is the application's fault
                        await send({"type": "mqtt.ack", "ack_id": event["ack_id"], **faulty})
                else:
                    await answer(event, send)

        return application

    async def test_what_was_written_before_a_faulty_acknowledgement_leaves_all_the_same(
        self, make_context: MakeContext
    ) -> None:
        peer = await Peer.connected(make_context(self.careless({"properties": {"no_such_property": 1}})))
        await peer.subscribe("faulty")

        peer.send(publish(topic="faulty", payload=b"to itself"))
        await passes()

        [message] = peer.received()
        assert isinstance(message, Publish)
        assert message.payload == b"to itself"
        peer.send(publish(2))
        await passes()
        assert peer.received() == [PubAck(2)]

    async def test_a_client_that_may_send_one_at_a_time_is_read_on_after_a_faulty_acknowledgement(
        self, make_context: MakeContext
    ) -> None:
        context = make_context(self.careless({"properties": {"no_such_property": 1}}), receive_maximum=1)
        peer = await Peer.connected(context)

        peer.send(publish(topic="faulty"))
        assert peer.transport.reading_paused
        await passes()

        assert not peer.transport.reading_paused


class TestSlowClient:
    async def test_one_that_took_something_and_has_too_much_again_is_still_not_read(
        self, make_context: MakeContext
    ) -> None:
        context = make_context()
        peer = await Peer.connected(context)
        await peer.subscribe("t")
        peer.transport.peer_takes_all = False
        for _ in range(100):
            context.server_state.broker.publish("t", b"x" * 10_000, qos=0, now=context.server_state.time())
        await passes()
        session = peer.endpoint.connection.session
        assert session is not None
        assert session.outbox.queued > 10
        assert peer.transport.reading_paused

        peer.transport.take()

        assert peer.transport.full
        assert session.outbox.queued
        assert peer.transport.reading_paused
        assert peer.endpoint in context.server_state.connections._stalled

        while peer.transport.full:
            peer.transport.take()
        assert not session.outbox.queued
        assert not peer.transport.reading_paused

    async def test_one_that_is_closed_is_cut_in_time_also_if_it_took_something_since(
        self, make_context: MakeContext
    ) -> None:
        context = make_context()
        peer = await Peer.connected(context)
        await peer.subscribe("t")
        peer.transport.peer_takes_all = False
        for _ in range(20):
            context.server_state.broker.publish("t", b"x" * 10_000, qos=0, now=context.server_state.time())
        await passes()
        peer.endpoint.connection.close(ReasonCode.ADMINISTRATIVE_ACTION, "operator", context.server_state.time())
        await passes()
        cut_at = peer.endpoint.deadline
        assert cut_at < float("inf")

        peer.transport.take()
        assert peer.endpoint.deadline == cut_at

        context.server_state.connections.expire(cut_at)
        assert peer.transport.aborted

    async def test_one_that_is_closed_has_no_longer_because_it_takes_nothing(self, make_context: MakeContext) -> None:
        context = make_context(write_timeout_s=1_000.0)
        peer = await Peer.connected(context)
        peer.endpoint.connection.close(ReasonCode.ADMINISTRATIVE_ACTION, "operator", context.server_state.time())
        await passes()

        peer.endpoint.pause_writing()

        context.server_state.connections.expire(context.server_state.time() + 100)
        assert peer.transport.aborted

    async def test_an_application_that_waits_to_send_learns_at_once_that_the_connection_has_ended(
        self, make_context: MakeContext
    ) -> None:
        events: list[Event] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            for _ in range(2):
                await answer(await receive(), send)
            for _ in range(100):
                await send({"type": "mqtt.publish", "topic": "t", "payload": b"x" * 10_000})
            events.append(await receive())

        context = make_context(application)
        peer = await Peer.connected(context)
        peer.transport.peer_takes_all = False
        peer.send(publish())
        await until(lambda: peer.transport.full)

        await Peer.connected(context)
        await until(lambda: bool(events))

        assert events[0]["reason"] == "taken_over"
        assert not peer.transport.closed, "it has not taken what was sent before"

    async def test_one_that_sends_no_more_and_takes_nothing_is_gone_and_nothing_is_kept_for_it(
        self, make_context: MakeContext
    ) -> None:
        context = make_context()
        peer = await Peer.connected(context)
        await peer.subscribe("t")
        peer.transport.peer_takes_all = False

        context.server_state.broker.publish("t", b"x", qos=0, now=context.server_state.time())
        await passes()
        peer.transport.half_close()
        for _ in range(100):
            context.server_state.broker.publish("t", b"x" * 10_000, qos=0, now=context.server_state.time())
        await passes()

        assert peer.endpoint.connection.end is not None
        assert peer.endpoint.connection.writer.output == []
        assert peer.endpoint.deadline < float("inf")

    async def test_an_application_that_does_nothing_but_send_lets_others_go_on_when_the_client_has_gone(
        self, make_context: MakeContext
    ) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await answer(await receive(), send)
            await receive()
            while True:
                await send({"type": "mqtt.publish", "topic": "t", "payload": b"x" * 10_000})

        context = make_context(application)
        peer = await Peer.connected(context)
        peer.transport.peer_takes_all = False
        peer.send(publish())
        await until(lambda: peer.transport.full)

        peer.transport.abort()
        await passes()

        context.server_state.connections.abort_all()
        await until(lambda: not context.server_state.connections.open)


class TestTunnel:
    async def test_what_a_transport_delivers_while_it_is_told_to_read_on_counts_against_the_bounds(
        self, make_context: MakeContext
    ) -> None:
        """That of a tunnel has a part of its last read still in hand."""
        gate = asyncio.Event()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            while (event := await receive())["type"] != "mqtt.disconnect":
                if event["type"] == "mqtt.publish" and event["payload"] == b"later":
                    await gate.wait()
                await answer(event, send)

        peer = await Peer.connected(make_context(application, receive_maximum=2))
        in_hand = [publish(3)]
        resume = peer.transport.resume_reading

        def resume_reading() -> None:
            resume()
            if in_hand:
                peer.send(in_hand.pop())

        peer.transport.resume_reading = resume_reading  # type: ignore[method-assign]  # as that of TunnelTransport does
        peer.send(publish(1), publish(2, payload=b"later"))
        assert peer.transport.reading_paused
        await passes()

        assert not in_hand
        assert peer.transport.reading_paused
        gate.set()
        await passes()
        assert not peer.transport.reading_paused
        assert peer.received() == [PubAck(1), PubAck(2), PubAck(3)]


class TestEnds:
    async def test_a_client_that_has_reset_the_connection_already_takes_nobody_else_s_answers_along(
        self, make_context: MakeContext
    ) -> None:
        context = make_context()
        first, second = await Peer.connected(context, "1"), await Peer.connected(context, "2")
        await second.subscribe("t")
        first.transport.shutdown_error = OSError(107, "Transport endpoint is not connected")

        first.send(Connect(version=5, client_id="1"))
        context.server_state.broker.route(Message("t", b"x", 0, False, None, now=0.0), None, 0.0)
        await passes()

        assert first.transport.closed
        assert [type(packet) for packet in second.received()] == [Publish]


class TestWaitingForAnswers:
    """A server that stops reads nothing more, and waits for the answers of its applications."""

    async def test_a_stop_does_not_wait_for_clients_that_have_nothing_to_be_answered(
        self, make_context: MakeContext
    ) -> None:
        context = make_context(silent)
        peer = await Peer.connected(context)

        await Endpoints(context.server_state).wait_for_answers()

        assert peer.transport.reading_paused

    async def test_a_stop_waits_for_each_client_until_it_is_answered_or_has_gone(
        self, make_context: MakeContext
    ) -> None:
        sends: list[Send] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            sends.append(send)
            await silent(scope, receive, send)

        context = make_context(application)
        first, second = await Peer.connected(context, "1"), await Peer.connected(context, "2")
        first.send(publish(1))
        second.send(publish(1), publish(2))
        waiting = asyncio.create_task(Endpoints(context.server_state).wait_for_answers())
        await passes()

        await sends[1]({"type": "mqtt.ack", "ack_id": 1})
        first.transport.abort()
        await passes()
        assert not waiting.done()

        await sends[1]({"type": "mqtt.ack", "ack_id": 2})
        await passes()
        assert waiting.done()
        assert second.received() == [PubAck(1), PubAck(2)]
