"""Messages to a client that comes and goes, or is slow [MQTT5-4.1] [MQTT5-4.3] [MQTT5-4.4] [MQTT5-4.6] [MQTT5-4.9]."""

import pytest

from protocols.mqtt.codec.packets import ConnAck, Connect, Packet, PubAck, PubComp, Publish, PubRec, PubRel, ReasonCode
from protocols.mqtt.options import NEVER_EXPIRES, BrokerOptions, MqttOptions
from tests.unit.protocols.mqtt.harness import Client, World

KEEP = {"session_expiry_interval": 1_000}


def subscribed(world: World, version: int = 5, **connect: object) -> Client:
    """A client "c" with a session that is kept, subscribed to everything."""
    keep = {"properties": KEEP} if version == 5 else {"clean_start": False}
    client = world.connected("c", version, **{**keep, **connect})  # type: ignore[arg-type]
    client.subscribe("#")
    return client


def back(world: World, version: int = 5, **connect: object) -> Client:
    """The client "c" again."""
    keep = {"properties": KEEP} if version == 5 else {}
    return world.connected("c", version, **{"clean_start": False, **keep, **connect})  # type: ignore[arg-type]


def payloads(packets: list[Packet]) -> list[bytes]:
    return [packet.payload for packet in packets if isinstance(packet, Publish)]


class TestQos1:
    """[MQTT5-4.3.2]"""

    @pytest.mark.mqtt("MQTT5-2.2.1-4", "MQTT5-4.3.2-1", "MQTT5-4.3.2-2")
    def test_each_message_has_an_identifier_of_its_own(self) -> None:
        world = World()
        client = subscribed(world)

        for _ in range(3):
            world.publish("t", qos=1)

        assert [packet.packet_id for packet in client.publishes()] == [1, 2, 3]

    @pytest.mark.mqtt("MQTT5-2.2.1-4", "MQTT5-4.3.2-1")
    def test_identifiers_in_use_are_skipped(self) -> None:
        world = World()
        client = subscribed(world)
        world.publish("t", b"slow", qos=1)
        client.read()

        seen = set()
        for _ in range(65_535):
            world.publish("t", qos=1)
            [packet] = client.take()
            seen.add(packet.packet_id)

        assert 1 not in seen
        assert len(seen) == 65_534

    @pytest.mark.mqtt("MQTT5-4.4.0-2")
    def test_a_puback_with_an_error_ends_the_delivery_too(self) -> None:
        world = World()
        client = subscribed(world)
        world.publish("t", qos=1)
        client.send(PubAck(1, 0x87))
        client.lose()

        assert payloads(back(world).earlier) == []


class TestQos2:
    """[MQTT5-4.3.3]"""

    @pytest.mark.mqtt("MQTT5-4.3.3-1", "MQTT5-4.3.3-2", "MQTT5-4.3.3-4")
    def test_the_whole_exchange_with_a_subscriber(self) -> None:
        world = World()
        client = subscribed(world)

        world.publish("t", b"x", qos=2)
        [packet] = client.publishes()
        client.send(PubRec(packet.packet_id))
        assert client.read() == [PubRel(packet.packet_id)]
        client.send(PubComp(packet.packet_id))

        assert client.connection.session is not None
        assert client.connection.session.outbox.unacknowledged == 0

    @pytest.mark.mqtt("MQTT5-4.4.0-2")
    def test_a_pubrec_with_an_error_ends_it(self) -> None:
        world = World()
        client = subscribed(world)
        world.publish("t", qos=2)
        client.read()

        client.send(PubRec(1, 0x80))

        assert client.read() == []
        assert client.connection.session is not None
        assert client.connection.session.outbox.unacknowledged == 0

    @pytest.mark.mqtt("MQTT5-3.6.2-1")
    def test_a_pubrec_of_something_unknown(self) -> None:
        client = subscribed(World())

        client.send(PubRec(7))

        assert client.read() == [PubRel(7, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)]


