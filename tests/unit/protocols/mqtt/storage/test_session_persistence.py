"""What outlives the process, and what the client is told before it does: the broker with a store, without a disk."""

from collections.abc import Callable

import pytest

from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.broker.owners import size_of_subscription
from protocols.mqtt.codec.packets import (
    ConnAck,
    Connect,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReasonCode,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from protocols.mqtt.options import NEVER_EXPIRES, BrokerOptions, MqttOptions
from protocols.mqtt.recovery import Clock, Recovery
from protocols.mqtt.storage.journal import Journal
from protocols.mqtt.storage.rows import KINDS, Changes, changes_of
from tests.support.mqtt_store import MemoryStore
from tests.unit.protocols.mqtt.harness import Client, World

HOUR_S = 3_600
HOUR = {"session_expiry_interval": HOUR_S}


class KeptWorld(World):
    """A broker that keeps; commits happen when the test says so."""

    def __init__(
        self,
        store: MemoryStore | None = None,
        options: MqttOptions | None = None,
        *,
        limits: BrokerOptions | None = None,
        now: float = 1_000.0,
        wall: float = 1_700_000_000.0,
    ) -> None:
        self.options = options or MqttOptions()
        self.store = store or MemoryStore()
        self.journal = Journal()
        self.now = now
        self.to_wall = wall - now
        self.broker = Broker(limits or BrokerOptions(), journal=self.journal)
        Recovery(self.broker, self.journal, self.options, Clock(now, wall)).run(self.store.load())

    def commit(self) -> Changes:
        """All that has been recorded so far is kept."""
        number, change_set = self.journal.close_group()
        changes = changes_of(change_set, self.to_wall)
        self.store.write(changes)
        self.journal.committed = number
        return changes

    def killed(self, away_s: float = 0.0) -> "KeptWorld":
        """The process ends without a word; the one that starts `away_s` later has another clock."""
        return KeptWorld(
            self.store, self.options, limits=self.broker.limits, now=77.0, wall=self.now + self.to_wall + away_s
        )

    def comes(self, client_id: str, version: int = 5, **connect: object) -> Client:
        """Connects a client whose session is to last an hour, and commits."""
        connect = {"clean_start": False, "properties": HOUR, **connect}
        client = self.connected(client_id, version, **connect)
        self.commit()
        return client

    def row_counts(self) -> dict[str, int]:
        """How many rows the store has of each kind, of those it has any of."""
        loaded = self.store.load()
        return {kind.name: count for kind in KINDS if (count := len(list(loaded[kind])))}


def leaving(client: Client) -> list[Packet]:
    """The packets that leave now: none of them while what they promise is not committed."""
    connection = client.connection
    journal = client.world.broker.journal
    assert journal is not None
    return [] if connection.writer.required_commit > journal.committed else client.read()


@pytest.fixture
def world() -> KeptWorld:
    return KeptWorld()


class TestPromises:
    """Each packet that says "I have it" leaves after the commit that has it."""

    def check(self, client: Client, do: Callable[[], object], kind: type[Packet]) -> None:
        world = client.world
        assert isinstance(world, KeptWorld)
        do()
        assert leaving(client) == []
        world.commit()
        [packet] = leaving(client)
        assert isinstance(packet, kind)

    def test_connack_of_a_session_that_is_kept(self, world: KeptWorld) -> None:
        client = world.client()

        self.check(client, lambda: connect(client, "c", properties=HOUR), ConnAck)

    def test_connack_of_a_clean_start_that_ends_a_session_that_was_kept(self, world: KeptWorld) -> None:
        world.comes("c").disconnect()
        client = world.client()

        self.check(client, lambda: connect(client, "c", clean_start=True), ConnAck)

        assert world.row_counts() == {}

    def test_suback_and_unsuback(self, world: KeptWorld) -> None:
        client = world.comes("c")

        self.check(client, lambda: subscribe(client, "a/+"), SubAck)
        self.check(client, lambda: unsubscribe(client, "a/+"), UnsubAck)

    @pytest.mark.parametrize(("qos", "answer"), [(1, PubAck), (2, PubRec)])
    def test_the_answer_to_a_publish_that_somebody_absent_is_to_get(
        self, world: KeptWorld, qos: int, answer: type[Packet]
    ) -> None:
        subscriber = world.comes("s")
        subscriber.subscribe("t")
        subscriber.lose()
        world.commit()
        publisher = world.connected("p")

        self.check(publisher, lambda: publish(publisher, "t", qos=qos), answer)

    def test_the_answer_to_a_publish_that_is_retained(self, world: KeptWorld) -> None:
        publisher = world.connected("p")

        self.check(publisher, lambda: publish(publisher, "t", qos=1, retain=True), PubAck)

    def test_pubrec_and_pubcomp_to_a_publisher_whose_session_is_kept(self, world: KeptWorld) -> None:
        publisher = world.comes("p")

        self.check(publisher, lambda: publish(publisher, "t", qos=2), PubRec)
        self.check(publisher, lambda: publisher.send(PubRel(1)), PubComp)

    def test_pubrec_waits_for_the_commit_also_when_the_publish_is_sent_again_before_it(self, world: KeptWorld) -> None:
        publisher = world.comes("p")
        publish(publisher, "t", qos=2)
        publisher.lose()
        publisher = world.connected("p", clean_start=False, properties=HOUR)

        publish(publisher, "t", qos=2, dup=True)

        assert publisher.connection.writer.required_commit > world.journal.committed

    def test_a_publish_at_qos_2_to_a_client_and_its_pubrel(self, world: KeptWorld) -> None:
        subscriber = world.comes("s")
        subscriber.subscribe("t")
        world.commit()

        self.check(subscriber, lambda: world.publish("t", b"x", qos=2), Publish)
        self.check(subscriber, lambda: subscriber.send(PubRec(1)), PubRel)


class TestFreeOfCharge:
    """What promises nothing touches no store and waits for nothing."""

    def test_sessions_that_end_with_their_connection(self, world: KeptWorld) -> None:
        for version in (3, 4, 5):
            subscriber = world.connected(f"s{version}", version)
            subscriber.subscribe("t")
            publisher = world.connected(f"p{version}", version)
            for qos in (0, 1, 2):
                publish(publisher, "t", qos=qos, packet_id=qos or 1)
            publisher.read()
            assert len(subscriber.take()) == 3
            assert publisher.connection.writer.required_commit == subscriber.connection.writer.required_commit == 0
            subscriber.disconnect()

        assert not world.journal.is_dirty

    def test_qos_0_to_a_session_that_is_kept(self, world: KeptWorld) -> None:
        subscriber = world.comes("s")
        subscriber.subscribe("t")
        world.commit()

        world.publish("t", b"x", qos=0)
        subscriber.lose()
        world.commit()
        world.publish("t", b"y", qos=0)

        assert not world.journal.is_dirty

    def test_a_publish_that_nobody_awaits(self, world: KeptWorld) -> None:
        world.comes("s").subscribe("t")
        world.commit()
        publisher = world.connected("p")

        publish(publisher, "other", qos=1)

        assert leaving(publisher) == [PubAck(1)]

    def test_a_message_that_is_acknowledged_before_the_commit_is_not_written(self, world: KeptWorld) -> None:
        subscriber = world.comes("s")
        subscriber.subscribe("t")
        world.commit()

        for number in range(10):
            world.publish("t", b"%d" % number, qos=1)
        assert len(subscriber.take()) == 10

        assert len(world.commit()) == 0

    def test_a_message_to_many_is_written_once(self, world: KeptWorld) -> None:
        for number in range(5):
            client = world.comes(f"s{number}")
            client.subscribe("t")
            client.disconnect()
        world.commit()

        world.publish("t", b"x", qos=1)
        world.commit()

        assert world.row_counts() == {"session": 5, "subscription": 5, "message": 1, "delivery": 5}

    def test_a_message_that_waits_is_in_memory_once_not_also_in_the_form_that_others_were_sent(
        self, world: KeptWorld
    ) -> None:
        world.connected("here").subscribe("t")
        absent = world.comes("absent")
        absent.subscribe("t")
        session = absent.connection.session
        absent.lose()

        world.publish("t", b"x", qos=1)

        assert session is not None
        assert session.outbox._queue is not None
        assert session.outbox._queue[0].message._encoded is None

    def test_what_is_over_leaves_nothing_behind(self, world: KeptWorld) -> None:
        client = world.comes("c", will=Will(topic="w", payload=b"", properties={"will_delay_interval": 5}))
        client.subscribe("t", "$share/g/t/u")
        for qos in (1, 2):
            world.publish("t", b"x", qos=qos)
            publish(client, "other", qos=qos, packet_id=qos)
        client.lose()
        world.publish("t", b"y", qos=1)
        world.commit()

        world = world.killed()
        world.connected("c", clean_start=True)
        world.commit()

        assert world.row_counts() == {}


class TestAfterAKill:
    def test_subscriptions_are_as_they_were(self, world: KeptWorld) -> None:
        client = world.comes("c")
        client.subscribe(
            Subscription(topic_filter="a/#", qos=1, no_local=True, retain_as_published=True), identifier=268_435_455
        )
        client.subscribe("b", "$share/g/c/+")
        unsubscribe(client, "b")
        world.commit()

        world = world.killed()
        for topic in ("a/1", "b", "c/1"):
            world.publish(topic, b"x", qos=2, retain=True)
        client = world.comes("c")
        publish(client, "a/own", qos=1)

        packets = [packet for packet in client.earlier if isinstance(packet, Publish)]
        assert [(p.topic, p.qos, p.retain) for p in packets] == [("a/1", 1, True), ("c/1", 2, False)]
        assert packets[0].properties == {"subscription_identifier": [268_435_455]}
        assert client.publishes() == []

    def test_what_waits_for_an_absent_member_of_a_shared_subscription_goes_to_another(self, world: KeptWorld) -> None:
        """As it would have without the kill: when the member that it waits for leaves the subscription."""
        absent = world.comes("absent")
        absent.subscribe("$share/g/t", "t/own")
        absent.lose()
        for topic in ("t", "t/own", "t"):
            world.publish(topic, topic.encode(), qos=1)
        world.commit()
        world = world.killed()
        other = world.comes("other")
        other.subscribe("$share/g/t")

        absent = world.comes("absent", clean_start=True)

        assert [packet.topic for packet in other.publishes()] == ["t", "t"]

    def test_who_published_a_retained_message_is_known(self, world: KeptWorld) -> None:
        publish(world.connected("c"), "t", qos=0, retain=True)
        world.commit()
        world = world.killed()

        client = world.connected("c")
        client.subscribe(Subscription(topic_filter="t", no_local=True))

        assert client.publishes() == []
        assert [packet.topic for packet in client.subscribe("t") if isinstance(packet, Publish)] == ["t"]

    def test_what_an_owner_has_is_known(self) -> None:
        world = KeptWorld(limits=BrokerOptions(max_sessions_per_owner=2, max_retained_messages_per_owner=1))
        absent = world.comes("absent", owner="device/1")
        absent.subscribe("t")
        publish(absent, "kept", qos=1, retain=True)
        absent.lose()
        world.comes("other", owner="device/1").lose()
        world.publish("t", bytes(1_000), qos=1)
        world.publish("ours", b"x", retain=True)
        world.commit()
        before = [(one.name, one.sessions, one.queued_bytes, one.retained_bytes) for one in world.broker.owners]

        world = world.killed()

        assert [(one.name, one.sessions, one.queued_bytes, one.retained_bytes) for one in world.broker.owners] == before
        assert before == [("device/1", 2, 1_001, 5)]
        assert world.broker.owners.subscription_bytes == size_of_subscription("t")
        assert [one.subscription_bytes for one in world.broker.owners] == [size_of_subscription("t")]
        third = world.client()
        third.send(Connect(version=5, client_id="third"))
        third.answer({"type": "mqtt.accept", "owner": "device/1"})
        assert world.broker.refused_sessions == {"max_sessions_per_owner": 1}
        world.broker.forget_owners({"device/1": "disabled"}, world.now)
        world.commit()
        assert world.row_counts() == {"retained": 1}

    def test_the_client_is_told_that_its_session_is_there(self, world: KeptWorld) -> None:
        world.comes("c")

        client = world.killed().comes("c")

        assert client.connack.session_present

    def test_what_was_acknowledged_for_an_absent_client_is_delivered_in_order(self, world: KeptWorld) -> None:
        client = world.comes("c")
        client.subscribe("t")
        client.disconnect()
        for number in range(20):
            world.publish("t", b"%d" % number, qos=1 + number % 2)
        world.commit()

        client = world.killed().comes("c")

        client.earlier = [packet for packet in client.earlier if isinstance(packet, Publish)]
        assert [p.payload for p in (*client.earlier, *answer_all(client))] == [b"%d" % number for number in range(20)]

    def test_what_was_under_way_is_sent_again_under_its_identifier(self, world: KeptWorld) -> None:
        client = world.comes("c")
        client.subscribe("t")
        for qos in (1, 2, 1):
            world.publish("t", b"%d" % qos, qos=qos)
        before = [(p.packet_id, p.qos, p.payload) for p in client.publishes()]
        world.commit()

        client = world.killed().comes("c")

        assert [(p.packet_id, p.qos, p.payload) for p in client.earlier if isinstance(p, Publish) and p.dup] == before

    def test_a_new_message_gets_no_identifier_that_is_in_use(self, world: KeptWorld) -> None:
        client = world.comes("c")
        client.subscribe("t")
        world.publish("t", b"1", qos=2)
        world.publish("t", b"2", qos=1)
        client.send(PubRec(1))
        world.commit()

        world = world.killed()
        client = world.comes("c")
        world.publish("t", b"3", qos=2)

        [packet] = client.publishes()
        assert packet.packet_id not in (1, 2)

    def test_what_the_client_has_received_at_qos_2_goes_on_with_pubrel(self, world: KeptWorld) -> None:
        client = world.comes("c")
        client.subscribe("t")
        world.publish("t", b"x", qos=2)
        client.send(PubRec(1))
        world.commit()

        world = world.killed()
        client = world.comes("c")
        assert client.earlier == [PubRel(1)]
        client.send(PubComp(1))
        world.commit()

        assert world.killed().comes("c").earlier == []

    def test_a_publish_at_qos_2_that_was_answered_is_not_routed_again(self, world: KeptWorld) -> None:
        subscriber = world.comes("s")
        subscriber.subscribe("t")
        subscriber.disconnect()
        publish(world.comes("p"), "t", qos=2)
        world.commit()

        world = world.killed()
        publisher = world.comes("p")
        publish(publisher, "t", qos=2, dup=True)
        world.commit()

        assert publisher.read() == [PubRec(1)]
        assert len(world.comes("s").earlier) == 1

    def test_a_new_publish_at_qos_2_is_routed_after_pubrel(self, world: KeptWorld) -> None:
        subscriber = world.comes("s")
        subscriber.subscribe("t")
        subscriber.disconnect()
        publisher = world.comes("p")
        publish(publisher, "t", qos=2)
        publisher.send(PubRel(1))
        world.commit()

        world = world.killed()
        publish(world.comes("p"), "t", qos=2)
        world.commit()

        assert len(world.comes("s").earlier) == 2

    def test_retained_messages_are_there_with_their_properties(self, world: KeptWorld) -> None:
        properties = {"user_property": [("a", "1"), ("a", "2")], "correlation_data": b"\0\xff", "content_type": "x"}
        world.publish("a", b"1", qos=2, retain=True, properties=properties)
        world.publish("b", b"2", retain=True)
        world.commit()
        world.publish("b", b"", retain=True)
        world.commit()

        world = world.killed()

        assert (len(world.broker.retained), world.broker.retained.size_bytes > 0) == (1, True)
        [_, packet] = world.connected("c").subscribe("#")
        assert isinstance(packet, Publish)
        assert (packet.topic, packet.payload, packet.qos, packet.properties) == ("a", b"1", 2, properties)

    def test_a_session_that_is_not_kept_is_gone(self, world: KeptWorld) -> None:
        world.connected("c").subscribe("t")
        world.commit()

        assert not world.killed().comes("c").connack.session_present

    def test_a_session_that_its_client_does_not_want_kept_any_more_is_gone(self, world: KeptWorld) -> None:
        client = world.comes("c")
        client.subscribe("t")
        client.disconnect()
        world.publish("t", b"x", qos=1)
        world.commit()
        client = world.connected("c", clean_start=False)
        world.commit()
        assert client.connack.session_present

        assert not world.killed().comes("c").connack.session_present

    def test_the_queue_is_bounded_as_before(self) -> None:
        world = KeptWorld(options=MqttOptions(max_queued_messages=3))
        client = world.comes("c")
        client.subscribe("t")
        client.disconnect()
        world.publish("t", b"1", qos=1)
        world.publish("t", b"2", qos=1)
        world.commit()

        world = world.killed()
        world.publish("t", b"3", qos=1)
        world.publish("t", b"4", qos=1)

        assert world.broker.dropped["queue_full"] == 1
        packets = [packet for packet in world.comes("c").earlier if isinstance(packet, Publish)]
        assert [packet.payload for packet in packets] == [b"1", b"2", b"3"]

    def test_what_was_not_committed_has_never_been(self, world: KeptWorld) -> None:
        client = world.comes("c")
        client.subscribe("t")
        world.commit()
        world.publish("t", b"x", qos=1)

        client = world.killed().comes("c")

        assert client.earlier == []

    def test_a_server_can_be_killed_again_and_again(self, world: KeptWorld) -> None:
        world.comes("c").subscribe("t")
        world.commit()
        for number in range(5):
            world = world.killed()
            world.publish("t", b"%d" % number, qos=2)
            world.commit()

        client = world.killed().comes("c")

        assert [p.payload for p in client.earlier if isinstance(p, Publish)] == [b"0", b"1", b"2", b"3", b"4"]


class TestTimeAway:
    """The time that nobody was here counts."""

    @pytest.mark.parametrize(("away_s", "present"), [(HOUR_S - 1, True), (HOUR_S + 1, False)])
    def test_for_the_expiry_of_a_session(self, world: KeptWorld, away_s: float, present: bool) -> None:
        world.comes("c").disconnect()
        world.commit()

        assert world.killed(away_s).comes("c").connack.session_present is present

    def test_a_client_that_was_there_at_the_end_has_its_whole_interval_from_the_start(self, world: KeptWorld) -> None:
        world.comes("c")

        world = world.killed(10 * HOUR_S)
        world.pass_time(HOUR_S - 1)
        assert len(world.broker.sessions) == 1
        world.pass_time(2)
        assert len(world.broker.sessions) == 0
        world.commit()

        assert world.row_counts() == {}

    def test_a_session_for_ever_stays(self) -> None:
        world = KeptWorld(options=MqttOptions(max_session_expiry_s=NEVER_EXPIRES))
        world.comes("c", properties={"session_expiry_interval": NEVER_EXPIRES}).disconnect()
        world.commit()

        assert world.killed(1_000 * 24 * HOUR_S).comes("c").connack.session_present

    def test_a_clock_that_was_set_back_does_not_prolong_it_beyond_the_interval(self, world: KeptWorld) -> None:
        world.comes("c").disconnect()
        world.commit()

        world = world.killed(-1_000 * HOUR_S)
        world.pass_time(HOUR_S + 1)

        assert len(world.broker.sessions) == 0

    def test_for_the_expiry_of_messages_that_wait_and_are_retained(self, world: KeptWorld) -> None:
        client = world.comes("c")
        client.subscribe("t/#")
        client.disconnect()
        for seconds in (50, 150):
            expiry = {"message_expiry_interval": seconds}
            world.publish(f"t/{seconds}", b"x", qos=1, retain=True, properties=expiry)
        world.commit()
        world.pass_time(20)

        world = world.killed(away_s=80)

        packets = [packet for packet in world.comes("c").earlier if isinstance(packet, Publish)]
        assert [(p.topic, p.properties) for p in packets] == [("t/150", {"message_expiry_interval": 50})]
        [_, retained] = world.connected("d").subscribe("t/#")
        assert isinstance(retained, Publish)
        assert (retained.topic, retained.properties) == ("t/150", {"message_expiry_interval": 50})

    def test_for_the_delay_of_a_will(self, world: KeptWorld) -> None:
        world.comes("w").subscribe("will")
        client = world.comes("c", will=will(delay_s=100))
        client.lose()
        world.commit()

        world = world.killed(away_s=40)
        watcher = world.comes("w")
        world.pass_time(59)
        assert watcher.publishes() == []
        world.pass_time(2)

        assert watcher.payloads() == [b"gone"]

    def test_a_will_whose_delay_has_passed_is_published_once(self, world: KeptWorld) -> None:
        world.comes("w").subscribe("will")
        world.comes("c", will=will(delay_s=100)).lose()
        world.commit()

        world = world.killed(away_s=101)
        world.commit()
        world = world.killed()
        world.pass_time(1_000)

        assert len([packet for packet in world.comes("w").earlier if isinstance(packet, Publish)]) == 1

    def test_the_will_of_a_client_that_was_there_at_the_end_is_published_unless_it_comes_back(
        self, world: KeptWorld
    ) -> None:
        world.comes("w").subscribe("will")
        for name in ("back", "gone"):
            world.comes(name, will=will(name.encode(), delay_s=10))
        world.commit()

        world = world.killed()
        watcher = world.comes("w")
        world.comes("back")
        world.pass_time(11)

        assert watcher.payloads() == [b"gone"]

    def test_a_will_that_was_taken_back_stays_so(self, world: KeptWorld) -> None:
        world.comes("w").subscribe("will")
        world.comes("c", will=will()).disconnect()
        world.commit()

        assert world.killed(away_s=HOUR_S / 2).comes("w").earlier == []


class TestStoreAway:
    def test_a_session_that_cannot_be_kept_is_refused(self, world: KeptWorld) -> None:
        world.journal.failure = "the disk is full"
        client = world.client()

        connect(client, "c", properties=HOUR)

        [connack] = client.read()
        assert isinstance(connack, ConnAck)
        assert connack.reason_code == ReasonCode.SERVER_UNAVAILABLE
        assert client.connection.end is not None
        assert "the disk is full" in client.connection.end.text

    def test_one_that_is_not_to_be_kept_is_served(self, world: KeptWorld) -> None:
        world.journal.failure = "the disk is full"

        client = world.connected("c")
        client.subscribe("t")
        world.publish("t", b"x", qos=1)

        assert client.payloads() == [b"x"]


def connect(client: Client, client_id: str, **fields: object) -> None:
    """Sends a CONNECT that the application accepts."""
    client.send(Connect(version=client.version, client_id=client_id, **fields))  # type: ignore[arg-type]
    client.answer({"type": "mqtt.accept"})


def subscribe(client: Client, topic_filter: str) -> None:
    """Without reading the answer."""
    [event] = client.send(Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter=topic_filter, qos=1),)))
    client.ack(event, reason_codes=[1])


def unsubscribe(client: Client, topic_filter: str) -> None:
    [event] = client.send(Unsubscribe(packet_id=2, topic_filters=(topic_filter,)))
    client.ack(event)


def publish(client: Client, topic: str, *, qos: int, packet_id: int = 1, **fields: bool) -> None:
    """Sends a PUBLISH that the application acknowledges; none that is a repetition."""
    packet = Publish(topic=topic, payload=b"x", qos=qos, packet_id=packet_id if qos else 0, **fields)
    for event in client.send(packet):
        client.ack(event)


def will(payload: bytes = b"gone", *, delay_s: int = 0) -> Will:
    return Will(topic="will", payload=payload, qos=1, properties={"will_delay_interval": delay_s})


def answer_all(client: Client) -> list[Publish]:
    """Acknowledges what came behind the CONNACK, and what comes then."""
    for packet in client.earlier:
        assert isinstance(packet, Publish)
        client.send(PubAck(packet.packet_id) if packet.qos == 1 else PubRec(packet.packet_id))
    return client.take()
