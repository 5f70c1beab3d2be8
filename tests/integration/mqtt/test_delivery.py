"""Messages from publisher to subscriber: quality of service, wildcards, retained messages, shared subscriptions."""

import pytest

from protocols.mqtt.codec.packets import PubAck, PubComp, Publish, PubRec, PubRel
from tests.integration.mqtt.fixture_types import ConnectPaho, OpenRaw


class TestQualityOfService:
    @pytest.mark.parametrize("version", [3, 4, 5])
    @pytest.mark.parametrize("qos", [0, 1, 2])
    async def test_a_message_arrives_once_with_what_it_was_published_with(
        self, paho: ConnectPaho, version: int, qos: int
    ) -> None:
        subscriber = await paho("subscriber", version)
        publisher = await paho("publisher", version)
        await subscriber.subscribe("a/b", 2)

        await publisher.publish("a/b", b"21.5", qos)
        await publisher.publish("a/b", b"end", qos)

        message, end = await subscriber.message(), await subscriber.message()
        assert (message.topic, message.payload, message.qos, message.retain) == ("a/b", b"21.5", qos, False)
        assert end.payload == b"end"

    @pytest.mark.mqtt("MQTT3-3.8.4-6", "MQTT5-3.8.4-8", "MQTT5-4.3.1-1", "MQTT3-4.3.1-1")
    @pytest.mark.parametrize(("published", "granted", "delivered"), [(2, 0, 0), (2, 1, 1), (1, 2, 1), (0, 2, 0)])
    async def test_the_lower_of_both_qos_is_that_of_the_delivery(
        self, paho: ConnectPaho, published: int, granted: int, delivered: int
    ) -> None:
        """[MQTT5-3.8.4-8]"""
        subscriber = await paho("subscriber", 5)
        assert [code.value for code in await subscriber.subscribe("a", granted)] == [granted]

        await (await paho("publisher", 5)).publish("a", b"x", published)

        assert (await subscriber.message()).qos == delivered

    async def test_a_message_passes_between_versions(self, paho: ConnectPaho) -> None:
        subscribers = [await paho(f"subscriber-{version}", version) for version in (3, 4, 5)]
        for subscriber in subscribers:
            await subscriber.subscribe("a", 1)

        for version in (3, 4, 5):
            await (await paho(f"publisher-{version}", version)).publish("a", b"from %d" % version, 1)

        for subscriber in subscribers:
            assert [(await subscriber.message()).payload for _ in range(3)] == [b"from 3", b"from 4", b"from 5"]

    @pytest.mark.mqtt("MQTT3-4.3.2-2", "MQTT3-2.3.1-6", "MQTT3-3.3.4-1", "MQTT3-2.3.1-4")
    async def test_qos_1_byte_by_byte(self, raw: OpenRaw) -> None:
        """[MQTT5-4.3.2]"""
        subscriber, publisher = await raw("subscriber"), await raw("publisher")
        assert await subscriber.subscribe("a", 1) == 1

        publisher.send(b"\x32\x06\x00\x01a\x00\x07x")
        await publisher.expect(b"\x40\x02\x00\x07")

        await subscriber.expect(b"\x32\x06\x00\x01a\x00\x01x")
        subscriber.send(b"\x40\x02\x00\x01")
        await subscriber.expect_nothing_more()

    @pytest.mark.mqtt("MQTT3-4.3.3-2", "MQTT3-2.3.1-6", "MQTT3-3.3.4-1", "MQTT3-4.6.0-4")
    async def test_qos_2_byte_by_byte(self, raw: OpenRaw) -> None:
        """[MQTT5-4.3.3]"""
        subscriber, publisher = await raw("subscriber"), await raw("publisher")
        assert await subscriber.subscribe("a", 2) == 2

        publisher.send(b"\x34\x06\x00\x01a\x00\x07x")
        await publisher.expect(b"\x50\x02\x00\x07")
        publisher.send(b"\x62\x02\x00\x07")
        await publisher.expect(b"\x70\x02\x00\x07")

        await subscriber.expect(b"\x34\x06\x00\x01a\x00\x01x")
        subscriber.send(b"\x50\x02\x00\x01")
        await subscriber.expect(b"\x62\x02\x00\x01")
        subscriber.send(b"\x70\x02\x00\x01")
        await subscriber.expect_nothing_more()

    @pytest.mark.mqtt("MQTT3-4.3.3-2", "MQTT5-4.3.3-10")
    async def test_a_qos_2_message_sent_again_before_its_release_is_one_message(self, raw: OpenRaw) -> None:
        """[MQTT5-4.3.3-10]"""
        subscriber, publisher = await raw("subscriber"), await raw("publisher")
        await subscriber.subscribe("a", 0)

        publisher.send(b"\x34\x06\x00\x01a\x00\x07x")
        await publisher.expect(b"\x50\x02\x00\x07")
        publisher.send(b"\x3c\x06\x00\x01a\x00\x07x")
        await publisher.expect(b"\x50\x02\x00\x07")
        publisher.send(PubRel(7))
        assert await publisher.receive() == PubComp(7)

        await subscriber.expect(b"\x30\x04\x00\x01ax")
        await subscriber.expect_nothing_more()

    async def test_after_its_release_a_packet_identifier_is_a_new_message(self, raw: OpenRaw) -> None:
        """[MQTT5-4.3.3-12]"""
        subscriber, publisher = await raw("subscriber"), await raw("publisher")
        await subscriber.subscribe("a", 0)

        for _ in range(2):
            publisher.send(b"\x34\x06\x00\x01a\x00\x07x")
            assert await publisher.receive() == PubRec(7)
            publisher.send(PubRel(7))
            assert await publisher.receive() == PubComp(7)

        for _ in range(2):
            await subscriber.expect(b"\x30\x04\x00\x01ax")

    async def test_a_release_of_an_unknown_message_is_completed(self, raw: OpenRaw) -> None:
        """[MQTT5-3.7.2-1]: 3.1.1 answers as if it were known, 5.0 says that it is not."""
        old, new = await raw("old", 4), await raw("new", 5)

        old.send(b"\x62\x02\x00\x09")
        new.send(b"\x62\x02\x00\x09")

        await old.expect(b"\x70\x02\x00\x09")
        await new.expect(b"\x70\x03\x00\x09\x92")

    @pytest.mark.mqtt("MQTT3-4.6.0-5", "MQTT3-4.6.0-6", "MQTT5-4.6.0-5")
    @pytest.mark.parametrize("qos", [0, 1, 2])
    async def test_messages_of_a_topic_arrive_in_the_order_they_were_published_in(
        self, paho: ConnectPaho, qos: int
    ) -> None:
        """[MQTT5-4.6.0-6]"""
        subscriber, publisher = await paho("subscriber", 5), await paho("publisher", 5)
        await subscriber.subscribe("a", qos)

        for index in range(100):
            publisher.client.publish("a", b"%d" % index, qos)

        assert [(await subscriber.message()).payload for _ in range(100)] == [b"%d" % index for index in range(100)]

    @pytest.mark.mqtt("MQTT3-4.6.0-2", "MQTT5-4.6.0-2")
    async def test_many_publishes_in_one_segment_are_all_acknowledged_in_order(self, raw: OpenRaw) -> None:
        """[MQTT5-4.6.0-2]"""
        publisher = await raw("publisher")

        publisher.send(*(Publish(topic="a", qos=1, packet_id=index) for index in range(1, 501)))

        for index in range(1, 501):
            assert await publisher.receive() == PubAck(index)


