"""Subscribing, and what a subscriber gets [MQTT5-3.8] [MQTT5-3.10] [MQTT5-3.3.4] [MQTT5-4.7]."""

import pytest

from protocols.mqtt.codec.packets import (
    Disconnect,
    Publish,
    ReasonCode,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
)
from protocols.mqtt.options import BrokerOptions, MqttOptions
from tests.unit.protocols.mqtt.harness import Client, World


def subscription(topic_filter: str, qos: int = 2, **options: object) -> Subscription:
    return Subscription(topic_filter=topic_filter, qos=qos, **options)  # type: ignore[arg-type]


def publish_from(client: Client, topic: str, payload: bytes = b"", **fields: object) -> None:
    """A client publishes, and its application acknowledges."""
    [event] = client.send(Publish(topic=topic, payload=payload, **fields))  # type: ignore[arg-type]
    client.ack(event)


def kept(world: World, version: int = 5) -> Client:
    """A client whose session outlives the connection."""
    if version < 5:
        return world.connected("c", version, clean_start=False)
    return world.connected("c", clean_start=False, properties={"session_expiry_interval": 60})


class TestSubscribe:
    """[MQTT5-3.8]"""

    def test_the_application_is_asked_about_each_filter(self) -> None:
        client = World().connected("c")

        [event] = client.send(
            Subscribe(
                packet_id=1,
                subscriptions=(subscription("a/+", 1, no_local=True), subscription("$share/g/b/#", 2)),
                properties={"subscription_identifier": 5},
            )
        )

        assert event["subscriptions"] == [
            {
                "topic_filter": "a/+",
                "qos": 1,
                "no_local": True,
                "retain_as_published": False,
                "retain_handling": 0,
                "share_name": None,
            },
            {
                "topic_filter": "b/#",
                "qos": 2,
                "no_local": False,
                "retain_as_published": False,
                "retain_handling": 0,
                "share_name": "g",
            },
        ]
        assert event["properties"] == {"subscription_identifier": 5}
        assert client.read() == []

    @pytest.mark.mqtt(
        "MQTT5-3.8.4-1",
        "MQTT5-3.8.4-2",
        "MQTT5-3.8.4-5",
        "MQTT5-3.8.4-6",
        "MQTT5-3.8.4-7",
        "MQTT5-3.9.3-1",
        "MQTT5-3.9.3-2",
        "MQTT5-2.2.1-6",
    )
    def test_the_suback_says_what_the_application_granted(self) -> None:
        world = World()
        client = world.connected("c")
        [event] = client.send(
            Subscribe(packet_id=9, subscriptions=(subscription("a"), subscription("b"), subscription("c")))
        )

        client.ack(event, reason_codes=[2, 0, 0x87])

        assert client.read() == [SubAck(packet_id=9, reason_codes=(2, 0, 0x87))]
        for topic in "abc":
            world.publish(topic, topic.encode(), qos=2)
        assert [(packet.payload, packet.qos) for packet in client.publishes()] == [(b"a", 2), (b"b", 0)]

    def test_a_shared_subscription_that_the_application_refuses_has_no_member(self) -> None:
        world = World()
        client = world.connected("c")
        [event] = client.send(Subscribe(packet_id=9, subscriptions=(subscription("$share/group/a"),)))
        assert (event["subscriptions"][0]["share_name"], event["subscriptions"][0]["topic_filter"]) == ("group", "a")

        client.ack(event, reason_codes=[0x87])

        assert client.read() == [SubAck(packet_id=9, reason_codes=(0x87,))]
        assert world.publish("a") == 0
        assert world.broker.shared_subscription_count == 0

    def test_a_filter_that_is_invalid_is_refused_without_asking(self) -> None:
        client = World().connected("c")

        [event] = client.send(Subscribe(packet_id=1, subscriptions=(subscription("a/#/b"), subscription("ok"))))
        assert [one["topic_filter"] for one in event["subscriptions"]] == ["ok"]

        client.ack(event, reason_codes=[1])
        assert client.read() == [SubAck(packet_id=1, reason_codes=(ReasonCode.TOPIC_FILTER_INVALID, 1))]

    def test_subscribe_does_not_ask_the_application_if_every_filter_is_invalid(self) -> None:
        client = World().connected("c", version=4)

        assert client.send(Subscribe(packet_id=1, subscriptions=(subscription("a#"),))) == []

        assert client.read() == [SubAck(packet_id=1, reason_codes=(0x80,))]

    def test_a_filter_too_deep_is_refused(self) -> None:
        world = World(limits=BrokerOptions(max_topic_levels=3))
        client = world.connected("c")

        client.send(Subscribe(packet_id=1, subscriptions=(subscription("a/b/c/d"),)))

        why = {"reason_string": "max_topic_levels is 3"}
        assert client.read() == [SubAck(packet_id=1, reason_codes=(ReasonCode.QUOTA_EXCEEDED,), properties=why)]
        assert world.broker.refused_filters == {"max_topic_levels": 1}

    def test_a_filter_too_long_is_refused(self) -> None:
        world = World(MqttOptions(max_topic_length=3))
        client = world.connected("c")

        client.send(Subscribe(packet_id=1, subscriptions=(subscription("a/bc"),)))

        why = {"reason_string": "max_topic_length is 3"}
        assert client.read() == [SubAck(packet_id=1, reason_codes=(ReasonCode.TOPIC_FILTER_INVALID,), properties=why)]
        assert world.broker.refused_filters == {"max_topic_length": 1}

    def test_one_filter_too_many_is_refused(self) -> None:
        world = World(MqttOptions(max_subscriptions=1))
        client = world.connected("c")
        client.subscribe("a")

        [packet] = client.subscribe("b")
        why = {"reason_string": "max_subscriptions is 1"}
        assert packet == SubAck(packet_id=1, reason_codes=(ReasonCode.QUOTA_EXCEEDED,), properties=why)
        assert world.broker.refused_filters == {"max_subscriptions": 1}

        [packet] = client.subscribe("a", qos=0)
        assert packet == SubAck(packet_id=1, reason_codes=(0,)), "a filter that is there may be replaced"

    def test_the_application_is_not_asked_about_more_filters_than_there_may_be(self) -> None:
        world = World(MqttOptions(max_subscriptions=2))
        client = world.connected("c")

        [event] = client.send(Subscribe(packet_id=1, subscriptions=tuple(map(subscription, "abcd"))))

        assert [one["topic_filter"] for one in event["subscriptions"]] == ["a", "b"]
        assert world.broker.refused_filters == {"max_subscriptions": 2}

    def test_the_bound_is_not_named_to_a_client_that_wants_to_know_no_problems(self) -> None:
        world = World(MqttOptions(max_subscriptions=1))
        client = world.connected("c", properties={"request_problem_information": 0})
        client.subscribe("a")

        assert client.subscribe("b") == [SubAck(packet_id=1, reason_codes=(ReasonCode.QUOTA_EXCEEDED,))]

    def test_what_the_application_refuses_is_no_filter_too_many(self) -> None:
        world = World(MqttOptions(max_subscriptions=1))
        client = world.connected("c")
        client.subscribe("a")
        [event] = client.send(Subscribe(packet_id=1, subscriptions=(subscription("b"),)))

        client.ack(event, reason_codes=[0x87])

        assert client.read() == [SubAck(packet_id=1, reason_codes=(0x87,))]
        assert not world.broker.refused_filters

    @pytest.mark.parametrize("answer", [{}, {"reason_codes": []}, {"reason_codes": [0, 0]}])
    def test_an_answer_without_a_code_for_each_filter_is_a_fault_of_the_application(
        self, answer: dict[str, list[int]]
    ) -> None:
        client = World().connected("c")
        [event] = client.send(Subscribe(packet_id=1, subscriptions=(subscription("a"),)))

        with pytest.raises(ValueError, match="expected 1 reason_codes, one for each that was asked"):
            client.ack(event, **answer)

    def test_no_more_qos_is_granted_than_asked(self) -> None:
        client = World().connected("c")
        [event] = client.send(Subscribe(packet_id=1, subscriptions=(subscription("a", 0),)))

        client.ack(event, reason_codes=[2])

        assert client.read() == [SubAck(packet_id=1, reason_codes=(0,))]

    @pytest.mark.mqtt("MQTT5-3.8.4-3")
    def test_subscribing_again_replaces_the_options(self) -> None:
        world = World()
        client = world.connected("c")
        client.subscribe("a", qos=2)

        client.subscribe("a", qos=0)
        world.publish("a", qos=2)

        assert [packet.qos for packet in client.publishes()] == [0]


