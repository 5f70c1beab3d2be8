"""What is written to one client, without a connection: sizes, aliases, commits, who watches."""

from collections import Counter

import pytest

from protocols.asgi import Event
from protocols.mqtt.codec.decoder import Decoder
from protocols.mqtt.codec.packets import MQTT_5_0, Packet, PubAck, Publish, ReasonCode
from protocols.mqtt.message import Message
from protocols.mqtt.packet_writer import FLUSH_BYTES, PacketWriter
from protocols.mqtt.storage.journal import Journal
from protocols.mqtt.topic_aliases import OutboundAliases
from protocols.mqtt.trace import Tap, Trace


class Sink:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.soon = 0
        self.now = 0

    def flush_soon(self) -> None:
        self.soon += 1

    def flush(self) -> None:
        self.now += 1

    def ask(self, event: Event) -> None:
        raise AssertionError(event)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def drops() -> Counter[str]:
    return Counter()


@pytest.fixture
def writer(sink: Sink, drops: Counter[str]) -> PacketWriter:
    writer = PacketWriter(sink, drops, None)
    writer.version = MQTT_5_0
    return writer


def message(payload: bytes = b"x", topic: str = "t") -> Message:
    return Message(topic, payload, now=0.0)


def written(writer: PacketWriter) -> list[Packet]:
    return list(Decoder(max_packet_bytes=1_000_000, version=writer.version).decode(writer.take_output()))


def test_the_sink_is_asked_once_for_all_that_is_written_until_it_takes_it(writer: PacketWriter, sink: Sink) -> None:
    writer.write_publish(message(), 0, False, (), 0.0)
    writer.write_publish(message(), 0, False, (), 0.0)

    assert (sink.soon, sink.now) == (1, 0)
    assert len(written(writer)) == 2
    writer.write_pubrel(1)
    assert sink.soon == 2


def test_much_output_is_not_collected_until_the_end_of_the_loop_iteration(writer: PacketWriter, sink: Sink) -> None:
    writer.write_publish(message(bytes(FLUSH_BYTES)), 0, False, (), 0.0)

    assert sink.now == 1


def test_an_answer_too_large_for_the_client_loses_what_is_dispensable_first(writer: PacketWriter) -> None:
    writer.max_packet_bytes = 20
    properties = {"reason_string": "no", "user_property": [("why", "because it is long")]}

    assert writer.write_packet(PubAck(7, ReasonCode.NOT_AUTHORIZED, properties))

    assert written(writer) == [PubAck(7, ReasonCode.NOT_AUTHORIZED, {"reason_string": "no"})]


def test_a_message_too_large_for_the_client_is_dropped_and_counted(writer: PacketWriter, drops: Counter[str]) -> None:
    writer.max_packet_bytes = 20

    assert not writer.write_publish(message(bytes(21)), 0, False, (), 0.0)

    assert written(writer) == []
    assert drops == {"too_large": 1}


def test_a_topic_is_written_once_where_the_client_takes_an_alias_for_it(writer: PacketWriter) -> None:
    writer.aliases = OutboundAliases(1)

    for topic in ("a", "a", "b"):
        writer.write_publish(message(topic=topic), 0, False, (), 0.0)

    packets = [(one.topic, one.properties) for one in written(writer) if isinstance(one, Publish)]
    assert packets == [("a", {"topic_alias": 1}), ("", {"topic_alias": 1}), ("b", {})]


def test_output_requires_the_commit_of_what_was_recorded_before(sink: Sink, drops: Counter[str]) -> None:
    journal = Journal()
    writer = PacketWriter(sink, drops, journal)
    writer.require_commit()
    assert writer.required_commit == 0

    journal.receive(1, 1)
    writer.require_commit()

    assert writer.required_commit == journal.commit_number() == 1


def test_a_writer_without_a_journal_requires_no_commit(writer: PacketWriter) -> None:
    writer.require_commit()

    assert writer.required_commit == 0


async def test_who_watches_is_told_of_packets_and_of_drops_as_long_as_it_watches(
    writer: PacketWriter, drops: Counter[str]
) -> None:
    trace = Trace("c", clock=lambda: 1.0)
    writer.max_packet_bytes = 20
    writer.write_publish(message(b"before"), 0, False, (), 0.0)

    watched = writer.traced(Tap([trace], "c", "here"))
    watched.write_publish(message(b"seen"), 0, False, (), 0.0)
    watched.write_publish(message(bytes(21)), 0, False, (), 0.0)
    plain = watched.traced(None)
    plain.write_publish(message(b"after"), 0, False, (), 0.0)

    events = [await anext(trace) for _ in range(2)]
    assert [(event.kind, event.text) for event in events] == [
        ("out", "topic='t' payload=4 bytes"),
        ("dropped", "to this client: too_large"),
    ]
    assert not trace._events
    assert [one.payload for one in written(plain) if isinstance(one, Publish)] == [b"before", b"seen", b"after"]
    assert drops == {"too_large": 1}