class TestWildcards:
    async def test_a_subscriber_gets_what_its_filters_match(self, raw: OpenRaw) -> None:
        subscriber, publisher = await raw("subscriber"), await raw("publisher")
        await subscriber.subscribe("home/+/temperature")
        await subscriber.subscribe("garden/#")

        for topic in ("home/kitchen/temperature", "home/kitchen/light", "garden", "garden/a/b", "other"):
            publisher.send(Publish(topic=topic))

        for topic in ("home/kitchen/temperature", "garden", "garden/a/b"):
            assert await subscriber.receive() == Publish(topic=topic)
        await publisher.expect_nothing_more()
        await subscriber.expect_nothing_more()

    @pytest.mark.mqtt("MQTT3-4.7.2-1", "MQTT5-4.7.2-1")
    async def test_a_leading_wildcard_does_not_match_a_topic_that_begins_with_a_dollar(self, raw: OpenRaw) -> None:
        """[MQTT5-4.7.2-1]"""
        subscriber, publisher = await raw("subscriber"), await raw("publisher")
        await subscriber.subscribe("#")
        await subscriber.subscribe("+/x")

        publisher.send(Publish(topic="$other/x"), Publish(topic="end"))

        assert await subscriber.receive() == Publish(topic="end")

    @pytest.mark.mqtt("MQTT3-3.10.4-1", "MQTT3-3.10.4-2")
    async def test_nothing_arrives_after_unsubscribing(self, raw: OpenRaw) -> None:
        """[MQTT5-3.10.4-1]"""
        subscriber, publisher = await raw("subscriber"), await raw("publisher")
        await subscriber.subscribe("a")

        subscriber.send(b"\xa2\x05\x00\x0a\x00\x01a")
        await subscriber.expect(b"\xb0\x02\x00\x0a")
        publisher.send(Publish(topic="a"))

        await publisher.expect_nothing_more()
        await subscriber.expect_nothing_more()

    @pytest.mark.mqtt("MQTT3-3.8.4-3")
    async def test_subscribing_again_replaces_the_subscription(self, raw: OpenRaw) -> None:
        """[MQTT5-3.8.4-3]"""
        subscriber, publisher = await raw("subscriber"), await raw("publisher")
        await subscriber.subscribe("a", 0)
        await subscriber.subscribe("a", 1)

        publisher.send(b"\x32\x06\x00\x01a\x00\x07x")
        await publisher.expect(b"\x40\x02\x00\x07")

        await subscriber.expect(b"\x32\x06\x00\x01a\x00\x01x")
        await subscriber.expect_nothing_more()


