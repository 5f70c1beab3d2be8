"""What QoS 1 and 2 promise, under any sequence of messages, acknowledgements and lost connections [MQTT5-4.3]."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.mqtt.codec.packets import Packet, PubAck, PubComp, Publish, PubRec, PubRel
from protocols.mqtt.options import MqttOptions
from tests.unit.protocols.mqtt.harness import Client, World

KEEP: dict[str, Any] = {"session_expiry_interval": 1_000}
QOS = st.integers(0, 2)


class Subscriber:
    """A client that keeps its half of the session as it should, on connections that get lost at any point."""

    def __init__(self, world: World, receive_maximum: int) -> None:
        self.world = world
        self.properties = {**KEEP, "receive_maximum": receive_maximum}
        self.received: list[bytes] = []
        self.known: set[int] = set()
        self.waiting: list[Packet] = []
        self.connect(clean_start=True)
        self.client.subscribe("#")

    def connect(self, *, clean_start: bool = False) -> None:
        self.client = self.world.connected("s", clean_start=clean_start, properties=self.properties)
        self.waiting = list(self.client.earlier)

    def lose(self) -> None:
        """Whatever is on the way is lost."""
        self.client.lose()
        self.connect()

    def take_one(self) -> bool:
        """Handles the next packet, if there is one."""
        self.waiting += self.client.read()
        if not self.waiting:
            return False
        match self.waiting.pop(0):
            case Publish(qos=0, payload=payload):
                self.received.append(payload)
            case Publish(qos=1, payload=payload, packet_id=packet_id):
                self.received.append(payload)
                self.client.send(PubAck(packet_id))
            case Publish(payload=payload, packet_id=packet_id):
                if packet_id not in self.known:
                    self.known.add(packet_id)
                    self.received.append(payload)
                self.client.send(PubRec(packet_id))
            case PubRel(packet_id=packet_id):
                self.known.discard(packet_id)
                self.client.send(PubComp(packet_id))
            case packet:
                raise AssertionError(packet)
        return True


@pytest.mark.mqtt("MQTT5-4.6.0-4", "MQTT5-4.6.0-5", "MQTT5-4.3.3-7", "MQTT3-4.3.2-1", "MQTT3-4.3.3-1", "MQTT3-4.6.0-6")
@given(
    st.lists(st.one_of(QOS.map(lambda qos: ("publish", qos)), st.just(("take", 0)), st.just(("lose", 0))), max_size=40),
    st.integers(1, 4),
)
def test_delivery_to_a_subscriber_keeps_what_its_qos_guarantees(
    steps: list[tuple[str, int]], receive_maximum: int
) -> None:
    world = World()
    subscriber = Subscriber(world, receive_maximum)
    published: dict[int, list[bytes]] = {0: [], 1: [], 2: []}

    for number, (step, qos) in enumerate(steps):
        match step:
            case "publish":
                published[qos].append(b"%d" % number)
                world.publish("t", b"%d" % number, qos=qos)
            case "take":
                subscriber.take_one()
            case "lose":
                subscriber.lose()
    while subscriber.take_one():
        pass

    counts = Counter(subscriber.received)
    assert all(counts[payload] <= 1 for payload in published[0]), "at most once"
    assert all(counts[payload] >= 1 for payload in published[1]), "at least once"
    assert [payload for payload in subscriber.received if payload in published[2]] == published[2], "exactly, in order"
    first_arrivals = [payload for payload in dict.fromkeys(subscriber.received) if payload in published[1]]
    assert first_arrivals == published[1], "in the order of their first arrival"


class Publisher:
    """A client that sends again what was not acknowledged, on connections that get lost at any point."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.unacknowledged: dict[int, Publish] = {}
        self.released: dict[int, None] = {}
        self.packet_id = 0
        self.unanswered: list[dict[str, Any]] = []
        self.client = self.connect(clean_start=True)

    def connect(self, *, clean_start: bool = False) -> Client:
        self.client = self.world.connected("p", clean_start=clean_start, properties=KEEP)
        self.unanswered = []
        return self.client

    def publish(self, payload: bytes, qos: int) -> None:
        if qos:
            self.packet_id += 1
        packet = Publish(topic="t", payload=payload, qos=qos, packet_id=self.packet_id if qos else 0)
        if qos:
            self.unacknowledged[packet.packet_id] = packet
        self.unanswered += self.client.send(packet)

    def application_answers(self, position: int) -> None:
        """The application acknowledges one of the publishes that it has, in whatever order."""
        if self.unanswered:
            self.client.ack(self.unanswered.pop(position % len(self.unanswered)))

    def lose(self, *, with_late_answers: bool) -> None:
        """The application may still acknowledge to the old connection, before the client is back or after."""
        old, unanswered = self.client, self.unanswered
        old.lose()
        if with_late_answers:
            for event in unanswered[::2]:
                old.ack(event)
        self.connect()
        for packet_id in self.released:
            self.client.send(PubRel(packet_id))
        for packet in self.unacknowledged.values():
            again = Publish(topic="t", payload=packet.payload, qos=packet.qos, packet_id=packet.packet_id, dup=True)
            self.unanswered += self.client.send(again)
        if with_late_answers:
            for event in unanswered[1::2]:
                old.ack(event)

    def take(self) -> None:
        for packet in self.client.read():
            match packet:
                case PubAck(packet_id=packet_id):
                    del self.unacknowledged[packet_id]
                case PubRec(packet_id=packet_id):
                    if self.unacknowledged.pop(packet_id, None) is not None:
                        self.released[packet_id] = None
                    self.client.send(PubRel(packet_id))
                case PubComp(packet_id=packet_id):
                    self.released.pop(packet_id, None)
                case _:
                    raise AssertionError(packet)


@pytest.mark.mqtt(
    "MQTT5-4.6.0-2",
    "MQTT5-4.6.0-3",
    "MQTT5-4.3.3-10",
    "MQTT3-4.3.2-2",
    "MQTT3-4.3.3-2",
    "MQTT3-4.6.0-2",
    "MQTT3-4.6.0-3",
)
@given(
    st.lists(
        st.one_of(
            QOS.map(lambda qos: ("publish", qos)),
            st.integers(0, 3).map(lambda position: ("answer", position)),
            st.just(("take", 0)),
            st.integers(0, 1).map(lambda late: ("lose", late)),
        ),
        max_size=40,
    )
)
def test_delivery_of_a_publisher_keeps_what_its_qos_guarantees(steps: list[tuple[str, int]]) -> None:
    world = World(MqttOptions(receive_maximum=1_000))
    watcher = world.connected("w")
    watcher.subscribe("t", qos=0)
    publisher = Publisher(world)
    published: dict[int, list[bytes]] = {0: [], 1: [], 2: []}

    for number, (step, argument) in enumerate(steps):
        match step:
            case "publish":
                published[argument].append(b"%d" % number)
                publisher.publish(b"%d" % number, argument)
            case "answer":
                publisher.application_answers(argument)
            case "take":
                publisher.take()
            case "lose":
                publisher.lose(with_late_answers=bool(argument))
    while publisher.unanswered or publisher.unacknowledged or publisher.released:
        publisher.application_answers(0)
        publisher.take()

    routed = watcher.payloads()
    counts = Counter(routed)
    assert all(counts[payload] <= 1 for payload in published[0]), "at most once"
    assert all(counts[payload] >= 1 for payload in published[1]), "at least once"
    assert [payload for payload in routed if payload in published[2]] == published[2], "exactly once, in order"