class TestADisconnectRightBehind:
    """What a client sends before its DISCONNECT counts, also if the application answers after it [MQTT5-3.8.4-1]."""

    SUBSCRIBE = Subscribe(packet_id=1, subscriptions=(subscription("t"),))

    @pytest.mark.parametrize("version", [4, 5])
    def test_the_subscription_is_in_the_session_that_is_kept(self, version: int) -> None:
        world = World()
        world.publish("t", b"retained", retain=True, qos=1)
        client = kept(world, version)
        [event] = client.send(self.SUBSCRIBE, Disconnect())

        client.ack(event, reason_codes=[2])
        world.publish("t", b"message", qos=1)

        assert client.read() == []
        client = kept(world, version)
        assert client.connack.session_present
        assert [packet.payload for packet in client.earlier if isinstance(packet, Publish)] == [b"retained", b"message"]

    def test_unsubscribing_takes_it_out(self) -> None:
        world = World()
        client = kept(world)
        client.subscribe("t")
        [event] = client.send(Unsubscribe(packet_id=2, topic_filters=("t",)), Disconnect())

        client.ack(event)

        assert world.publish("t", qos=1) == 0
        assert client.read() == []

    def test_a_subscription_with_a_disconnect_right_behind_is_not_kept_if_the_session_ends_with_the_connection(
        self,
    ) -> None:
        world = World()
        client = kept(world)
        [event] = client.send(self.SUBSCRIBE, Disconnect(properties={"session_expiry_interval": 0}))

        client.ack(event, reason_codes=[2])

        assert world.publish("t", qos=1) == 0

    def test_a_subscription_with_a_disconnect_right_behind_is_not_kept_if_the_session_has_ended_meanwhile(self) -> None:
        world = World()
        client = kept(world)
        [event] = client.send(self.SUBSCRIBE, Disconnect(properties={"session_expiry_interval": 1}))
        world.pass_time(2)

        client.ack(event, reason_codes=[2])

        assert world.publish("t", qos=1) == 0

    def test_a_subscription_with_a_disconnect_right_behind_is_not_kept_if_another_connection_has_the_session(
        self,
    ) -> None:
        world = World()
        client = kept(world)
        [event] = client.send(self.SUBSCRIBE, Disconnect())
        kept(world)

        client.ack(event, reason_codes=[2])

        assert world.publish("t", qos=1) == 0

    def test_a_subscription_is_not_kept_if_the_connection_was_lost(self) -> None:
        world = World()
        client = kept(world)
        [event] = client.send(self.SUBSCRIBE)
        client.lose()

        client.ack(event, reason_codes=[2])

        assert world.publish("t", qos=1) == 0