class TestAnswersOfTheWrongKind:
    """[MQTT5-4.3.2] [MQTT5-4.3.3]"""

    @pytest.mark.parametrize("answer", [PubRec(1), PubComp(1)])
    def test_a_wrong_answer_to_a_message_at_qos_1_ends_the_connection(self, answer: Packet) -> None:
        world = World()
        client = subscribed(world)
        world.publish("t", qos=1)

        client.send(answer)

        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.parametrize("answer", [PubAck(1), PubComp(1)])
    def test_a_wrong_answer_to_a_message_at_qos_2_ends_the_connection(self, answer: Packet) -> None:
        world = World()
        client = subscribed(world)
        world.publish("t", qos=2)

        client.send(answer)

        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.parametrize("version", [3, 4, 5])
    def test_a_wrong_answer_to_a_pubrel_ends_the_connection(self, version: int) -> None:
        world = World()
        client = subscribed(world, version)
        world.publish("t", qos=2)
        client.send(PubRec(1))

        client.send(PubAck(1))

        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.parametrize("answer", [PubAck(9), PubComp(9)])
    def test_an_answer_to_nothing_is_ignored(self, answer: Packet) -> None:
        client = subscribed(World())

        client.send(answer)

        assert client.connection.end is None

    def test_a_second_pubrec_is_answered_as_the_first(self) -> None:
        world = World()
        client = subscribed(world)
        world.publish("t", qos=2)
        client.publishes()

        client.send(PubRec(1), PubRec(1))

        assert client.read() == [PubRel(1), PubRel(1)]


class TestSendingAgain:
    """[MQTT5-4.4.0-1]"""

    @pytest.mark.mqtt("MQTT5-4.4.0-1", "MQTT5-3.3.1-1", "MQTT5-4.3.2-3", "MQTT5-4.3.3-3")
    def test_what_was_not_acknowledged_comes_again_in_order_and_marked(self) -> None:
        world = World()
        client = subscribed(world)
        for number in range(4):
            world.publish("t", b"%d" % number, qos=1 + number % 2)
        client.read()
        client.send(PubAck(3))
        client.lose()

        again = back(world)

        assert again.connack.session_present
        assert [
            (packet.packet_id, packet.payload, packet.dup) for packet in again.earlier if isinstance(packet, Publish)
        ] == [(1, b"0", True), (2, b"1", True), (4, b"3", True)]

    @pytest.mark.mqtt("MQTT5-4.4.0-1", "MQTT5-4.3.3-5", "MQTT5-4.3.3-6")
    def test_what_the_client_has_received_is_released_again(self) -> None:
        world = World()
        client = subscribed(world)
        world.publish("t", b"1", qos=2)
        world.publish("t", b"2", qos=2)
        client.read()
        client.send(PubRec(2), PubRec(1))
        client.lose()

        assert back(world).earlier == [PubRel(2), PubRel(1)]

    def test_no_more_at_once_than_the_client_now_allows(self) -> None:
        world = World()
        client = subscribed(world)
        for number in range(3):
            world.publish("t", b"%d" % number, qos=1)
        client.lose()

        again = back(world, properties={**KEEP, "receive_maximum": 1})

        assert payloads(again.earlier) == [b"0"]
        again.send(PubAck(1))
        assert again.payloads() == [b"1"]

    def test_what_the_client_answers_before_its_turn_does_not_come(self) -> None:
        """It answers what the connection before has sent it."""
        world = World()
        client = subscribed(world)
        for number in range(3):
            world.publish("t", b"%d" % number, qos=1)
        client.lose()
        again = back(world, properties={**KEEP, "receive_maximum": 1})
        assert payloads(again.earlier) == [b"0"]

        again.send(PubAck(2))
        assert again.read() == []

        again.send(PubAck(1))
        assert again.payloads() == [b"2"]

    @pytest.mark.mqtt("MQTT5-4.4.0-1")
    def test_nothing_is_sent_again_within_a_connection(self) -> None:
        world = World()
        client = subscribed(world, keep_alive_s=0)
        world.publish("t", qos=1)
        client.read()

        world.pass_time(100)

        assert client.read() == []

    def test_new_messages_come_behind_it(self) -> None:
        world = World()
        client = subscribed(world)
        world.publish("t", b"old", qos=1)
        client.lose()
        world.publish("t", b"new", qos=1)

        again = back(world)

        assert payloads(again.earlier) == [b"old", b"new"]

    @pytest.mark.mqtt("MQTT3-4.4.0-1", "MQTT3-3.3.1-1", "MQTT3-4.6.0-1")
    def test_before_version_5_too(self) -> None:
        world = World()
        client = subscribed(world, version=4)
        world.publish("t", b"x", qos=1)
        client.lose()

        again = back(world, version=4)

        assert again.connack == ConnAck(session_present=True)
        assert payloads(again.earlier) == [b"x"]


