"""Publishes of a client: acknowledged by the application, answered and routed in order [MQTT5-3.3] [MQTT5-4.3]
[MQTT5-4.6]."""

import itertools
from typing import Any, Final

import pytest

from protocols.mqtt.codec.packets import (
    Connect,
    Disconnect,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReasonCode,
    Subscribe,
    Subscription,
)
from protocols.mqtt.inbound_publishes import MAX_PENDING_BYTES
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.pending_requests import MAX_PENDING_ANSWERS
from tests.unit.protocols.mqtt.harness import Client, World


def publish(number: int, qos: int = 1, **fields: object) -> Publish:
    packet_id = number if qos else 0
    return Publish(topic="t", payload=b"%d" % number, qos=qos, packet_id=packet_id, **fields)  # type: ignore[arg-type]


class TestEvent:
    def test_the_application_is_told_everything(self) -> None:
        client = World().connected("c")

        [event] = client.send(
            Publish(
                topic="a/b", payload=b"x", qos=1, retain=True, dup=True, packet_id=7, properties={"content_type": "t"}
            )
        )

        assert event == {
            "type": "mqtt.publish",
            "ack_id": event["ack_id"],
            "topic": "a/b",
            "payload": b"x",
            "qos": 1,
            "retain": True,
            "dup": True,
            "properties": {"content_type": "t"},
        }

    def test_ack_ids_are_unique_in_the_connection(self) -> None:
        client = World().connected("c")

        client.send(publish(1), publish(0, qos=0), publish(1))
        client.send(Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter="t"),)))

        ack_ids = [event["ack_id"] for event in client.events]
        assert len(set(ack_ids)) == 4


class TestAcknowledgementAtQos1:
    """[MQTT5-4.3.2]"""

    @pytest.mark.mqtt("MQTT5-4.3.2-4", "MQTT5-3.3.4-1")
    def test_no_puback_leaves_before_the_application_has_acknowledged(self) -> None:
        client = World().connected("c")

        [event] = client.send(publish(1))
        assert client.read() == []

        client.ack(event)
        assert client.read() == [PubAck(1)]

    @pytest.mark.mqtt("MQTT5-4.6.0-2")
    @pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
    def test_pubacks_leave_in_the_order_of_the_publishes(self, order: tuple[int, ...]) -> None:
        client = World().connected("c")
        events = client.send(*(publish(number) for number in (5, 3, 9, 1)))

        for position in order:
            client.ack(events[position])

        assert client.read() == [PubAck(5), PubAck(3), PubAck(9), PubAck(1)]

    def test_an_early_acknowledgement_waits(self) -> None:
        client = World().connected("c")
        first, second = client.send(publish(1), publish(2))

        client.ack(second)

        assert client.read() == []
        client.ack(first)
        assert client.read() == [PubAck(1), PubAck(2)]

    def test_a_second_acknowledgement_of_one_publish_is_ignored(self) -> None:
        client = World().connected("c")
        first, second = client.send(publish(1), publish(2))
        client.ack(second)

        client.ack(second, reason_code=0x87)
        client.ack(first)
        client.ack(first)

        assert client.read() == [PubAck(1), PubAck(2)]
        assert client.connection.unknown_acks == 2

    @pytest.mark.mqtt("MQTT5-3.4.2-1")
    def test_a_refusal_reaches_a_client_of_version_5_with_its_reason(self) -> None:
        client = World().connected("c")
        [event] = client.send(publish(1))

        client.ack(event, reason_code=0x87, reason_string="not yours")

        assert client.read() == [PubAck(1, 0x87, {"reason_string": "not yours"})]

    @pytest.mark.mqtt("MQTT5-3.1.2-29")
    def test_a_reason_string_is_for_clients_that_want_problem_information(self) -> None:
        client = World().connected("c", properties={"request_problem_information": 0})
        [event] = client.send(publish(1))

        client.ack(event, reason_code=0x87, reason_string="not yours")

        assert client.read() == [PubAck(1, 0x87)]

    @pytest.mark.mqtt("MQTT5-3.4.2-1")
    def test_a_refusal_code_that_a_puback_cannot_carry(self) -> None:
        client = World().connected("c")
        [event] = client.send(publish(1))

        client.ack(event, reason_code=ReasonCode.SERVER_BUSY)

        assert client.read() == [PubAck(1, ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)]

    @pytest.mark.mqtt("MQTT3-3.3.5-2")
    def test_what_is_refused_without_an_answer_and_sent_again_is_a_new_publish(self) -> None:
        world = World()
        client = world.connected("c", version=4, clean_start=False)
        [event] = client.send(publish(1, qos=2))
        client.ack(event, reason_code=0x87)

        again = world.connected("c", version=4, clean_start=False)

        assert len(again.send(publish(1, qos=2))) == 1

    def test_what_came_behind_it_is_still_routed_and_has_no_answer(self) -> None:
        world = World()
        subscriber, client = world.connected("s"), world.connected("c", version=4)
        subscriber.subscribe("t")
        refused, good = client.send(publish(1), publish(2))

        client.ack(refused, reason_code=0x87)
        client.ack(good)

        assert client.read() == []
        assert subscriber.payloads() == [b"2"]


