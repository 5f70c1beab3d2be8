"""The plumbing that every wire stands on, with a wire that is nothing but plumbing."""

import ast
import asyncio
from pathlib import Path

import pytest

from protocols.connection_base import FLUSH_BYTES, INBOX_FULL, NEVER, Connection, Connections, ReadGate
from protocols.inbox import Inbox
from protocols.runner import ApplicationRun, ClientDisconnectedError
from tests.support.wire import FakeTransport

ANOTHER_REASON = 2

PROTOCOLS = Path(__file__).parents[3] / "protocols"


class Wire(Connection):
    """Does what every connection can."""

    def __init__(self, connections: "Connections[Wire]") -> None:
        super().__init__(connections, write_timeout_s=20)
        self.fake = FakeTransport()
        self.fake.protocol = self
        self.connection_made(self.fake)


@pytest.fixture
async def connections() -> Connections[Wire]:
    made: Connections[Wire] = Connections()
    made.start(shortest_timeout_s=1)
    made.stop()  # time is by hand
    return made


async def once_around() -> None:
    """Lets the present iteration of the loop end, and what it has scheduled."""
    for _ in range(3):
        await asyncio.sleep(0)


class TestWriting:
    async def test_what_is_written_in_one_iteration_of_the_loop_leaves_in_one_write(
        self, connections: Connections[Wire]
    ) -> None:
        wire = Wire(connections)
        wire.write(b"a")
        wire.write(b"b")
        assert not wire.fake.writes

        await once_around()
        assert (bytes(wire.fake.written), wire.fake.writes) == (b"ab", 1)

        wire.write(b"c")
        await once_around()
        assert (bytes(wire.fake.written), wire.fake.writes) == (b"abc", 2)

    async def test_much_is_written_at_once(self, connections: Connections[Wire]) -> None:
        wire = Wire(connections)
        wire.write(b"x" * (FLUSH_BYTES + 1))

        assert wire.fake.writes == 1

    async def test_a_sender_waits_for_a_peer_that_takes_nothing(self, connections: Connections[Wire]) -> None:
        wire = Wire(connections)
        await wire.drain()
        wire.pause_writing()
        senders = [asyncio.create_task(wire.drain()) for _ in range(2)]
        await once_around()
        assert not any(sender.done() for sender in senders)

        wire.resume_writing()
        await asyncio.gather(*senders)

    async def test_a_sender_that_is_cancelled_leaves_the_others_waiting(self, connections: Connections[Wire]) -> None:
        wire = Wire(connections)
        wire.pause_writing()
        first, second = (asyncio.create_task(wire.drain()) for _ in range(2))
        await once_around()
        first.cancel()
        await once_around()
        assert not second.done()

        wire.resume_writing()
        await second

    async def test_a_sender_is_told_that_the_peer_has_gone_and_later_ones_do_not_wait(
        self, connections: Connections[Wire]
    ) -> None:
        wire = Wire(connections)
        wire.pause_writing()
        sender = asyncio.create_task(wire.drain())
        await once_around()
        wire.fake.close()

        with pytest.raises(ClientDisconnectedError):
            await sender
        await wire.drain()

    async def test_a_peer_that_takes_nothing_in_time_is_cut_off(self, connections: Connections[Wire]) -> None:
        slow, slower = Wire(connections), Wire(connections)
        slow.pause_writing()
        slower.pause_writing()
        connections.expire(connections.now + 19)
        slow.resume_writing()
        connections.expire(connections.now + 1)

        assert (slow.fake.aborted, slower.fake.aborted) == (False, True)