class TestUnsubscribe:
    """[MQTT5-3.10]"""

    @pytest.mark.mqtt(
        "MQTT5-3.10.4-1",
        "MQTT5-3.10.4-2",
        "MQTT5-3.10.4-4",
        "MQTT5-3.10.4-5",
        "MQTT5-3.10.4-6",
        "MQTT5-3.11.3-1",
        "MQTT5-3.11.3-2",
        "MQTT5-2.2.1-6",
    )
    def test_unsubscribe_takes_the_subscription_out(self) -> None:
        world = World()
        client = world.connected("c")
        client.subscribe("a", "$share/g/b")

        [event] = client.send(Unsubscribe(packet_id=3, topic_filters=("a", "$share/g/b", "never")))
        assert event["topic_filters"] == ["a", "$share/g/b", "never"]
        client.ack(event, reason_codes=[0, 0, 0])

        assert client.read() == [UnsubAck(packet_id=3, reason_codes=(0, 0, ReasonCode.NO_SUBSCRIPTION_EXISTED))]
        assert world.publish("a") == world.publish("b") == 0

    def test_an_invalid_filter_to_unsubscribe_from_is_refused_without_asking(self) -> None:
        world = World()
        client = world.connected("c")
        client.subscribe("a", "b")

        [event] = client.send(Unsubscribe(packet_id=3, topic_filters=("a", "$share/g", "b")))
        assert event["topic_filters"] == ["a", "b"]
        client.ack(event)

        assert client.read() == [UnsubAck(packet_id=3, reason_codes=(0, ReasonCode.TOPIC_FILTER_INVALID, 0))]

    def test_unsubscribe_does_not_ask_the_application_if_every_filter_is_invalid(self) -> None:
        client = World().connected("c")

        assert client.send(Unsubscribe(packet_id=3, topic_filters=("a/#/b",))) == []

        assert client.read() == [UnsubAck(packet_id=3, reason_codes=(ReasonCode.TOPIC_FILTER_INVALID,))]

    def test_a_reason_and_properties_go_along(self) -> None:
        client = World().connected("c")
        [event] = client.send(Unsubscribe(packet_id=3, topic_filters=("a",)))

        client.ack(event, reason_codes=[0x87], reason_string="no", properties={"user_property": [("k", "v")]})

        properties = {"user_property": [("k", "v")], "reason_string": "no"}
        assert client.read() == [UnsubAck(packet_id=3, reason_codes=(0x87,), properties=properties)]

    def test_the_application_may_refuse(self) -> None:
        world = World()
        client = world.connected("c")
        client.subscribe("a")
        [event] = client.send(Unsubscribe(packet_id=3, topic_filters=("a",)))

        client.ack(event, reason_codes=[0x87])

        assert client.read() == [UnsubAck(packet_id=3, reason_codes=(0x87,))]
        assert world.publish("a") == 1