REFUSED_ANSWERS: Final[dict[tuple[int, int], dict[bool, list[Any]]]] = {
    # version, QoS: what the client reads when its publish is refused; by whether the application says "drop"
    (3, 0): {False: [], True: []},
    (3, 1): {False: [], True: [PubAck(1)]},
    (3, 2): {False: [], True: [PubRec(1)]},
    (4, 0): {False: [], True: []},
    (4, 1): {False: [], True: [PubAck(1)]},
    (4, 2): {False: [], True: [PubRec(1)]},
    (5, 0): {False: [Disconnect(reason_code=0x87, properties={"reason_string": "no"})], True: []},
    (5, 1): {False: [PubAck(1, 0x87, {"reason_string": "no"})], True: [PubAck(1, 0x87, {"reason_string": "no"})]},
    (5, 2): {False: [PubRec(1, 0x87, {"reason_string": "no"})], True: [PubRec(1, 0x87, {"reason_string": "no"})]},
}


class TestRefusedPublish:
    """One rule: its acknowledgement says so, or the connection ends, unless the application says that it is dropped."""

    @pytest.mark.mqtt("MQTT3-3.3.5-2")
    @pytest.mark.parametrize("drop", [False, True])
    @pytest.mark.parametrize(("version", "qos"), REFUSED_ANSWERS)
    def test_a_refused_publish_is_told_or_ends_the_connection_or_is_dropped_in_so_many_words(
        self, version: int, qos: int, drop: bool
    ) -> None:
        world = World()
        subscriber, client = world.connected("s"), world.connected("c", version=version)
        subscriber.subscribe("t")
        [event] = client.send(publish(1, qos=qos))

        client.ack(event, reason_code=0x87, reason_string="no", **({"drop": True} if drop else {}))

        assert client.read() == REFUSED_ANSWERS[version, qos][drop]
        told = version == 5 and qos > 0
        assert client.connection.end is None if told or drop else client.reason == ("application", 0x87)
        assert subscriber.payloads() == []
        assert world.broker.dropped["refused"] == drop

    def test_the_log_learns_the_topic_and_the_reason(self) -> None:
        client = World().connected("c", version=4)
        [event] = client.send(publish(1))

        client.ack(event, reason_code=0x99, reason_string="not JSON")

        end = client.connection.end
        assert end is not None
        assert (end.text, end.fault) == ("refused a publish to 't': not JSON", True)


class TestAcknowledgementAtQos0:
    def test_an_acknowledgement_at_qos_0_lets_the_broker_route_the_message(self) -> None:
        world = World()
        subscriber, client = world.connected("s"), world.connected("c")
        subscriber.subscribe("t")
        [event] = client.send(publish(1, qos=0))
        assert subscriber.payloads() == []

        client.ack(event)

        assert subscriber.payloads() == [b"1"]
        assert client.read() == []


