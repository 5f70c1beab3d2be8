"""Statements of the specifications that the tests by subject leave: mostly what follows from how things are made."""

import pytest

from protocols.mqtt.codec.packets import (
    MQTT_3_1_1,
    MQTT_5_0,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
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
from protocols.mqtt.options import MqttOptions
from tests.unit.protocols.mqtt.harness import Client, World

BOTH = pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0])
LONG = {"reason_string": "x" * 50, "properties": {"user_property": [("k", "x" * 50)]}}
SMALL = {"maximum_packet_size": 30}


def publish_from(client: Client, packet: Publish) -> None:
    [event] = client.send(packet)
    client.ack(event)


class TestStrings:
    @BOTH
    @pytest.mark.mqtt("MQTT5-1.5.4-3", "MQTT3-1.5.3-3")
    def test_a_byte_order_mark_is_part_of_a_topic(self, version: int) -> None:
        world = World()
        client = world.connected("c", version)
        client.subscribe("\ufefft")

        publish_from(client, Publish(topic="t", payload=b"without"))
        publish_from(client, Publish(topic="\ufefft", payload=b"with"))

        assert [(packet.topic, packet.payload) for packet in client.publishes()] == [("\ufefft", b"with")]


class TestConnect:
    @BOTH
    @pytest.mark.mqtt("MQTT5-3.1.3-5", "MQTT3-3.1.3-5")
    def test_identifiers_of_23_letters_and_digits_are_accepted(self, version: int) -> None:
        for client_id in ("a", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ0123456"):
            assert World().connected(client_id, version).connack.reason_code == 0

    @pytest.mark.mqtt("MQTT5-3.1.3-8", "MQTT5-4.13.2-1")
    def test_an_identifier_that_the_application_rejects_ends_the_connection(self) -> None:
        client = World().client()
        client.send(Connect(version=5, client_id="c"))

        client.answer({"type": "mqtt.reject", "reason_code": ReasonCode.CLIENT_IDENTIFIER_NOT_VALID})

        assert client.read() == [ConnAck(reason_code=ReasonCode.CLIENT_IDENTIFIER_NOT_VALID)]
        assert client.connection.end is not None

    @BOTH
    @pytest.mark.mqtt("MQTT5-3.1.4-6", "MQTT3-3.1.4-5")
    def test_what_a_rejected_client_has_sent_meanwhile_is_not_looked_at(self, version: int) -> None:
        client = World().client(version)
        client.send(Connect(version=version, client_id="c"), Publish(topic="t", payload=b"x"), PingReq())

        client.answer({"type": "mqtt.reject", "reason_code": ReasonCode.NOT_AUTHORIZED})

        assert client.send_bytes(b"") == []
        assert [event["type"] for event in client.events] == ["mqtt.connect"]
        assert client.read() == [ConnAck(reason_code=ReasonCode.NOT_AUTHORIZED)]

    @pytest.mark.mqtt("MQTT5-3.2.2-10")
    def test_a_subscription_may_ask_for_more_qos_than_there_is(self) -> None:
        client = World().client()
        client.send(Connect(version=5, client_id="c"))
        client.answer({"type": "mqtt.accept", "maximum_qos": 0})
        client.read()

        assert client.subscribe("t", qos=2) == [SubAck(packet_id=1, reason_codes=(0,))]

    @pytest.mark.mqtt("MQTT5-3.1.2-1", "MQTT3-3.1.2-1")
    def test_another_protocol_ends_the_connection(self) -> None:
        client = World().client()

        client.send_bytes(b"\x10\x0d\x00\x04MQTX\x05\x02\x00\x00\x00\x00\x00")

        assert client.connection.end is not None
        assert client.read() == []


class TestWill:
    @BOTH
    @pytest.mark.mqtt("MQTT5-3.1.2-14", "MQTT3-3.1.2-16")
    def test_one_without_retain_is_not_retained(self, version: int) -> None:
        world = World()
        client = world.connected("c", version, will=Will(topic="w", payload=b"gone"))

        client.lose()

        assert len(world.broker.retained) == 0

    @pytest.mark.mqtt("MQTT3-3.1.2-12")
    def test_without_a_will_none_is_published(self) -> None:
        world = World()
        subscriber, client = world.connected("s"), world.connected("c", MQTT_3_1_1)
        subscriber.subscribe("#")

        client.lose()

        assert subscriber.publishes() == []

    @pytest.mark.mqtt("MQTT5-3.1.3-10")
    def test_user_properties_of_a_will_keep_their_order(self) -> None:
        world = World()
        subscriber = world.connected("s")
        subscriber.subscribe("w")
        pairs = [("b", "1"), ("a", "2"), ("b", "0")]
        client = world.connected("c", will=Will(topic="w", payload=b"", properties={"user_property": pairs}))

        client.lose()

        assert [packet.properties["user_property"] for packet in subscriber.publishes()] == [pairs]


class TestPublish:
    @BOTH
    @pytest.mark.mqtt("MQTT5-3.3.1-3", "MQTT3-3.3.1-3")
    def test_what_was_sent_again_to_us_goes_on_as_new(self, version: int) -> None:
        world = World()
        client = world.connected("c", version)
        client.subscribe("t")

        publish_from(client, Publish(topic="t", qos=1, packet_id=1, dup=True))

        assert [packet.dup for packet in client.read() if isinstance(packet, Publish)] == [False]

    @pytest.mark.mqtt("MQTT3-2.3.1-5", "MQTT5-4.3.1-1")
    def test_a_publish_at_qos_0_has_no_identifier(self) -> None:
        world = World()
        client = world.connected("c", MQTT_3_1_1)
        client.subscribe("t")

        world.publish("t", b"x")

        assert client.connection.writer.take_output() == b"\x30\x04\x00\x01tx"

    @pytest.mark.mqtt("MQTT3-3.3.1-7")
    def test_a_retained_publish_at_qos_0_replaces_what_was_retained_at_another(self) -> None:
        world = World()
        world.publish("t", b"old", qos=2, retain=True)

        world.publish("t", b"new", qos=0, retain=True)

        retained = world.broker.retained.get("t")
        assert retained is not None
        assert retained.payload == b"new"

    @pytest.mark.mqtt("MQTT3-3.3.5-1")
    def test_a_client_of_3_1_1_gets_one_copy_with_the_highest_qos(self) -> None:
        world = World()
        client = world.connected("c", MQTT_3_1_1)
        client.subscribe("a/#", qos=0)
        client.subscribe("a/+", qos=2)
        client.subscribe("a/b", qos=1)

        world.publish("a/b", qos=2)

        assert [packet.qos for packet in client.publishes()] == [2]

    @pytest.mark.mqtt("MQTT5-4.3.2-5")
    def test_behind_its_puback_an_identifier_is_that_of_a_new_message_even_with_dup(self) -> None:
        world = World()
        subscriber, client = world.connected("s"), world.connected("c")
        subscriber.subscribe("t", qos=0)

        for payload in (b"1", b"2"):
            publish_from(client, Publish(topic="t", payload=payload, qos=1, packet_id=7, dup=payload == b"2"))

        assert subscriber.payloads() == [b"1", b"2"]

    @pytest.mark.mqtt("MQTT5-4.3.3-13")
    def test_the_exchange_of_qos_2_goes_on_when_the_message_has_expired(self) -> None:
        world = World()
        client = world.connected("c")
        publish_from(client, Publish(topic="t", qos=2, packet_id=1, properties={"message_expiry_interval": 1}))
        world.pass_time(5)

        client.send(PubRel(1))

        assert [type(packet) for packet in client.read()] == [PubRec, PubComp]

    @pytest.mark.mqtt("MQTT3-4.8.0-2")
    def test_an_application_that_fails_ends_the_connection(self) -> None:
        world = World()
        client = world.connected("c", MQTT_3_1_1)

        client.connection.application_ended(world.now, failed=True)

        assert client.connection.end is not None


class TestTopicAlias:
    @pytest.mark.parametrize("properties", [{}, {"topic_alias_maximum": 0}])
    @pytest.mark.mqtt("MQTT5-3.1.2-27")
    def test_a_client_that_allows_none_gets_none(self, properties: dict[str, int]) -> None:
        world = World()
        client = world.connected("c", properties=properties)
        client.subscribe("t")

        for _ in range(2):
            world.publish("t")

        assert [packet.properties for packet in client.publishes()] == [{}, {}]

    @pytest.mark.mqtt("MQTT5-3.2.2-18")
    def test_where_the_server_allows_none_one_is_an_error(self) -> None:
        client = World(MqttOptions(max_topic_aliases=0)).connected("c")

        client.send(Publish(topic="t", properties={"topic_alias": 1}))

        assert client.reason == ("protocol_error", ReasonCode.TOPIC_ALIAS_INVALID)


class TestQuota:
    @pytest.mark.mqtt("MQTT5-3.3.4-10", "MQTT5-4.9.0-3")
    def test_when_it_is_used_up_everything_else_is_answered(self) -> None:
        world = World()
        client = world.connected("c", properties={"receive_maximum": 1})
        client.subscribe("t")
        for _ in range(3):
            world.publish("t", qos=1)
        client.read()

        [publish, subscribe] = client.send(
            PingReq(),
            Publish(topic="u", qos=1, packet_id=9),
            Subscribe(packet_id=10, subscriptions=(Subscription(topic_filter="v"),)),
        )
        client.ack(publish)
        client.ack(subscribe, reason_codes=[0])

        assert [type(packet) for packet in client.read()] == [PingResp, PubAck, SubAck]


class TestAnswersThatFit:
    """Reason strings and user properties do not make a packet larger than the client takes."""

    @pytest.mark.mqtt("MQTT5-3.4.2-2", "MQTT5-3.4.2-3")
    def test_puback(self) -> None:
        client = World().connected("c", properties=SMALL, keep_alive_s=60)
        [event] = client.send(Publish(topic="t", qos=1, packet_id=1))

        client.ack(event, reason_code=0x87, **LONG)

        assert client.read() == [PubAck(1, 0x87)]

    @pytest.mark.mqtt("MQTT5-3.5.2-2", "MQTT5-3.5.2-3")
    def test_pubrec(self) -> None:
        client = World().connected("c", properties=SMALL, keep_alive_s=60)
        [event] = client.send(Publish(topic="t", qos=2, packet_id=1))

        client.ack(event, reason_code=0x87, **LONG)

        assert client.read() == [PubRec(1, 0x87)]

    @pytest.mark.mqtt("MQTT5-3.9.2-1", "MQTT5-3.9.2-2")
    def test_suback(self) -> None:
        client = World().connected("c", properties=SMALL, keep_alive_s=60)
        [event] = client.send(Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter="t"),)))

        client.ack(event, reason_codes=[0x87], **LONG)

        assert client.read() == [SubAck(packet_id=1, reason_codes=(0x87,))]

    @pytest.mark.mqtt("MQTT5-3.11.2-1", "MQTT5-3.11.2-2")
    def test_unsuback(self) -> None:
        client = World().connected("c", properties=SMALL, keep_alive_s=60)
        [event] = client.send(Unsubscribe(packet_id=1, topic_filters=("t",)))

        client.ack(event, reason_codes=[0x87], **LONG)

        assert client.read() == [UnsubAck(packet_id=1, reason_codes=(0x87,))]

    @pytest.mark.mqtt("MQTT5-3.14.2-3", "MQTT5-3.14.2-4", "MQTT5-3.14.4-2")
    def test_disconnect(self) -> None:
        client = World().connected("c", properties=SMALL, keep_alive_s=60)

        client.answer({"type": "mqtt.close", **LONG})

        assert client.read() == [Disconnect(reason_code=ReasonCode.ADMINISTRATIVE_ACTION)]
        assert client.connection.end is not None

    @pytest.mark.mqtt("MQTT5-3.15.2-2", "MQTT5-3.15.2-3")
    def test_auth(self) -> None:
        client = World().client()
        client.send(Connect(version=5, client_id="c", properties={"authentication_method": "M", **SMALL}))

        client.answer({"type": "mqtt.auth", "data": b"d", **LONG})

        [packet] = client.read()
        assert packet.properties == {"authentication_method": "M", "authentication_data": b"d"}  # type: ignore[union-attr]

    @pytest.mark.mqtt("MQTT5-3.1.2-29")
    def test_none_of_them_goes_to_a_client_that_wants_no_problem_information(self) -> None:
        client = World().connected("c", properties={"request_problem_information": 0})
        publish, subscribe, unsubscribe = client.send(
            Publish(topic="t", qos=1, packet_id=1),
            Subscribe(packet_id=2, subscriptions=(Subscription(topic_filter="t"),)),
            Unsubscribe(packet_id=3, topic_filters=("t",)),
        )

        client.ack(publish, reason_code=0x87, **LONG)
        client.ack(subscribe, reason_codes=[0x87], **LONG)
        client.ack(unsubscribe, reason_codes=[0x87], **LONG)

        assert [packet.properties for packet in client.read()] == [{}, {}, {}]  # type: ignore[union-attr]

    @pytest.mark.mqtt("MQTT5-3.14.2-2")
    def test_a_servers_disconnect_never_has_a_session_expiry(self) -> None:
        client = World().connected("c", properties={"session_expiry_interval": 10})

        client.connection.shut_down(0)

        [packet] = client.read()
        assert "session_expiry_interval" not in packet.properties  # type: ignore[union-attr]