class TestWhatASubscriberGets:
    """[MQTT5-3.3.4]"""

    @pytest.mark.mqtt("MQTT5-3.8.4-8")
    @pytest.mark.parametrize(("published", "granted", "sent"), [(0, 2, 0), (1, 2, 1), (2, 1, 1), (2, 2, 2), (2, 0, 0)])
    def test_the_lesser_of_the_qos_published_and_granted(self, published: int, granted: int, sent: int) -> None:
        world = World()
        client = world.connected("c")
        client.subscribe("a", qos=granted)

        world.publish("a", qos=published)

        assert [packet.qos for packet in client.publishes()] == [sent]

    @pytest.mark.mqtt("MQTT5-3.3.4-2", "MQTT5-3.3.4-3", "MQTT5-3.3.4-4")
    def test_one_copy_for_overlapping_filters_with_the_highest_qos_and_all_identifiers(self) -> None:
        world = World()
        client = world.connected("c")
        client.subscribe("a/b", qos=0, identifier=1)
        client.subscribe("a/+", qos=2, identifier=2)
        client.subscribe("#", qos=1)

        world.publish("a/b", qos=2)

        [packet] = client.publishes()
        assert packet.qos == 2
        assert sorted(packet.properties["subscription_identifier"]) == [1, 2]

    def test_properties_go_on_but_those_of_the_publishers_connection(self) -> None:
        world = World()
        client, publisher = world.connected("c"), world.connected("p")
        client.subscribe("a")
        properties = {"content_type": "x", "response_topic": "r", "user_property": [("k", "v"), ("k", "w")]}

        publish_from(publisher, "a", properties={**properties, "topic_alias": 3})

        [packet] = client.publishes()
        assert packet.properties == properties

    @pytest.mark.mqtt("MQTT5-3.3.1-12", "MQTT5-3.3.1-13")
    def test_the_retain_flag_is_off_unless_asked_for(self) -> None:
        world = World()
        client = world.connected("c")
        client.subscribe(subscription("a"), subscription("b", retain_as_published=True))

        world.publish("a", b"1", retain=True)
        world.publish("b", b"2", retain=True)

        assert [(packet.payload, packet.retain) for packet in client.publishes()] == [(b"1", False), (b"2", True)]

    @pytest.mark.mqtt("MQTT5-3.8.3-3")
    def test_a_subscriber_with_no_local_does_not_get_what_it_published_itself(self) -> None:
        world = World()
        client, other = world.connected("c"), world.connected("o")
        client.subscribe(subscription("a", no_local=True))

        publish_from(client, "a", b"own")
        publish_from(other, "a", b"other")

        assert client.payloads() == [b"other"]

    def test_no_local_holds_for_the_subscription_not_for_the_client(self) -> None:
        world = World()
        client = world.connected("c")
        client.subscribe(subscription("a", no_local=True), subscription("#"))

        publish_from(client, "a", b"own")

        assert client.payloads() == [b"own"]

    @pytest.mark.mqtt("MQTT5-3.1.2-24", "MQTT5-3.1.2-25")
    def test_a_message_over_its_maximum_packet_size_is_dropped_and_the_next_one_sent(self) -> None:
        world = World()
        client = world.connected("c", properties={"maximum_packet_size": 50})
        client.subscribe("a")

        world.publish("a", b"x" * 100, qos=1)
        world.publish("a", b"short", qos=1)

        assert client.payloads() == [b"short"]
        assert world.broker.dropped == {"too_large": 1}

    @pytest.mark.mqtt("MQTT5-3.1.2-26", "MQTT5-3.3.2-11")
    def test_a_topic_is_sent_once_and_then_by_its_alias(self) -> None:
        world = World()
        client = world.connected("c", properties={"topic_alias_maximum": 1})
        client.subscribe("#")

        for topic in ("a", "a", "b"):
            world.publish(topic)

        assert [(packet.topic, packet.properties.get("topic_alias")) for packet in client.publishes()] == [
            ("a", 1),
            ("", 1),
            ("b", None),
        ]

    def test_messages_for_many_are_encoded_once(self) -> None:
        world = World()
        clients = [world.connected(f"c{number}") for number in range(3)]
        for client in clients:
            client.subscribe("a")

        world.publish("a", b"x")

        first, *others = (client.connection.writer.output[0] for client in clients)
        assert all(other is first for other in others)