class TestAcknowledgementAtQos2:
    """[MQTT5-4.3.3]"""

    @pytest.mark.mqtt("MQTT5-4.3.3-8", "MQTT5-4.3.3-11", "MQTT5-2.2.1-5", "MQTT5-3.3.4-1")
    def test_the_whole_exchange_with_a_publisher(self) -> None:
        world = World()
        subscriber, client = world.connected("s"), world.connected("c")
        subscriber.subscribe("t", qos=0)
        [event] = client.send(publish(1, qos=2))
        assert client.read() == []

        client.ack(event)
        assert client.read() == [PubRec(1)]
        assert subscriber.payloads() == [b"1"]

        client.send(PubRel(1))
        assert client.read() == [PubComp(1)]

    @pytest.mark.mqtt("MQTT5-4.6.0-3")
    def test_pubrecs_leave_in_the_order_of_the_publishes(self) -> None:
        client = World().connected("c")
        first, second = client.send(publish(1, qos=2), publish(2, qos=2))

        client.ack(second)
        client.ack(first)

        assert client.read() == [PubRec(1), PubRec(2)]

    @pytest.mark.mqtt("MQTT5-4.3.3-10")
    def test_a_publish_sent_again_is_answered_again_and_not_routed(self) -> None:
        world = World()
        subscriber, client = world.connected("s"), world.connected("c")
        subscriber.subscribe("t", qos=0)
        [event] = client.send(publish(1, qos=2))
        client.ack(event)
        client.read()

        events = client.send(publish(1, qos=2, dup=True))

        assert events == []
        assert client.read() == [PubRec(1)]
        assert subscriber.payloads() == [b"1"]

    def test_the_second_answer_to_a_publish_waits_for_its_turn(self) -> None:
        client = World().connected("c")
        [event] = client.send(publish(1, qos=2))
        client.ack(event)
        client.read()

        [other] = client.send(publish(2, qos=2), publish(1, qos=2, dup=True))
        assert client.read() == []

        client.ack(other)
        assert client.read() == [PubRec(2), PubRec(1)]

    def test_a_publish_sent_again_while_the_application_has_it_is_no_second_one(self) -> None:
        client = World().connected("c", version=3)
        [event] = client.send(publish(1, qos=2))

        assert client.send(publish(1, qos=2, dup=True)) == []

        client.ack(event)
        assert client.read() == [PubRec(1)]

    @pytest.mark.mqtt("MQTT5-4.3.3-12")
    def test_after_pubrel_the_identifier_is_that_of_a_new_message(self) -> None:
        client = World().connected("c")
        [event] = client.send(publish(1, qos=2))
        client.ack(event)
        client.send(PubRel(1))

        assert len(client.send(publish(1, qos=2))) == 1

    @pytest.mark.mqtt("MQTT5-4.3.3-9", "MQTT5-3.5.2-1")
    def test_after_a_refusal_too(self) -> None:
        client = World().connected("c")
        [event] = client.send(publish(1, qos=2))
        client.ack(event, reason_code=0x97)
        assert client.read() == [PubRec(1, 0x97)]

        assert len(client.send(publish(1, qos=2))) == 1

    @pytest.mark.mqtt("MQTT5-3.7.2-1", "MQTT5-4.3.3-11")
    def test_pubrel_of_something_unknown(self) -> None:
        client = World().connected("c")

        client.send(PubRel(1))

        assert client.read() == [PubComp(1, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)]

    def test_what_was_taken_over_is_known_on_the_next_connection(self) -> None:
        world = World()
        keep = {"session_expiry_interval": 100}
        client = world.connected("c", properties=keep)
        [event] = client.send(publish(1, qos=2))
        client.ack(event)
        client.lose()

        again = world.connected("c", clean_start=False, properties=keep)

        assert again.send(publish(1, qos=2, dup=True)) == []
        assert again.read() == [PubRec(1)]