class TestReceiveMaximum:
    """[MQTT5-3.3.4-9]"""

    @pytest.mark.mqtt("MQTT5-3.3.4-9", "MQTT5-4.9.0-1", "MQTT5-4.9.0-2")
    def test_no_more_are_unacknowledged_than_the_client_allows(self) -> None:
        world = World()
        client = subscribed(world, properties={**KEEP, "receive_maximum": 2})
        for number in range(5):
            world.publish("t", b"%d" % number, qos=1)
        assert client.payloads() == [b"0", b"1"]

        client.send(PubAck(1))
        assert client.payloads() == [b"2"]

    def test_no_more_are_unacknowledged_than_the_server_wants(self) -> None:
        world = World(MqttOptions(max_inflight=2))
        client = subscribed(world)

        for _ in range(5):
            world.publish("t", qos=1)

        assert len(client.payloads()) == 2

    @pytest.mark.mqtt("MQTT5-3.3.4-9", "MQTT5-4.9.0-2")
    def test_at_qos_2_one_counts_until_pubcomp(self) -> None:
        world = World()
        client = subscribed(world, properties={**KEEP, "receive_maximum": 1})
        world.publish("t", b"1", qos=2)
        world.publish("t", b"2", qos=2)
        client.read()

        client.send(PubRec(1))
        assert client.payloads() == []
        client.send(PubComp(1))
        assert client.payloads() == [b"2"]

    def test_everything_arrives_in_order_in_the_end(self) -> None:
        world = World()
        client = subscribed(world, properties={**KEEP, "receive_maximum": 3})

        for number in range(20):
            world.publish("t", b"%d" % number, qos=number % 3)

        assert [packet.payload for packet in client.take()] == [b"%d" % number for number in range(20)]


class TestQueueOfAnAbsentClient:
    @pytest.mark.mqtt("MQTT5-3.1.2-23", "MQTT5-4.5.0-1")
    def test_messages_above_qos_0_wait(self) -> None:
        world = World()
        subscribed(world).lose()

        for qos in range(3):
            world.publish("t", b"%d" % qos, qos=qos)

        assert payloads(back(world).earlier) == [b"1", b"2"]

    def test_what_does_not_fit_in_number_is_dropped_the_newest_and_counted(self) -> None:
        world = World(MqttOptions(max_queued_messages=2))
        subscribed(world).lose()

        for number in range(5):
            world.publish("t", b"%d" % number, qos=1)

        assert payloads(back(world).earlier) == [b"0", b"1"]
        assert world.broker.dropped["queue_full"] == 3

    def test_what_does_not_fit_in_bytes_is_dropped_the_newest_and_counted(self) -> None:
        world = World(MqttOptions(max_queued_bytes=100))
        subscribed(world).lose()

        for size in (60, 60, 30):
            world.publish("t", b"x" * size, qos=1)

        assert [len(payload) for payload in payloads(back(world).earlier)] == [60, 30]

    def test_where_properties_count_as_many_as_there_are(self) -> None:
        world = World(MqttOptions(max_queued_bytes=10_000))
        subscribed(world).lose()

        for _ in range(5):
            world.publish("t", b"x", qos=1, properties={"user_property": [("", "")] * 30})

        assert len(back(world).earlier) == 2
        assert world.broker.dropped["queue_full"] == 3

    def test_what_has_been_sent_makes_room(self) -> None:
        world = World(MqttOptions(max_queued_messages=2, max_queued_bytes=100))
        for _ in range(3):
            client = subscribed(world, clean_start=False)
            client.take()
            client.lose()
            world.publish("t", b"1", qos=1)
            world.publish("t", b"2", qos=1)

        assert world.broker.dropped["queue_full"] == 0

    def test_expired_messages_make_room(self) -> None:
        world = World(MqttOptions(max_queued_messages=1))
        subscribed(world).lose()
        world.publish("t", b"old", qos=1, properties={"message_expiry_interval": 5})
        world.pass_time(6)

        world.publish("t", b"new", qos=1)

        assert payloads(back(world).earlier) == [b"new"]
        assert world.broker.dropped["expired"] == 1


class TestQueueOfASlowClient:
    def test_messages_wait_while_its_socket_is_full_and_keep_their_order(self) -> None:
        world = World()
        client = subscribed(world)
        client.connection.writer.writable = False
        for number in range(4):
            world.publish("t", b"%d" % number, qos=number % 2)
        assert client.payloads() == []

        client.connection.resume_writing(world.now)

        assert client.payloads() == [b"0", b"1", b"2", b"3"]

    def test_the_queue_is_bounded(self) -> None:
        world = World(MqttOptions(max_queued_messages=2))
        client = subscribed(world)
        client.connection.writer.writable = False

        for number in range(4):
            world.publish("t", b"%d" % number)
        client.connection.resume_writing(world.now)

        assert client.payloads() == [b"0", b"1"]
        assert world.broker.dropped["queue_full"] == 2

    def test_messages_at_qos_0_do_not_outlive_the_connection(self) -> None:
        world = World()
        client = subscribed(world)
        client.connection.writer.writable = False
        world.publish("t", b"0", qos=0)
        world.publish("t", b"1", qos=1)
        client.lose()

        assert payloads(back(world).earlier) == [b"1"]
        assert world.broker.dropped["disconnected"] == 1

    def test_much_output_in_one_pass_is_written_early(self) -> None:
        world = World()
        client = subscribed(world)
        before = client.flushes

        world.publish("t", b"x" * 70_000)

        assert client.flushes == before + 1