class TestReadGate:
    def test_a_transport_is_read_again_when_the_last_reason_is_gone(self) -> None:
        transport = FakeTransport()
        gate = ReadGate(transport)
        gate.close(INBOX_FULL)
        gate.close(ANOTHER_REASON)
        gate.close(ANOTHER_REASON)
        assert transport.reading_paused

        gate.open(ANOTHER_REASON)
        assert transport.reading_paused
        gate.open(ANOTHER_REASON)
        assert transport.reading_paused
        gate.open(INBOX_FULL)
        assert not transport.reading_paused
        assert not gate.closed_by

    def test_a_reason_that_comes_while_the_transport_resumes_counts(self) -> None:
        class Eager(FakeTransport):
            """Delivers what it has in hand before `resume_reading` returns, as that of a tunnel."""

            def resume_reading(self) -> None:
                super().resume_reading()
                gate.close(ANOTHER_REASON)

        transport = Eager()
        gate = ReadGate(transport)
        gate.close(INBOX_FULL)
        gate.open(INBOX_FULL)

        assert transport.reading_paused
        assert gate.closed_by == ANOTHER_REASON

    async def test_a_transport_that_closes_is_left_alone(self, connections: Connections[Wire]) -> None:
        wire = Wire(connections)
        wire.fake.close()
        wire.pause_reading()

        assert not wire.fake.reading_paused


class TestLeaving:
    async def test_a_deadline_passes_once(self, connections: Connections[Wire]) -> None:
        wire = Wire(connections)
        wire.deadline = connections.now + 5
        connections.expire(connections.now + 4)
        assert not wire.fake.closed

        connections.expire(connections.now + 1)
        assert wire.fake.closed
        assert not wire.fake.aborted

    async def test_what_was_written_leaves_before_the_transport_closes(self, connections: Connections[Wire]) -> None:
        wire = Wire(connections)
        wire.write(b"bye")
        wire.close_transport()

        assert bytes(wire.fake.written) == b"bye"

    async def test_the_peer_may_send_on_after_our_half_has_ended_but_not_for_ever(
        self, connections: Connections[Wire]
    ) -> None:
        wire = Wire(connections)
        wire.pause_reading()
        wire.write(b"why")
        assert wire.half_close()
        wire.leave(2)
        assert (bytes(wire.fake.written), wire.fake.eof_written) == (b"why", True)
        assert not wire.fake.reading_paused
        assert not wire.fake.closed

        connections.expire(connections.now + 2)
        assert wire.fake.aborted

    async def test_a_transport_without_a_half_close_says_so(self, connections: Connections[Wire]) -> None:
        wire = Wire(connections)
        wire.fake.close()

        assert not wire.half_close()
        assert not wire.fake.eof_written

    async def test_a_server_waits_for_its_connections_and_its_applications(
        self, connections: Connections[Wire]
    ) -> None:
        gate = asyncio.Event()

        async def application(scope: object, receive: object, send: object) -> None:
            await gate.wait()

        async def send(event: object) -> None:
            pass

        wire = Wire(connections)
        run = ApplicationRun(
            application, {"type": "test"}, send, inbox=Inbox(), on_finished=lambda error: connections.finished(run)
        )
        connections.started(run)
        closing = asyncio.create_task(connections.close())
        await once_around()
        assert wire.fake.closed
        assert not connections.open
        assert not closing.done()

        gate.set()
        await closing

    async def test_a_server_whose_time_is_over_cuts_all_off(self, connections: Connections[Wire]) -> None:
        class Stubborn(Wire):
            def shut_down(self) -> None:
                """Does not."""

        wire = Stubborn(connections)
        closing = asyncio.create_task(connections.close())
        await once_around()
        closing.cancel()

        with pytest.raises(asyncio.CancelledError):
            await closing
        assert wire.fake.aborted

    async def test_a_connection_that_is_gone_has_no_deadline_left(self, connections: Connections[Wire]) -> None:
        wire = Wire(connections)
        wire.pause_writing()
        wire.fake.close()
        await once_around()
        connections.expire(NEVER)

        assert not wire.fake.aborted


def test_no_wire_has_a_plumbing_of_its_own() -> None:
    """The two others are no wires: one hands a transport on, one has the streams that amqtt reads."""
    found = {
        f"{file.relative_to(PROTOCOLS)} {node.name}"
        for file in PROTOCOLS.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).startswith("asyncio.") and ast.unparse(base).endswith("Protocol")
    }

    assert found == {"connection_base.py Connection", "handshake.py _AfterHandshake", "amqtt/connection.py Streams"}
