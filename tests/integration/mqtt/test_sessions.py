"""What outlives a connection, and what ends one: sessions, redelivery, takeover, keep alive, flow control."""

import asyncio

import pytest

from protocols.mqtt.codec.packets import (
    Disconnect,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReasonCode,
)
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.fixture_types import ConnectPaho, OpenRaw, Serve
from tests.support.waiting import DEADLINE_S, time_passes, until

KEPT = {"session_expiry_interval": 3600}


class TestResuming:
    @pytest.mark.mqtt("MQTT3-3.1.2-4", "MQTT3-3.1.2-5", "MQTT3-4.1.0-1", "MQTT3-4.5.0-1", "MQTT5-3.1.2-5")
    @pytest.mark.parametrize("version", [3, 4, 5])
    async def test_messages_of_an_absence_come_with_the_return(self, paho: ConnectPaho, version: int) -> None:
        options = {"connect_properties": {"SessionExpiryInterval": 3600}} if version == 5 else {}
        subscriber = await paho("subscriber", version, clean=False, **options)
        await subscriber.subscribe("a", 1)
        await subscriber.disconnect()

        publisher = await paho("publisher", version)
        for index in range(10):
            await publisher.publish("a", b"%d" % index, 1)

        subscriber = await paho("subscriber", version, clean=False, **options)
        assert [(await subscriber.message()).payload for _ in range(10)] == [b"%d" % index for index in range(10)]

    @pytest.mark.mqtt("MQTT3-3.2.2-2", "MQTT3-3.2.2-3", "MQTT5-3.2.2-3", "MQTT5-3.1.2-6")
    async def test_session_present_says_whether_there_was_one(self, open_raw: OpenRaw) -> None:
        """[MQTT5-3.2.2-2] [MQTT5-3.2.2-3]"""
        for expected in (False, True):
            client = await open_raw(4)
            assert (await client.connect("client", clean_start=False)).session_present is expected
            await client.disconnect()

    @pytest.mark.mqtt("MQTT3-3.1.2-6", "MQTT3-3.2.2-1", "MQTT3-3.1.4-3", "MQTT5-3.1.2-4", "MQTT5-3.2.2-2")
    async def test_a_clean_start_discards_the_session(self, open_raw: OpenRaw) -> None:
        """[MQTT5-3.1.2-4]"""
        client = await open_raw(4)
        await client.connect("client", clean_start=False)
        await client.subscribe("a", 1)
        await client.disconnect()

        for clean_start in (True, False):
            client = await open_raw(4)
            assert not (await client.connect("client", clean_start=clean_start)).session_present
            client.send(Publish(topic="a", qos=1, packet_id=1))
            assert await client.receive() == PubAck(1)
            await client.expect_nothing_more()
            await client.disconnect()

    async def test_without_an_expiry_a_session_of_5_0_ends_with_the_connection(self, open_raw: OpenRaw) -> None:
        """[MQTT5-3.1.2.11.2]"""
        for _ in range(2):
            client = await open_raw(5)
            assert not (await client.connect("client", clean_start=False)).session_present
            await client.disconnect()

    async def test_a_disconnect_can_shorten_the_expiry(self, open_raw: OpenRaw) -> None:
        """[MQTT5-3.14.2.2.2]"""
        client = await open_raw(5)
        await client.connect("client", properties=KEPT)
        client.send(Disconnect(properties={"session_expiry_interval": 0}))
        await client.expect_end()

        client = await open_raw(5)
        assert not (await client.connect("client", clean_start=False)).session_present

    async def test_a_disconnect_cannot_give_an_expiry_to_a_session_that_had_none(self, raw: OpenRaw) -> None:
        """[MQTT5-3.14.2.2.2]"""
        client = await raw("client", 5)

        client.send(Disconnect(properties={"session_expiry_interval": 5}))

        await client.expect_disconnect(ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.mqtt("MQTT5-4.1.0-2")
    async def test_a_session_expires(self, open_raw: OpenRaw) -> None:
        """[MQTT5-3.1.2-23]"""
        client = await open_raw(5)
        await client.connect("client", properties={"session_expiry_interval": 1})
        await client.disconnect()

        await time_passes(1.1)

        client = await open_raw(5)
        assert not (await client.connect("client", clean_start=False)).session_present

    async def test_messages_at_qos_0_are_not_kept(self, raw: OpenRaw) -> None:
        client = await raw("client", clean_start=False)
        await client.subscribe("a", 1)
        await client.disconnect()
        publisher = await raw("publisher")
        publisher.send(Publish(topic="a"), Publish(topic="a", payload=b"kept", qos=1, packet_id=1))
        await publisher.receive()

        client = await raw("client", clean_start=False)

        assert await client.receive() == Publish(topic="a", payload=b"kept", qos=1, packet_id=1)


class TestRedelivery:
    @pytest.mark.mqtt("MQTT3-3.3.1-1", "MQTT3-4.4.0-1", "MQTT5-3.3.1-1", "MQTT5-4.4.0-1")
    async def test_an_unacknowledged_message_is_sent_again_with_dup(self, raw: OpenRaw) -> None:
        """[MQTT5-4.4.0-1] [MQTT5-3.3.1-1]"""
        publisher = await raw("publisher")
        client = await raw("client", clean_start=False)
        await client.subscribe("a", 1)
        publisher.send(Publish(topic="a", payload=b"x", qos=1, packet_id=9))
        await client.expect(b"\x32\x06\x00\x01a\x00\x01x")
        client.abort()

        client = await raw("client", clean_start=False)
        await client.expect(b"\x3a\x06\x00\x01a\x00\x01x")
        client.send(b"\x40\x02\x00\x01")
        await client.expect_nothing_more()
        client.abort()

        client = await raw("client", clean_start=False)
        await client.expect_nothing_more()

    @pytest.mark.mqtt("MQTT3-4.6.0-1")
    async def test_messages_are_sent_again_in_their_first_order_and_before_new_ones(
        self, raw: OpenRaw, application: AcceptEverything
    ) -> None:
        """[MQTT5-4.6.0-1]"""
        publisher = await raw("publisher")
        client = await raw("client", 5, properties=KEPT)
        await client.subscribe("a", 1)
        for index in (1, 2, 3):
            publisher.send(Publish(topic="a", payload=b"%d" % index, qos=1, packet_id=index))
            await client.receive()
        client.send(PubAck(2))
        await client.expect_nothing_more()
        client.abort()
        await until(lambda: application.seen("mqtt.disconnect", "client"), "the loss of the connection")
        publisher.send(Publish(topic="a", payload=b"4", qos=1, packet_id=4))
        for index in (1, 2, 3, 4):
            assert await publisher.receive() == PubAck(index)

        client = await raw("client", 5, clean_start=False, properties=KEPT)

        packets = [await client.receive() for _ in range(3)]
        assert [(packet.payload, packet.dup) for packet in packets if isinstance(packet, Publish)] == [
            (b"1", True),
            (b"3", True),
            (b"4", False),
        ]

    async def test_a_qos_2_delivery_goes_on_where_it_was_cut(self, raw: OpenRaw) -> None:
        """[MQTT5-4.4.0-1]: a PUBREL is sent again, the message is not."""
        publisher = await raw("publisher")
        client = await raw("client", clean_start=False)
        await client.subscribe("a", 2)
        publisher.send(Publish(topic="a", qos=2, packet_id=9))
        assert await client.receive() == Publish(topic="a", qos=2, packet_id=1)
        client.abort()

        client = await raw("client", clean_start=False)
        assert await client.receive() == Publish(topic="a", qos=2, packet_id=1, dup=True)
        client.send(PubRec(1))
        assert await client.receive() == PubRel(1)
        client.abort()

        client = await raw("client", clean_start=False)
        assert await client.receive() == PubRel(1)
        client.send(PubComp(1))
        await client.expect_nothing_more()

    async def test_a_publisher_goes_on_with_qos_2_where_it_was_cut(self, raw: OpenRaw) -> None:
        """[MQTT5-4.3.3-10]: the server remembers the packet identifier across connections."""
        subscriber = await raw("subscriber")
        await subscriber.subscribe("a")
        publisher = await raw("publisher", clean_start=False)
        publisher.send(Publish(topic="a", qos=2, packet_id=5))
        assert await publisher.receive() == PubRec(5)
        publisher.abort()

        publisher = await raw("publisher", clean_start=False)
        publisher.send(Publish(topic="a", qos=2, packet_id=5, dup=True))
        assert await publisher.receive() == PubRec(5)
        publisher.send(PubRel(5))
        assert await publisher.receive() == PubComp(5)

        assert await subscriber.receive() == Publish(topic="a")
        await subscriber.expect_nothing_more()

    async def test_a_refused_pubrec_ends_the_delivery(self, raw: OpenRaw) -> None:
        """[MQTT5-4.3.3-4]"""
        publisher = await raw("publisher", 5)
        client = await raw("client", 5, properties={**KEPT, "receive_maximum": 1})
        await client.subscribe("a", 2)
        for index in (1, 2):
            publisher.send(Publish(topic="a", payload=b"%d" % index, qos=2, packet_id=index))

        packet = await client.receive()
        assert isinstance(packet, Publish)
        client.send(PubRec(packet.packet_id, ReasonCode.QUOTA_EXCEEDED))

        packet = await client.receive()
        assert isinstance(packet, Publish)
        assert packet.payload == b"2"


class TestFlowControl:
    async def test_no_more_than_receive_maximum_are_under_way(self, raw: OpenRaw) -> None:
        """[MQTT5-3.3.4-9]"""
        publisher = await raw("publisher")
        client = await raw("client", 5, properties={"receive_maximum": 2})
        await client.subscribe("a", 1)
        for index in range(1, 6):
            publisher.send(Publish(topic="a", payload=b"%d" % index, qos=1, packet_id=index))
            assert await publisher.receive() == PubAck(index)

        under_way = [await client.receive(), await client.receive()]
        await client.expect_nothing_more()
        received = []
        while under_way:
            packet = under_way.pop(0)
            assert isinstance(packet, Publish)
            received.append(packet.payload)
            client.send(PubAck(packet.packet_id))
            if len(received) + len(under_way) < 5:
                under_way.append(await client.receive())
            await client.expect_nothing_more()

        assert received == [b"1", b"2", b"3", b"4", b"5"]

    async def test_an_absent_client_has_a_bounded_queue(
        self, serve: Serve, raw: OpenRaw, application: AcceptEverything
    ) -> None:
        """The messages that came first are kept."""
        small = await serve(application, max_queued_messages=3)
        client = await raw("client", to=small, clean_start=False)
        await client.subscribe("a", 1)
        await client.disconnect()
        publisher = await raw("publisher", to=small)
        for index in range(1, 6):
            publisher.send(Publish(topic="a", payload=b"%d" % index, qos=1, packet_id=index))
            await publisher.receive()

        client = await raw("client", to=small, clean_start=False)

        for payload in (b"1", b"2", b"3"):
            packet = await client.receive()
            assert isinstance(packet, Publish)
            assert packet.payload == payload
            client.send(PubAck(packet.packet_id))
        await client.expect_nothing_more()


class TestTakeover:
    @pytest.mark.mqtt("MQTT5-3.1.4-3")
    async def test_a_second_connection_of_a_client_ends_the_first(
        self, raw: OpenRaw, application: AcceptEverything
    ) -> None:
        """[MQTT5-3.1.4-3]"""
        first = await raw("client", 5)
        second = await raw("client", 5)

        await first.expect_disconnect(ReasonCode.SESSION_TAKEN_OVER)
        await second.expect_nothing_more()
        await until(lambda: application.seen("mqtt.disconnect", "client"), "the disconnect event of the first")
        assert [event["reason"] for event in application.seen("mqtt.disconnect", "client")] == ["taken_over"]

    @pytest.mark.mqtt("MQTT3-3.1.4-2")
    async def test_a_client_of_3_1_1_is_only_closed(self, raw: OpenRaw) -> None:
        """[MQTT3-3.1.4-2]"""
        first = await raw("client", 4)
        await raw("client", 4)

        await first.expect_end()

    @pytest.mark.mqtt("MQTT3-3.1.3-2", "MQTT3-4.1.0-2")
    async def test_the_session_moves_to_the_new_connection(self, raw: OpenRaw) -> None:
        first = await raw("client", 4, clean_start=False)
        await first.subscribe("a", 1)
        second = await raw("client", 4, clean_start=False)
        publisher = await raw("publisher")

        publisher.send(Publish(topic="a", qos=1, packet_id=1))

        assert await second.receive() == Publish(topic="a", qos=1, packet_id=1)


class TestKeepAlive:
    @pytest.mark.mqtt("MQTT3-3.1.2-24", "MQTT5-3.1.2-22")
    async def test_a_silent_client_is_closed_after_one_and_a_half_times_its_keep_alive(
        self, raw: OpenRaw, application: AcceptEverything
    ) -> None:
        """[MQTT5-3.1.2-22]"""
        loop = asyncio.get_running_loop()
        started = loop.time()
        old = await raw("old", 4, keep_alive_s=1)
        new = await raw("new", 5, keep_alive_s=1)

        await new.expect_disconnect(ReasonCode.KEEP_ALIVE_TIMEOUT)
        await old.expect_end()

        assert 1.4 <= loop.time() - started < DEADLINE_S
        await until(lambda: application.seen("mqtt.disconnect", "new"), "the disconnect event")
        assert application.seen("mqtt.disconnect", "new")[0]["reason"] == "keep_alive"

    async def test_any_packet_keeps_a_connection_open(self, raw: OpenRaw) -> None:
        """[MQTT5-3.1.2-20]"""
        client = await raw("client", 4, keep_alive_s=1)

        for _ in range(4):
            await time_passes(0.6)
            await client.expect_nothing_more()

    async def test_a_connection_without_a_connect_is_closed(self, serve: Serve, open_raw: OpenRaw) -> None:
        """[MQTT5-3.1.4]: "within a reasonable amount of time"."""
        impatient = await serve(AcceptEverything(), connect_timeout_s=0.2)
        silent = await open_raw(to=impatient)
        dribbling = await open_raw(to=impatient)
        dribbling.send(b"\x10\x0c\x00\x04MQ")

        await silent.expect_end()
        await dribbling.expect_end()

    async def test_a_connection_that_was_made_in_time_stays(self, serve: Serve, raw: OpenRaw) -> None:
        impatient = await serve(AcceptEverything(), connect_timeout_s=0.1)
        client = await raw("client", to=impatient)

        await time_passes(0.2)

        await client.expect_nothing_more()
