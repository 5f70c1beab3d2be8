"""What only MQTT 5.0 has, between real connections."""

import pytest

from protocols.mqtt.codec.packets import (
    ConnAck,
    Connect,
    Disconnect,
    PubAck,
    Publish,
    ReasonCode,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
)
from tests.integration.mqtt.fixture_types import ConnectPaho, OpenRaw
from tests.support.waiting import time_passes

KEPT = {"session_expiry_interval": 3600}


class TestConnecting:
    @pytest.mark.mqtt("MQTT5-3.1.3-7")
    async def test_a_client_without_an_identifier_is_told_the_one_it_gets(self, open_raw: OpenRaw) -> None:
        """[MQTT5-3.1.3-6] [MQTT5-3.1.3-7] [MQTT5-3.2.2-16]"""
        first, second = await open_raw(5), await open_raw(5)

        names = [(await client.connect("")).properties.get("assigned_client_identifier") for client in (first, second)]

        assert all(names)
        assert names[0] != names[1]

    async def test_limits_are_announced(self, open_raw: OpenRaw) -> None:
        connack = await (await open_raw(5)).connect("client")

        assert connack.properties["receive_maximum"] > 0
        assert connack.properties["maximum_packet_size"] > 0
        assert connack.properties["topic_alias_maximum"] > 0

    async def test_enhanced_authentication_is_refused(self, open_raw: OpenRaw) -> None:
        """[MQTT5-4.12.0-1]"""
        client = await open_raw(5)
        client.send(Connect(version=5, properties={"authentication_method": "SCRAM-SHA-1"}))

        answer = await client.receive()

        assert isinstance(answer, ConnAck)
        assert answer.reason_code == ReasonCode.BAD_AUTHENTICATION_METHOD
        await client.expect_end()


class TestProperties:
    @pytest.mark.mqtt(
        "MQTT5-3.3.2-4", "MQTT5-3.3.2-15", "MQTT5-3.3.2-16", "MQTT5-3.3.2-17", "MQTT5-3.3.2-18", "MQTT5-3.3.2-20"
    )
    async def test_properties_of_a_message_reach_the_subscriber_unchanged(self, paho: ConnectPaho) -> None:
        """[MQTT5-3.3.2-4] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16] [MQTT5-3.3.2-17] [MQTT5-3.3.2-18] [MQTT5-3.3.2-20]"""
        subscriber, publisher = await paho("subscriber", 5), await paho("publisher", 5)
        await subscriber.subscribe("a", 1)

        await publisher.publish(
            "a",
            b"21.5",
            1,
            PayloadFormatIndicator=1,
            ContentType="text/plain",
            ResponseTopic="answers/1",
            CorrelationData=b"\x00\x01",
            UserProperty=[("unit", "C"), ("unit", "K"), ("site", "1")],
        )

        received = (await subscriber.message()).properties
        assert received.PayloadFormatIndicator == 1
        assert received.ContentType == "text/plain"
        assert received.ResponseTopic == "answers/1"
        assert received.CorrelationData == b"\x00\x01"
        assert received.UserProperty == [("unit", "C"), ("unit", "K"), ("site", "1")]

    async def test_a_retained_message_keeps_them(self, raw: OpenRaw) -> None:
        publisher, subscriber = await raw("publisher", 5), await raw("subscriber", 5)
        publisher.send(Publish(topic="a", payload=b"x", retain=True, properties={"content_type": "t"}))
        await publisher.expect_nothing_more()

        await subscriber.subscribe("a")

        assert await subscriber.receive() == Publish(
            topic="a", payload=b"x", retain=True, properties={"content_type": "t"}
        )

    async def test_a_subscriber_of_3_1_1_gets_the_message_without_them(self, raw: OpenRaw) -> None:
        publisher, subscriber = await raw("publisher", 5), await raw("subscriber", 4)
        await subscriber.subscribe("a")

        publisher.send(Publish(topic="a", payload=b"x", properties={"content_type": "t"}))

        await subscriber.expect(b"\x30\x04\x00\x01ax")