class TestRouting:
    @pytest.mark.mqtt("MQTT5-4.6.0-5", "MQTT5-4.6.0-6")
    def test_messages_are_routed_in_the_order_of_the_publishes(self) -> None:
        world = World()
        subscriber, client = world.connected("s"), world.connected("c")
        subscriber.subscribe("t")
        events = client.send(publish(1), publish(2, qos=0), publish(3, qos=2))

        for event in reversed(events):
            client.ack(event)

        assert subscriber.payloads() == [b"1", b"2", b"3"]

    @pytest.mark.parametrize(("qos", "answer"), [(1, PubAck), (2, PubRec)])
    def test_a_client_that_gets_its_own_message_reads_the_answer_first(
        self, qos: int, answer: type[PubAck | PubRec]
    ) -> None:
        client = World().connected("c")
        client.subscribe("t", qos=qos)
        events = client.send(publish(7, qos=0), publish(8, qos=qos), publish(9, qos=qos))

        for event in events:
            client.ack(event)

        own = [(packet.payload if isinstance(packet, Publish) else packet) for packet in client.read()]
        assert own == [b"7", answer(8), b"8", answer(9), b"9"]

    def test_the_application_may_keep_a_message_from_subscribers(self) -> None:
        world = World()
        subscriber, client = world.connected("s"), world.connected("c")
        subscriber.subscribe("t")
        [event] = client.send(publish(1, retain=True))

        client.ack(event, route=False)

        assert client.read() == [PubAck(1)]
        assert subscriber.payloads() == []
        assert len(world.broker.retained) == 0

    def test_publishes_sent_just_before_the_end_are_routed_when_acknowledged(self) -> None:
        world = World()
        subscriber, client = world.connected("s"), world.connected("c")
        subscriber.subscribe("t")
        events = client.send(publish(1, qos=0), publish(2), publish(3, qos=2), Disconnect())

        for event in events:
            client.ack(event)

        assert client.read() == []
        assert subscriber.payloads() == [b"1", b"2", b"3"]

    def test_a_publish_at_qos_2_sent_just_before_the_end_is_not_routed_if_the_client_is_back_and_has_sent_it_again(
        self,
    ) -> None:
        world = World()
        subscriber = world.connected("s")
        subscriber.subscribe("t")
        keep = {"session_expiry_interval": 100}
        client = world.connected("c", properties=keep)
        [event] = client.send(publish(1, qos=2))
        client.lose()
        again = world.connected("c", clean_start=False, properties=keep)
        [repeated] = again.send(publish(1, qos=2, dup=True))

        client.ack(event)
        again.ack(repeated)

        assert again.read() == [PubRec(1)]
        assert subscriber.payloads() == [b"1"]


class TestNobodyHasSubscribed:
    """[MQTT5-3.4.2.1]"""

    def answer(self, client: Client, qos: int = 1, **fields: object) -> int:
        [event] = client.send(publish(1, qos))
        client.ack(event, **fields)
        [packet] = client.read()
        assert isinstance(packet, PubAck | PubRec)
        return packet.reason_code

    def test_the_application_may_have_the_client_told(self) -> None:
        client = World().connected("c")

        assert self.answer(client, no_subscribers=True) == ReasonCode.NO_MATCHING_SUBSCRIBERS

    def test_a_client_is_not_told_that_nobody_has_subscribed_if_somebody_has(self) -> None:
        world = World()
        world.connected("subscriber").subscribe("t")

        assert self.answer(world.connected("c"), no_subscribers=True) == ReasonCode.SUCCESS

    def test_a_client_is_not_told_that_nobody_has_subscribed_if_it_has_itself_and_wants_nothing_of_its_own(
        self,
    ) -> None:
        client = World().connected("c")
        client.subscribe(Subscription(topic_filter="t", no_local=True))

        assert self.answer(client, no_subscribers=True) == ReasonCode.SUCCESS

    @pytest.mark.parametrize("fields", [{}, {"no_subscribers": True, "route": False}])
    def test_a_client_is_not_told_that_nobody_has_subscribed_if_the_application_does_not_ask_for_it(
        self, fields: dict[str, object]
    ) -> None:
        assert self.answer(World().connected("c"), **fields) == ReasonCode.SUCCESS

    def test_a_refusal_is_told_though_nobody_has_subscribed(self) -> None:
        client = World().connected("c")

        assert self.answer(client, no_subscribers=True, reason_code=0x87) == ReasonCode.NOT_AUTHORIZED

    def test_a_client_is_not_told_at_qos_2_that_nobody_has_subscribed(self) -> None:
        assert self.answer(World().connected("c"), qos=2, no_subscribers=True) == ReasonCode.SUCCESS

    def test_before_version_5_there_is_no_way_to_say_so(self) -> None:
        assert self.answer(World().connected("c", 4), no_subscribers=True) == ReasonCode.SUCCESS