class TestMessageExpiry:
    """[MQTT5-3.3.2.3.3]"""

    @pytest.mark.mqtt("MQTT5-3.3.2-5")
    def test_an_expired_message_is_not_delivered(self) -> None:
        world = World()
        subscribed(world).lose()
        world.publish("t", b"1", qos=1, properties={"message_expiry_interval": 10})
        world.publish("t", b"2", qos=1)

        world.pass_time(10)

        assert payloads(back(world).earlier) == [b"2"]

    @pytest.mark.mqtt("MQTT5-3.3.2-6")
    def test_one_that_waited_says_how_long_it_is_still_valid(self) -> None:
        world = World()
        subscribed(world).lose()
        world.publish("t", qos=1, properties={"message_expiry_interval": 10})

        world.pass_time(4)

        [packet] = back(world).earlier
        assert isinstance(packet, Publish)
        assert packet.properties["message_expiry_interval"] == 6


class TestSessionExpiry:
    """[MQTT5-3.1.2.11.2]"""

    def test_by_default_the_session_ends_with_the_connection(self) -> None:
        world = World()
        client = world.connected("c")
        client.subscribe("t")

        client.lose()

        assert len(world.broker.sessions) == 0
        assert world.publish("t") == 0

    @pytest.mark.mqtt("MQTT5-4.1.0-2")
    def test_otherwise_after_its_interval(self) -> None:
        world = World()
        subscribed(world).lose()

        world.pass_time(999)
        assert len(world.broker.sessions) == 1
        world.pass_time(1)
        assert len(world.broker.sessions) == 0
        assert world.publish("t") == 0

    def test_counted_from_the_last_disconnect(self) -> None:
        world = World()
        subscribed(world).lose()
        world.pass_time(900)
        client = back(world)
        world.pass_time(900)
        client.lose()

        world.pass_time(900)
        assert len(world.broker.sessions) == 1
        world.pass_time(100)
        assert len(world.broker.sessions) == 0

    def test_a_client_that_comes_and_goes_does_not_fill_the_schedule(self) -> None:
        world = World()
        for _ in range(50):
            subscribed(world, clean_start=False).lose()
            world.pass_time(1)

        assert len(world.broker._due) == 1

    def test_the_server_limits_the_expiry_of_a_session(self) -> None:
        world = World(MqttOptions(max_session_expiry_s=10))
        subscribed(world, version=4).lose()

        world.pass_time(10)

        assert len(world.broker.sessions) == 0

    def test_the_server_need_not_limit_the_expiry_of_a_session(self) -> None:
        world = World(MqttOptions(max_session_expiry_s=NEVER_EXPIRES))
        subscribed(world, version=4).lose()

        world.pass_time(1e9)

        assert len(world.broker.sessions) == 1

    def test_a_disconnect_may_change_the_expiry_of_a_session(self) -> None:
        world = World()
        subscribed(world).disconnect(session_expiry_interval=0)

        assert len(world.broker.sessions) == 0

    def test_a_disconnect_may_not_keep_a_session_that_was_to_end(self) -> None:
        client = World().connected("c")

        client.disconnect(session_expiry_interval=10)

        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.mqtt("MQTT5-3.1.2-4", "MQTT5-3.1.4-4")
    def test_clean_start_ends_what_was_kept(self) -> None:
        world = World()
        subscribed(world).lose()
        world.publish("t", qos=1)

        client = world.connected("c", clean_start=True)

        assert not client.connack.session_present
        assert client.earlier == []
        assert world.publish("t") == 0

    def test_no_more_sessions_than_the_broker_may_keep(self) -> None:
        world = World(limits=BrokerOptions(max_sessions=1))
        subscribed(world).lose()

        [packet] = answer_to_a_newcomer(world)

        assert packet == ConnAck(reason_code=ReasonCode.QUOTA_EXCEEDED, properties=packet.properties)


def answer_to_a_newcomer(world: World) -> list[ConnAck]:
    client = world.client()
    client.send(Connect(version=5, client_id="other"))
    client.answer({"type": "mqtt.accept"})
    return [packet for packet in client.read() if isinstance(packet, ConnAck)]