class TestRetained:
    @pytest.mark.mqtt("MQTT3-3.3.1-5", "MQTT3-3.3.1-6", "MQTT3-3.3.1-8")
    @pytest.mark.parametrize("version", [3, 4, 5])
    async def test_a_new_subscriber_gets_the_last_retained_message_of_each_topic(
        self, paho: ConnectPaho, version: int
    ) -> None:
        """[MQTT5-3.3.1-5] [MQTT5-3.3.1-9]"""
        publisher = await paho("publisher", version)
        await publisher.publish("a/1", b"old", 1, retain=True)
        await publisher.publish("a/1", b"new", 1, retain=True)
        await publisher.publish("a/2", b"other", 1, retain=True)
        await publisher.publish("b", b"not matched", 1, retain=True)

        subscriber = await paho("subscriber", version)
        await subscriber.subscribe("a/+", 1)

        messages = [await subscriber.message(), await subscriber.message()]
        assert {(message.topic, message.payload) for message in messages} == {("a/1", b"new"), ("a/2", b"other")}
        assert all(message.retain for message in messages)
        assert subscriber.messages.empty()

    @pytest.mark.mqtt("MQTT3-3.3.1-9")
    async def test_a_subscriber_that_is_there_already_gets_it_as_an_ordinary_message(self, raw: OpenRaw) -> None:
        """[MQTT3-3.3.1-9]"""
        subscriber, publisher = await raw("subscriber"), await raw("publisher")
        await subscriber.subscribe("a")

        publisher.send(Publish(topic="a", payload=b"x", retain=True))

        assert await subscriber.receive() == Publish(topic="a", payload=b"x", retain=False)

    @pytest.mark.mqtt("MQTT3-3.3.1-10", "MQTT3-3.3.1-11")
    async def test_an_empty_payload_removes_it(self, raw: OpenRaw) -> None:
        """[MQTT5-3.3.1-6] [MQTT5-3.3.1-7]"""
        publisher = await raw("publisher")
        publisher.send(Publish(topic="a", payload=b"x", retain=True), Publish(topic="a", retain=True))
        await publisher.expect_nothing_more()

        subscriber = await raw("subscriber")
        await subscriber.subscribe("a")

        await subscriber.expect_nothing_more()

    @pytest.mark.mqtt("MQTT3-3.3.1-12")
    async def test_a_message_without_the_retain_flag_changes_nothing_for_later_subscribers(self, raw: OpenRaw) -> None:
        """[MQTT5-3.3.1-8]"""
        publisher = await raw("publisher")
        publisher.send(Publish(topic="a", payload=b"kept", retain=True), Publish(topic="a", payload=b"passing"))
        await publisher.expect_nothing_more()

        subscriber = await raw("subscriber")
        await subscriber.subscribe("a")

        assert await subscriber.receive() == Publish(topic="a", payload=b"kept", retain=True)

    @pytest.mark.mqtt("MQTT3-3.8.4-3")
    async def test_a_retained_message_comes_with_every_subscribe_before_5_0(self, raw: OpenRaw) -> None:
        """[MQTT3-3.8.4-3]"""
        client = await raw("client")
        client.send(Publish(topic="a", payload=b"x", retain=True))

        for _ in range(2):
            await client.subscribe("a")
            assert await client.receive() == Publish(topic="a", payload=b"x", retain=True)

    @pytest.mark.mqtt("MQTT3-3.1.2-7")
    async def test_a_retained_message_outlives_its_publisher(self, raw: OpenRaw) -> None:
        publisher = await raw("publisher")
        publisher.send(Publish(topic="a", payload=b"x", retain=True))
        await publisher.disconnect()

        subscriber = await raw("subscriber")
        await subscriber.subscribe("#", 1)

        assert await subscriber.receive() == Publish(topic="a", payload=b"x", retain=True)