class TestTopicAlias:
    async def test_a_publisher_may_name_a_topic_once(self, raw: OpenRaw) -> None:
        """[MQTT5-3.3.2.3.4]"""
        publisher, subscriber = await raw("publisher", 5), await raw("subscriber", 4)
        await subscriber.subscribe("#")

        publisher.send(
            Publish(topic="first", payload=b"1", properties={"topic_alias": 1}),
            Publish(topic="second", payload=b"2", properties={"topic_alias": 2}),
            Publish(topic="", payload=b"3", properties={"topic_alias": 1}),
            Publish(topic="third", payload=b"4", properties={"topic_alias": 1}),
            Publish(topic="", payload=b"5", properties={"topic_alias": 1}),
        )

        received = [await subscriber.receive() for _ in range(5)]
        assert [(packet.topic, packet.payload) for packet in received if isinstance(packet, Publish)] == [
            ("first", b"1"),
            ("second", b"2"),
            ("first", b"3"),
            ("third", b"4"),
            ("third", b"5"),
        ]

    @pytest.mark.parametrize("alias", [33, 65_535])
    async def test_an_alias_above_the_maximum_ends_the_connection(self, raw: OpenRaw, alias: int) -> None:
        """[MQTT5-3.3.2-9]"""
        client = await raw("client", 5)

        client.send(Publish(topic="a", properties={"topic_alias": alias}))

        await client.expect_disconnect(ReasonCode.TOPIC_ALIAS_INVALID)

    async def test_an_alias_that_was_never_named_ends_the_connection(self, raw: OpenRaw) -> None:
        """[MQTT5-3.3.2.3.4]: a protocol error."""
        client = await raw("client", 5)

        client.send(Publish(topic="", properties={"topic_alias": 1}))

        answer = await client.receive()
        assert isinstance(answer, Disconnect)
        assert answer.reason_code in (ReasonCode.PROTOCOL_ERROR, ReasonCode.TOPIC_ALIAS_INVALID)
        await client.expect_end()

    async def test_aliases_end_with_the_connection(self, raw: OpenRaw) -> None:
        """[MQTT5-3.3.2-7]"""
        client = await raw("client", 5, properties=KEPT)
        client.send(Publish(topic="a", properties={"topic_alias": 1}))
        await client.expect_nothing_more()
        client.abort()

        client = await raw("client", 5, clean_start=False, properties=KEPT)
        client.send(Publish(topic="", properties={"topic_alias": 1}))

        assert isinstance(await client.receive(), Disconnect)

    @pytest.mark.mqtt("MQTT5-3.1.2-26", "MQTT5-3.3.2-11")
    async def test_a_subscriber_gets_aliases_only_up_to_its_maximum(self, raw: OpenRaw) -> None:
        """[MQTT5-3.1.2-26] [MQTT5-3.1.2-27]"""
        publisher = await raw("publisher", 5)
        without, with_one = await raw("without", 5), await raw("with-one", 5, properties={"topic_alias_maximum": 1})
        for client in (without, with_one):
            await client.subscribe("#")

        topics = ["first", "first", "second", "first", "second"]
        publisher.send(*(Publish(topic=topic) for topic in topics))

        assert [await without.receive() for _ in topics] == [Publish(topic=topic) for topic in topics]
        named: dict[int, str] = {}
        received = []
        for _ in topics:
            packet = await with_one.receive()
            assert isinstance(packet, Publish)
            alias = packet.properties.get("topic_alias")
            assert alias in (None, 1)
            if alias is not None and packet.topic:
                named[alias] = packet.topic
            received.append(packet.topic or named[alias or 0])
        assert received == topics


class TestMessageExpiry:
    async def test_the_time_that_passed_is_taken_off(self, raw: OpenRaw) -> None:
        """[MQTT5-3.3.2-6]"""
        publisher = await raw("publisher", 5)
        publisher.send(Publish(topic="a", payload=b"x", retain=True, properties={"message_expiry_interval": 1000}))
        await publisher.expect_nothing_more()
        await time_passes(1.1)

        subscriber = await raw("subscriber", 5)
        await subscriber.subscribe("a")

        packet = await subscriber.receive()
        assert isinstance(packet, Publish)
        assert 900 < packet.properties["message_expiry_interval"] < 1000

    async def test_a_message_that_has_expired_does_not_reach_a_client(self, raw: OpenRaw) -> None:
        """[MQTT5-3.3.2-5]"""
        publisher = await raw("publisher", 5)
        absent = await raw("absent", 5, properties=KEPT)
        await absent.subscribe("a", 1)
        await absent.disconnect()
        for index, interval in ((1, 1), (2, 1000)):
            properties = {"message_expiry_interval": interval}
            payload = b"%d" % index
            publisher.send(Publish(topic="a", payload=payload, qos=1, packet_id=index, properties=properties))
            await publisher.receive()
        publisher.send(Publish(topic="a", payload=b"retained", retain=True, properties={"message_expiry_interval": 1}))
        await publisher.expect_nothing_more()
        await time_passes(1.1)

        absent = await raw("absent", 5, clean_start=False, properties=KEPT)
        packet = await absent.receive()
        assert isinstance(packet, Publish)
        assert packet.payload == b"2"
        late = await raw("late", 5)
        await late.subscribe("a")
        await late.expect_nothing_more()


