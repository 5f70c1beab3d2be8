"""A server with a store: answers wait for commits, and whatever ails the store, none is false; on both loops."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from protocols import metrics
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
)
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.server import MqttServer
from protocols.mqtt.storage.committer import Committer
from protocols.mqtt.storage.journal import Journal
from protocols.mqtt.storage.rows import Changes, StoreError, StoreTakenError
from protocols.server import Listener
from tests.support.mqtt_store import MemoryStore
from tests.support.waiting import until
from tests.unit.protocols.mqtt.test_server import Client, broker

HOUR = {"session_expiry_interval": 3_600}


class TroubledStore(MemoryStore):
    """Keeps rows while it is open and well."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        """Whether writing comes to an end."""
        self.gate.set()
        self.trouble: StoreError | None = None
        """What writing ends in."""
        self.writes = 0
        """How many have begun."""
        self.commits = 0
        self.is_closed = False

    def write(self, changes: Changes) -> None:
        """See Store."""
        self.writes += 1
        assert self.gate.wait(30)
        if self.trouble is not None:
            raise self.trouble
        super().write(changes)
        self.commits += 1

    def keep(self) -> None:
        """See Store."""
        if isinstance(self.trouble, StoreTakenError):
            raise self.trouble

    def close(self) -> None:
        """See Store."""
        self.is_closed = True


Serve = Callable[..., Awaitable[MqttServer]]


@pytest.fixture
def store() -> TroubledStore:
    return TroubledStore()


@pytest.fixture
async def serve(store: TroubledStore) -> AsyncIterator[Serve]:
    servers = []

    async def start(**options: Any) -> MqttServer:
        listener = Listener(bind="127.0.0.1:0", options=MqttOptions(**options))
        server = MqttServer(broker, [listener], state={}, store=store)
        await server.start()
        servers.append(server)
        return server

    yield start
    store.trouble = None
    store.gate.set()
    for client in Client.opened:
        client.writer.transport.abort()
    Client.opened.clear()
    for server in servers:
        async with asyncio.timeout(30):
            await server.close()


@pytest.fixture
async def server(serve: Serve) -> MqttServer:
    """A server that keeps what is published to t, for a client that is absent."""
    server = await serve()
    await absent(server)
    return server


@pytest.fixture
async def publisher(server: MqttServer) -> Client:
    """A client of that server."""
    return await Client.connected(server, "p")


async def kept(server: MqttServer, client_id: str = "kept") -> Client:
    """A client whose session is kept, subscribed to t."""
    client = await Client.connected(server, client_id, clean_start=False, properties=HOUR)
    await client.subscribe("t")
    return client


async def absent(server: MqttServer, client_id: str = "absent") -> None:
    """Leaves such a session without its client."""
    client = await kept(server, client_id)
    client.send(Disconnect())
    await client.ended()


def publish(number: int = 1, payload: bytes = b"x", qos: int = 1, topic: str = "t") -> Publish:
    return Publish(topic=topic, payload=payload, qos=qos, packet_id=number if qos else 0)


async def answer_of(client: Client) -> "asyncio.Task[Packet]":
    """What the client is sent next, awaited elsewhere."""
    return asyncio.create_task(client.receive())


async def served(server: MqttServer, client_id: str) -> None:
    """Returns when a client that is not kept has connected and been answered: all that came before has been read."""
    client = await Client.connected(server, client_id)
    client.send(PingReq())
    assert await client.receive() == PingResp()


class TestWaiting:
    async def test_puback_leaves_after_the_commit(
        self, server: MqttServer, publisher: Client, store: TroubledStore
    ) -> None:
        store.gate.clear()
        writes = store.writes

        publisher.send(publish())
        answer = await answer_of(publisher)
        await until(lambda: store.writes > writes)
        await served(server, "other")
        assert not answer.done()

        store.gate.set()
        assert await answer == PubAck(1)

    async def test_no_answer_waits_for_the_clock(self, serve: Serve) -> None:
        server = await serve()
        server._endpoints.stop()

        await absent(server)
        publisher = await Client.connected(server, "p")
        publisher.send(publish())

        assert await publisher.receive() == PubAck(1)

    async def test_what_comes_while_a_commit_runs_is_one_commit(
        self, server: MqttServer, publisher: Client, store: TroubledStore
    ) -> None:
        store.gate.clear()
        before, writes = store.commits, store.writes
        publisher.send(publish(1))
        await until(lambda: store.writes > writes)

        for number in range(2, 102):
            publisher.send(publish(number))
        server_state = server._server_state
        await until(lambda: sum(one.connection.received_publishes for one in server_state.connections.open) == 101)
        store.gate.set()

        assert [await publisher.receive() for _ in range(101)] == [PubAck(number) for number in range(1, 102)]
        assert store.commits - before == 2

    async def test_answers_of_a_connection_keep_their_order(
        self, server: MqttServer, publisher: Client, store: TroubledStore
    ) -> None:
        store.gate.clear()

        publisher.send(publish(1), publish(2, topic="nobody"))
        answer = await answer_of(publisher)
        await served(server, "other")
        assert not answer.done()
        store.gate.set()

        assert [await answer, await publisher.receive()] == [PubAck(1), PubAck(2)]

    async def test_a_client_that_breaks_the_rules_gets_its_answers_and_then_the_reason(
        self, server: MqttServer, publisher: Client, store: TroubledStore
    ) -> None:
        store.gate.clear()

        publisher.send(publish(1))
        [endpoint] = server._endpoints.open
        await until(lambda: endpoint._commit_gate is not None)
        publisher.send(Connect(version=5, client_id="again"))
        await until(lambda: endpoint.connection.end is not None)
        store.gate.set()

        answer, reason = await publisher.ended()
        assert answer == PubAck(1)
        assert isinstance(reason, Disconnect)
        assert reason.reason_code == ReasonCode.PROTOCOL_ERROR

    async def test_a_client_that_does_not_wait_for_its_answer_is_no_trouble(
        self, server: MqttServer, publisher: Client, store: TroubledStore
    ) -> None:
        store.gate.clear()
        publisher.send(publish(1), publish(2), Disconnect())
        await until(lambda: len(server._endpoints.open) == 0)
        store.gate.set()

        back = await Client.open(server)
        back.send(Connect(version=5, client_id="absent", clean_start=False, properties=HOUR))

        assert [type(await back.receive()) for _ in range(3)] == [ConnAck, Publish, Publish]

    async def test_output_that_waits_is_bounded_messages_wait_in_the_session_instead(
        self, serve: Serve, store: TroubledStore
    ) -> None:
        server = await serve(max_queued_messages=10)
        client = await kept(server)
        store.gate.clear()
        client.send(Subscribe(packet_id=2, subscriptions=(Subscription(topic_filter="u", qos=1),)))
        server_state = server._server_state
        [endpoint] = server_state.connections.open
        await until(lambda: endpoint._commit_gate is not None)

        payload = b"x" * 10_000
        for _ in range(10):
            for _ in range(10):
                server.publish("t", payload, qos=0)
            await asyncio.sleep(0)

        assert endpoint._commit_gate is not None
        assert endpoint._commit_gate.size_bytes < 200_000
        assert (
            server.broker.dropped.total() + server_state.statistics.traffic.dropped > 50
        )  # the clock takes from one to the other
        store.gate.set()
        assert isinstance(await client.receive(), SubAck)
        assert isinstance(await client.receive(), Publish)


class TestRestarts:
    async def test_a_server_goes_on_with_what_the_one_before_kept(
        self, serve: Serve, server: MqttServer, publisher: Client, store: TroubledStore
    ) -> None:
        publisher.send(publish(payload=b"kept"))
        assert await publisher.receive() == PubAck(1)
        await server.close()
        await until(lambda: store.is_closed)

        client = await Client.open(await serve())
        client.send(Connect(version=5, client_id="absent", clean_start=False, properties=HOUR))

        connack, message = await client.receive(), await client.receive()
        assert isinstance(connack, ConnAck)
        assert connack.session_present
        assert isinstance(message, Publish)
        assert message.payload == b"kept"

    async def test_what_nothing_waits_for_is_kept_within_a_second_and_at_a_stop(
        self, serve: Serve, store: TroubledStore
    ) -> None:
        server = await serve(connect_timeout_s=0.1)
        server.publish("a", b"1", retain=True)
        await until(lambda: store.commits == 1)
        server.publish("b", b"2", retain=True)
        await server.close()

        assert len((await serve()).broker.retained) == 2

    async def test_a_stop_waits_for_the_commit_and_answers_before_it_says_goodbye(
        self, server: MqttServer, publisher: Client, store: TroubledStore
    ) -> None:
        store.gate.clear()
        writes = store.writes
        publisher.send(publish())
        await until(lambda: store.writes > writes)

        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        store.gate.set()
        await closing

        answer, reason = await publisher.ended()
        assert answer == PubAck(1)
        assert isinstance(reason, Disconnect)
        assert reason.reason_code == ReasonCode.SERVER_SHUTTING_DOWN

    async def test_a_stop_that_is_given_up_ends_although_nothing_can_be_kept(
        self, server: MqttServer, publisher: Client, store: TroubledStore
    ) -> None:
        store.trouble = StoreError("away")
        writes = store.writes
        publisher.send(publish())
        await until(lambda: store.writes > writes)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await server.close()

        assert await publisher.ended() == []


class TestTrouble:
    async def test_what_cannot_be_kept_is_not_answered_until_it_is(
        self, publisher: Client, store: TroubledStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        failures = metrics.mqtt_commit_failures.labels("StoreError")
        counted = failures._value.get()
        store.trouble = StoreError("the disk is full")
        writes = store.writes

        publisher.send(publish())
        answer = await answer_of(publisher)
        await until(lambda: store.writes >= writes + 3)
        assert not answer.done()

        store.trouble = None
        assert await answer == PubAck(1)
        assert failures._value.get() - counted >= 2
        lines = [(record.levelno, record.message) for record in caplog.records if record.name == "gateway.mqtt"]
        assert lines[0] == (
            logging.ERROR,
            "MQTT sessions cannot be kept, clients wait; trying again until it works: the disk is full",
        )
        assert lines[1][0] == logging.WARNING
        assert lines[1][1].startswith("MQTT sessions are kept again, after ")
        assert len(lines) == 2

    async def test_meanwhile_sessions_that_are_to_be_kept_are_refused_and_others_served(
        self, server: MqttServer, publisher: Client, store: TroubledStore
    ) -> None:
        store.trouble = StoreError("the disk is full")
        publisher.send(publish())
        journal = server.broker.journal
        assert journal is not None
        await until(lambda: journal.failure is not None)

        client = await Client.open(server)
        client.send(Connect(version=5, client_id="new", properties=HOUR))
        [connack] = await client.ended()

        assert isinstance(connack, ConnAck)
        assert connack.reason_code == ReasonCode.SERVER_UNAVAILABLE
        await served(server, "other")

    async def test_meanwhile_who_publishes_to_them_is_not_read(self, serve: Serve, store: TroubledStore) -> None:
        server = await serve(max_queued_messages=1_000_000, max_queued_bytes=1_000_000_000)
        await absent(server)
        publisher = await Client.connected(server, "p")
        store.trouble = StoreError("the disk is full")
        publisher.send(publish())
        journal = server.broker.journal
        assert journal is not None
        await until(lambda: journal.failure is not None)

        publisher.send(publish(2))
        [endpoint] = [one for one in server._endpoints.open if one._name == "p"]
        await until(lambda: not endpoint.transport.is_reading())
        publisher.send(*[publish(number) for number in range(3, 103)])
        await served(server, "other")
        assert endpoint.connection.received_publishes == 2

        store.trouble = None
        assert [await publisher.receive() for _ in range(102)] == [PubAck(number) for number in range(1, 103)]

    async def test_when_another_process_has_the_sessions_their_clients_are_cut_and_nobody_elses(
        self, serve: Serve, store: TroubledStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = await serve()
        client, other = await kept(server), await Client.connected(server, "other")
        store.trouble = StoreTakenError("another gateway has them")

        client.send(publish())

        assert await client.ended() == []
        other.send(PingReq())
        assert await other.receive() == PingResp()
        assert any(
            record.levelno == logging.CRITICAL and "another gateway has them" in record.message
            for record in caplog.records
        )
        refused = await Client.open(server)
        refused.send(Connect(version=5, client_id="kept", properties=HOUR))
        [connack] = await refused.ended()
        assert isinstance(connack, ConnAck)
        assert connack.reason_code == ReasonCode.SERVER_UNAVAILABLE

    async def test_who_publishes_to_them_then_is_cut_and_does_not_wait_for_ever(
        self, serve: Serve, store: TroubledStore
    ) -> None:
        server = await serve()
        await absent(server)
        waiting = await Client.connected(server, "waiting")
        store.trouble = StoreTakenError("another gateway has them")

        waiting.send(publish())
        assert await waiting.ended() == []

        later = await Client.connected(server, "later")
        later.send(publish())
        assert await later.ended() == []


async def test_a_store_that_does_not_answer_is_a_failure_that_is_told_while_it_is_waited_for(
    store: TroubledStore, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal()
    committer = Committer(store, journal, on_taken=lambda: None, slow_s=0.01)
    await committer.open()
    store.gate.clear()
    before = metrics.mqtt_commit_failures.labels("slow")._value.get()
    committer._run(lambda: store.write(Changes()), committer._kept)

    await until(lambda: journal.failure is not None)

    assert journal.failure == "no answer from the store for 0.01 s"
    assert metrics.mqtt_commit_failures.labels("slow")._value.get() == before + 1
    store.gate.set()
    await until(lambda: journal.failure is None)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "MQTT sessions cannot be kept, clients wait; trying again until it works: no answer from the store for 0.01 s",
        "MQTT sessions are kept again, after 0 failed attempts",
    ]
    committer.close()