class TestSharedSubscriptions:
    async def test_each_message_goes_to_one_member(self, raw: OpenRaw) -> None:
        """[MQTT5-4.8.2]"""
        members = [await raw(f"member-{index}", 5) for index in range(2)]
        for member in members:
            await member.subscribe("$share/group/jobs/+", 0)
        publisher, witness = await raw("publisher", 5), await raw("witness", 5)
        await witness.subscribe("jobs/#")

        publisher.send(*(Publish(topic=f"jobs/{index}") for index in range(20)))
        await publisher.expect_nothing_more()

        received = []
        for member in members:
            member.send(b"\xc0\x00")
            share = []
            while isinstance(packet := await member.receive(), Publish):
                share.append(packet.topic)
            assert share
            received += share
        assert sorted(received) == sorted(f"jobs/{index}" for index in range(20))
        for index in range(20):
            assert await witness.receive() == Publish(topic=f"jobs/{index}")

    async def test_a_member_that_leaves_leaves_all_to_the_others(self, raw: OpenRaw) -> None:
        stays, leaves = await raw("stays", 5), await raw("leaves", 5)
        publisher = await raw("publisher", 5)
        for member in (stays, leaves):
            await member.subscribe("$share/group/a", 1)
        await leaves.disconnect()

        for index in range(1, 5):
            publisher.send(Publish(topic="a", qos=1, packet_id=index))
            assert await publisher.receive() == PubAck(index)
            assert await stays.receive() == Publish(topic="a", qos=1, packet_id=index)
            stays.send(PubAck(index))

    async def test_retained_messages_are_not_sent_to_it(self, raw: OpenRaw) -> None:
        """[MQTT5-4.8.2]: "it is not sent any retained messages on subscribe"."""
        publisher, member = await raw("publisher", 5), await raw("member", 5)
        publisher.send(Publish(topic="a", payload=b"x", retain=True))
        await publisher.expect_nothing_more()

        await member.subscribe("$share/group/a")

        await member.expect_nothing_more()

    async def test_groups_do_not_take_from_each_other(self, raw: OpenRaw) -> None:
        first, second, publisher = await raw("first", 5), await raw("second", 5), await raw("publisher", 5)
        await first.subscribe("$share/one/a")
        await second.subscribe("$share/two/a")

        publisher.send(Publish(topic="a"))

        assert await first.receive() == Publish(topic="a")
        assert await second.receive() == Publish(topic="a")