class TestPublishFromOutside:
    def test_a_publish_from_outside_reaches_every_subscriber_and_says_how_many(self) -> None:
        world = World()
        for name in "ab":
            world.connected(name).subscribe("t/#")

        assert world.publish("t/1") == 2
        assert world.publish("u") == 0

    @pytest.mark.parametrize(
        ("message", "error"),
        [({"topic": "a/+"}, ValueError), ({"qos": 3}, ValueError), ({"payload": "text"}, TypeError)],
    )
    def test_what_mqtt_cannot_say_is_the_callers_error(
        self, message: dict[str, object], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            World().publish(**{"topic": "t", "payload": b"", **message})  # type: ignore[arg-type]

    def test_an_application_may_send_to_its_client_what_it_has_not_subscribed_to(self) -> None:
        client = World().connected("c")

        client.answer({"type": "mqtt.publish", "topic": "t", "payload": b"x", "qos": 1})

        [packet] = client.publishes()
        assert (packet.topic, packet.payload, packet.qos) == ("t", b"x", 1)


class TestBridges:
    """Clients that set the bridge bit: before 5.0 it is how they say "no local" and "retain as published"."""

    @pytest.mark.parametrize("version", [3, 4])
    def test_the_bit_means_no_local_and_retain_as_published_with_each_filter(self, version: int) -> None:
        bridge = World().connected("b", version, bridge=True)

        [event] = bridge.send(
            Subscribe(packet_id=1, subscriptions=(subscription("a/#", 1), subscription("$share/g/b", 1)))
        )

        assert [
            (one["topic_filter"], one["no_local"], one["retain_as_published"]) for one in event["subscriptions"]
        ] == [
            ("a/#", True, True),
            ("b", False, True),  # "no local" is none of a shared subscription [MQTT5-3.8.3-4]
        ]

    @pytest.mark.parametrize("version", [3, 4])
    def test_a_bridges_own_messages_do_not_come_back_and_others_keep_their_retain_flag(self, version: int) -> None:
        world = World()
        bridge, other = world.connected("b", version, bridge=True), world.connected("o")
        bridge.subscribe("a/#")

        publish_from(bridge, "a/own", b"own", retain=True)
        publish_from(other, "a/state", b"state", retain=True)
        publish_from(other, "a/event", b"event")

        assert [(one.payload, one.retain) for one in bridge.publishes()] == [(b"state", True), (b"event", False)]

    @pytest.mark.parametrize("version", [3, 4])
    def test_a_message_of_its_own_that_is_retained_is_not_sent_to_it_when_it_subscribes(self, version: int) -> None:
        world = World()
        bridge = world.connected("b", version, bridge=True)
        publish_from(bridge, "a/own", b"own", retain=True)

        assert [packet for packet in bridge.subscribe("a/#") if isinstance(packet, Publish)] == []

    @pytest.mark.parametrize("version", [3, 4])
    def test_a_client_without_the_bit_gets_its_own_messages(self, version: int) -> None:
        client = World().connected("c", version)
        client.subscribe("a/#")

        publish_from(client, "a/own", b"own", retain=True)

        assert [(one.payload, one.retain) for one in client.publishes()] == [(b"own", False)]