class TestSubscriptionOptions:
    async def test_a_message_says_which_subscriptions_it_is_for(self, raw: OpenRaw) -> None:
        """[MQTT5-3.3.4-3] [MQTT5-3.3.4-4]"""
        publisher, subscriber = await raw("publisher", 5), await raw("subscriber", 5)
        await subscriber.subscribe("a/+", properties={"subscription_identifier": 7})
        await subscriber.subscribe("a/#", properties={"subscription_identifier": 268_435_455})
        await subscriber.subscribe("b")

        publisher.send(Publish(topic="a/x"), Publish(topic="b"))

        identifiers: list[int] = []
        while len(identifiers) < 2:
            packet = await subscriber.receive()
            assert isinstance(packet, Publish)
            assert packet.topic == "a/x"
            identifiers += packet.properties["subscription_identifier"]
        assert sorted(identifiers) == [7, 268_435_455]
        assert await subscriber.receive() == Publish(topic="b")

    async def test_no_local_keeps_a_client_from_its_own_messages(self, raw: OpenRaw) -> None:
        """[MQTT5-3.8.3-3]"""
        client, other = await raw("client", 5), await raw("other", 5)
        await client.subscribe("a", no_local=True)

        client.send(Publish(topic="a", payload=b"own"))
        await client.expect_nothing_more()
        other.send(Publish(topic="a", payload=b"other"))

        assert await client.receive() == Publish(topic="a", payload=b"other")

    async def test_without_no_local_a_client_gets_its_own_messages(self, raw: OpenRaw) -> None:
        client = await raw("client", 5)
        await client.subscribe("a")

        client.send(Publish(topic="a", payload=b"own"))

        assert await client.receive() == Publish(topic="a", payload=b"own")

    @pytest.mark.parametrize("as_published", [False, True])
    async def test_retain_as_published_keeps_the_flag(self, raw: OpenRaw, as_published: bool) -> None:
        """[MQTT5-3.3.1-12] [MQTT5-3.3.1-13]"""
        publisher, subscriber = await raw("publisher", 5), await raw("subscriber", 5)
        await subscriber.subscribe("a", retain_as_published=as_published)

        publisher.send(Publish(topic="a", retain=True, payload=b"x"), Publish(topic="a", payload=b"y"))

        assert await subscriber.receive() == Publish(topic="a", retain=as_published, payload=b"x")
        assert await subscriber.receive() == Publish(topic="a", payload=b"y")

    @pytest.mark.parametrize(("handling", "first", "again"), [(0, True, True), (1, True, False), (2, False, False)])
    async def test_retain_handling_says_when_retained_messages_are_sent(
        self, raw: OpenRaw, handling: int, first: bool, again: bool
    ) -> None:
        """[MQTT5-3.3.1-9] [MQTT5-3.3.1-10] [MQTT5-3.3.1-11]"""
        client = await raw("client", 5)
        client.send(Publish(topic="a", retain=True, payload=b"x"))

        for expected in (first, again):
            await client.subscribe("a", retain_handling=handling)
            if expected:
                assert await client.receive() == Publish(topic="a", retain=True, payload=b"x")
            await client.expect_nothing_more()


class TestAnswers:
    async def test_a_publish_that_nobody_gets_is_acknowledged_as_such_or_as_success(self, raw: OpenRaw) -> None:
        """[MQTT5-3.4.2.1]: 0x10 is the server's choice."""
        client = await raw("client", 5)

        client.send(Publish(topic="nobody", qos=1, packet_id=1))

        answer = await client.receive()
        assert isinstance(answer, PubAck)
        assert answer.reason_code in (ReasonCode.SUCCESS, ReasonCode.NO_MATCHING_SUBSCRIBERS)

    @pytest.mark.mqtt("MQTT5-3.11.3-1", "MQTT5-3.11.3-2")
    async def test_each_filter_of_an_unsubscribe_has_its_code(self, raw: OpenRaw) -> None:
        """[MQTT5-3.11.3-1]"""
        client = await raw("client", 5)
        await client.subscribe("a")

        client.send(Unsubscribe(packet_id=9, topic_filters=("a", "b")))

        assert await client.receive() == UnsubAck(
            packet_id=9, reason_codes=(ReasonCode.SUCCESS, ReasonCode.NO_SUBSCRIPTION_EXISTED)
        )

    async def test_a_filter_that_is_not_valid_is_refused_alone(self, raw: OpenRaw) -> None:
        """[MQTT5-3.8.4-6]"""
        client = await raw("client", 5)

        filters = ("a", "b#", "$share/g", "c/+")
        client.send(Subscribe(packet_id=1, subscriptions=tuple(Subscription(topic_filter=each) for each in filters)))

        answer = await client.receive()
        assert isinstance(answer, SubAck)
        assert answer.reason_codes == (0, ReasonCode.TOPIC_FILTER_INVALID, ReasonCode.TOPIC_FILTER_INVALID, 0)

    async def test_a_message_larger_than_the_client_takes_is_not_sent_to_it(self, raw: OpenRaw) -> None:
        """[MQTT5-3.1.2-24] [MQTT5-3.1.2-25]"""
        publisher, small = await raw("publisher", 5), await raw("small", 5, properties={"maximum_packet_size": 50})
        await small.subscribe("a", 1)

        publisher.send(Publish(topic="a", payload=b"x" * 100, qos=1, packet_id=1))
        publisher.send(Publish(topic="a", payload=b"fits", qos=1, packet_id=2))

        packet = await small.receive()
        assert isinstance(packet, Publish)
        assert packet.payload == b"fits"