class TestFlowControl:
    """[MQTT5-4.9]"""

    @pytest.mark.mqtt("MQTT5-3.3.4-7")
    def test_a_client_that_exceeds_the_receive_maximum_is_disconnected(self) -> None:
        client = World(MqttOptions(receive_maximum=2)).connected("c")

        client.send(publish(1), publish(2, qos=2), publish(0, qos=0), publish(3))

        assert client.reason == ("protocol_error", ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)

    def test_each_acknowledgement_makes_room(self) -> None:
        client = World(MqttOptions(receive_maximum=2)).connected("c")
        for _ in range(3):
            first, second = client.send(publish(1), publish(2, qos=2))
            client.ack(first)
            client.ack(second)
            client.send(PubRel(2))

        assert client.connection.end is None

    @pytest.mark.parametrize("version", [3, 4, 5])
    def test_the_socket_is_not_to_be_read_while_too_many_wait(self, version: int) -> None:
        client = World(MqttOptions(receive_maximum=2)).connected("c", version=version)
        qos = 0 if version == 5 else 1

        [first, *_] = client.send(*(publish(number, qos=qos) for number in (1, 2)))
        assert client.connection.congested

        client.ack(first)
        assert not client.connection.congested

    def test_the_socket_is_not_to_be_read_while_too_many_bytes_wait(self) -> None:
        client = World(MqttOptions(max_packet_bytes=3 * MAX_PENDING_BYTES)).connected("c")

        [event] = client.send(Publish(topic="t", payload=b"x" * (MAX_PENDING_BYTES + 1), qos=1, packet_id=1))
        assert client.connection.congested

        client.ack(event)
        assert not client.connection.congested

    def test_topics_and_properties_count_too(self) -> None:
        client = World().connected("c")
        pairs = [("name", "x" * 50_000)] * 5

        [event] = client.send(Publish(topic="t", qos=1, packet_id=1, properties={"user_property": pairs}))
        events = [event]
        for number in range(2, 22):
            events += client.send(Publish(topic="t" * 50_000, qos=1, packet_id=number))
        assert client.connection.congested

        for event in events:
            client.ack(event)
        assert not client.connection.congested

    def test_the_socket_is_not_to_be_read_while_too_many_subscribes_wait(self) -> None:
        client = World().connected("c")

        for _ in range(MAX_PENDING_ANSWERS):
            client.send(Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter="t"),)))

        assert client.connection.congested

    @pytest.mark.mqtt("MQTT5-3.2.2-11")
    def test_a_qos_over_the_granted_one_is_an_error(self) -> None:
        client = World().client()
        client.send(Connect(version=5, client_id="c"))
        client.answer({"type": "mqtt.accept", "maximum_qos": 1})
        client.read()

        client.send(publish(1, qos=2))

        assert client.reason == ("protocol_error", ReasonCode.QOS_NOT_SUPPORTED)


class TestTopicAlias:
    """[MQTT5-3.3.2.3.4]"""

    def aliased(self, client: Client, topic: str, alias: int) -> list[str]:
        events = client.send(Publish(topic=topic, properties={"topic_alias": alias}))
        assert all("topic_alias" not in event["properties"] for event in events)
        return [event["topic"] for event in events]

    @pytest.mark.mqtt("MQTT5-3.3.2-12")
    def test_a_topic_alias_stands_for_the_topic_it_came_with(self) -> None:
        client = World().connected("c")

        assert self.aliased(client, "a/b", 1) == ["a/b"]
        assert self.aliased(client, "", 1) == ["a/b"]

    def test_a_topic_alias_may_be_given_another_topic(self) -> None:
        client = World().connected("c")
        self.aliased(client, "a", 1)
        self.aliased(client, "b", 1)

        assert self.aliased(client, "", 1) == ["b"]

    @pytest.mark.mqtt("MQTT5-3.3.2-7")
    def test_a_topic_alias_ends_with_the_connection(self) -> None:
        world = World()
        self.aliased(world.connected("c"), "a", 1)
        client = world.connected("c", clean_start=False)

        self.aliased(client, "", 1)

        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.mqtt("MQTT5-3.3.2-9", "MQTT5-3.2.2-17")
    def test_one_over_the_maximum_is_an_error(self) -> None:
        client = World(MqttOptions(max_topic_aliases=3)).connected("c")

        self.aliased(client, "a", 4)

        assert client.reason == ("protocol_error", ReasonCode.TOPIC_ALIAS_INVALID)

    @pytest.mark.mqtt("MQTT5-3.3.4-6")
    def test_a_subscription_identifier_in_a_clients_publish_is_an_error(self) -> None:
        client = World().connected("c")

        client.send(Publish(topic="t", properties={"subscription_identifier": [1]}))

        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)