class TestSubscriptions:
    @pytest.mark.mqtt(
        "MQTT3-3.8.4-1", "MQTT3-3.8.4-2", "MQTT3-3.8.4-4", "MQTT3-3.8.4-5", "MQTT3-3.9.3-1", "MQTT3-2.3.1-7"
    )
    def test_several_filters_of_3_1_1_have_one_answer_with_a_code_each(self) -> None:
        client = World().connected("c", MQTT_3_1_1)
        filters = tuple(Subscription(topic_filter=name, qos=2) for name in "abc")
        [event] = client.send(Subscribe(packet_id=77, subscriptions=filters))

        client.ack(event, reason_codes=[2, 0x87, 0])

        assert client.connection.writer.take_output() == b"\x90\x05\x00\x4d\x02\x80\x00"

    @pytest.mark.mqtt("MQTT3-3.10.4-4", "MQTT3-3.10.4-5", "MQTT3-3.10.4-6", "MQTT3-2.3.1-7")
    def test_unsubscribing_from_several_filters_of_3_1_1_has_one_answer(self) -> None:
        world = World()
        client = world.connected("c", MQTT_3_1_1)
        client.subscribe("a", "b")
        [event] = client.send(Unsubscribe(packet_id=78, topic_filters=("a", "never", "b")))

        client.ack(event)

        assert client.connection.writer.take_output() == b"\xb0\x02\x00\x4e"
        assert world.publish("a") == world.publish("b") == 0

    @BOTH
    @pytest.mark.parametrize("qos", [1, 2])
    @pytest.mark.mqtt("MQTT5-3.10.4-3", "MQTT3-3.10.4-3")
    def test_what_has_been_sent_is_delivered_to_its_end_after_unsubscribing(self, version: int, qos: int) -> None:
        world = World()
        keep = {"clean_start": False} if version == MQTT_3_1_1 else {"properties": {"session_expiry_interval": 60}}
        client = world.connected("c", version, **keep)
        client.subscribe("t")
        world.publish("t", b"x", qos=qos)
        client.read()
        [event] = client.send(Unsubscribe(packet_id=3, topic_filters=("t",)))
        client.ack(event)
        client.lose()

        back = world.connected("c", version, **{**keep, "clean_start": False})

        assert [packet.payload for packet in back.earlier if isinstance(packet, Publish)] == [b"x"]


class TestSharedSubscriptions:
    def members(self, world: World, **granted: int) -> list[Client]:
        clients = []
        for client_id, qos in granted.items():
            client = world.connected(client_id, properties={"session_expiry_interval": 60})
            client.subscribe("$share/g/t", qos=qos)
            clients.append(client)
        return clients

    @pytest.mark.mqtt("MQTT5-4.8.2-3")
    def test_each_member_gets_what_it_was_granted(self) -> None:
        world = World()
        clients = self.members(world, a=0, b=1, c=2)

        for _ in clients:
            world.publish("t", qos=2)

        assert [[packet.qos for packet in client.publishes()] for client in clients] == [[0], [1], [2]]

    @pytest.mark.mqtt("MQTT5-4.8.2-4")
    def test_a_delivery_at_qos_2_that_was_cut_goes_on_with_the_same_member(self) -> None:
        world = World()
        one, other = self.members(world, a=2, b=2)
        world.publish("t", b"x", qos=2)
        one.publishes()
        one.lose()

        again = world.connected("a", clean_start=False, properties={"session_expiry_interval": 60})

        assert [packet.payload for packet in again.earlier if isinstance(packet, Publish)] == [b"x"]
        assert other.publishes() == []

    @pytest.mark.mqtt("MQTT5-4.8.2-5")
    def test_a_delivery_at_qos_2_that_was_cut_goes_to_nobody_if_its_session_ends(self) -> None:
        world = World()
        one, other = self.members(world, a=2, b=2)
        world.publish("t", b"x", qos=2)
        one.publishes()
        one.lose()

        world.pass_time(61)

        assert other.publishes() == []

    @pytest.mark.parametrize(("qos", "refusal"), [(1, PubAck(1, 0x80)), (2, PubRec(1, 0x80))])
    @pytest.mark.mqtt("MQTT5-4.8.2-6")
    def test_what_a_member_refuses_goes_to_nobody_else(self, qos: int, refusal: Packet) -> None:
        world = World()
        one, other = self.members(world, a=2, b=2)
        world.publish("t", b"x", qos=qos)
        one.publishes()

        one.send(refusal)
        one.disconnect(session_expiry_interval=0)

        assert other.publishes() == []
