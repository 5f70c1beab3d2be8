"""Bounds of a listener, by clients that go beyond them: what they see, what is counted, what others notice."""

import asyncio

import pytest

from protocols import metrics
from protocols.log_lines import LINES_AT_ONCE
from protocols.mqtt.codec.decoder import encode
from protocols.mqtt.codec.packets import Disconnect, PubAck, Publish
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.fixture_types import OpenRaw, Serve
from tests.support.waiting import until


def counted(name: str, *labels: str) -> float:
    return getattr(metrics, name).labels(*labels)._value.get()  # type: ignore[no-any-return]


class TestConnections:
    async def test_one_more_from_an_address_is_closed_at_once(
        self, serve: Serve, application: AcceptEverything, open_raw: OpenRaw
    ) -> None:
        address = await serve(application, max_connections_per_address=2)
        before = counted("mqtt_refused", "max_connections_per_address")
        first, second = [await open_raw(to=address) for _ in range(2)]
        await first.connect("first")
        await second.connect("second")

        await (await open_raw(to=address)).expect_end()
        assert counted("mqtt_refused", "max_connections_per_address") == before + 1

        await first.disconnect()
        third = await open_raw(to=address)
        assert (await third.connect("third")).reason_code == 0

    async def test_a_storm_of_them_does_not_fill_the_log(
        self, serve: Serve, application: AcceptEverything, open_raw: OpenRaw, caplog: pytest.LogCaptureFixture
    ) -> None:
        address = await serve(application, max_connections=1)
        await (await open_raw(to=address)).connect("first")
        before = counted("mqtt_refused", "max_connections")

        for _ in range(20):
            await (await open_raw(to=address)).expect_end()

        assert counted("mqtt_refused", "max_connections") == before + 20
        lines = [record.getMessage() for record in caplog.records if "max_connections is 1" in record.getMessage()]
        assert LINES_AT_ONCE <= len(lines) < 20
        assert lines[0].startswith("refused 127.0.0.1:")

    @pytest.mark.parametrize(("version", "code"), [(5, 0x9F), (4, 0x88), (3, 0x88)])
    async def test_too_many_connections_in_a_second_are_told_to_come_again(
        self, serve: Serve, application: AcceptEverything, open_raw: OpenRaw, version: int, code: int
    ) -> None:
        """Before 5.0 with the return code 3, server unavailable, which reads as 0x88."""
        address = await serve(application, max_connects_per_s=1)
        assert (await (await open_raw(version, to=address)).connect("one")).reason_code == 0
        before = counted("mqtt_refused", "max_connects_per_s")
        refusals = 0
        while not refusals:  # on a slow machine a second may have passed
            client = await open_raw(version, to=address)
            connack = await client.connect("two")
            if connack.reason_code:
                refusals += 1
                assert connack.reason_code == code
                await client.expect_end()

        assert counted("mqtt_refused", "max_connects_per_s") == before + 1
        assert len({scope["client_id"] for scope in application.scopes}) <= 2


class TestRates:
    async def test_a_client_that_is_too_fast_is_read_no_faster(
        self, serve: Serve, application: AcceptEverything, open_raw: OpenRaw
    ) -> None:
        address = await serve(application, max_messages_per_s=40, max_slowed_s=60)
        before = counted("mqtt_slowed", "paused")
        client = await open_raw(5, to=address)
        await client.connect("fast")
        started = asyncio.get_running_loop().time()
        for burst in range(4):
            client.send(*(Publish(topic="a", qos=1, packet_id=burst * 20 + index + 1) for index in range(20)))
            for index in range(20):
                assert await client.receive() == PubAck(burst * 20 + index + 1)

        # 40 may come at once; the pause that the last 20 cost comes after them
        assert asyncio.get_running_loop().time() - started >= 0.45
        assert counted("mqtt_slowed", "paused") > before
        await client.expect_nothing_more()

    @pytest.mark.parametrize(("option", "code"), [("max_messages_per_s", 0x96), ("max_bytes_per_s", 0x97)])
    @pytest.mark.parametrize("version", [5, 4])
    async def test_one_that_does_not_slow_down_is_told_to_go(
        self,
        serve: Serve,
        application: AcceptEverything,
        open_raw: OpenRaw,
        option: str,
        code: int,
        version: int,
    ) -> None:
        worth = 20 if option == "max_messages_per_s" else 2_000
        address = await serve(application, max_slowed_s=0.2, **{option: worth})
        before = counted("mqtt_slowed", "closed")
        client = await open_raw(version, to=address)
        await client.connect("fast")

        async def flood() -> None:
            while True:
                client.send(*[Publish(topic="a", payload=bytes(90))] * 30)
                await asyncio.sleep(0.05)

        flooding = asyncio.create_task(flood())
        if version == 5:
            packet = await client.receive()
            assert isinstance(packet, Disconnect)
            assert packet.reason_code == code
            assert "a second for 0.2 s" in packet.properties["reason_string"]
        else:
            await client.expect_end()
        flooding.cancel()
        await until(lambda: counted("mqtt_slowed", "closed") == before + 1, "the count")

    async def test_a_client_that_has_sent_far_too_much_at_once_and_nothing_since_is_told_to_go(
        self, serve: Serve, application: AcceptEverything, open_raw: OpenRaw
    ) -> None:
        """It would not be read for minutes otherwise, nor heard when it says that it is still there."""
        address = await serve(application, max_slowed_s=0.2, max_messages_per_s=1)
        client = await open_raw(5, to=address)
        await client.connect("fast")

        client.send(b"".join([encode(Publish(topic="a"), 5)] * 500))

        await client.expect_disconnect(0x96)

    async def test_one_that_is_slow_is_left_alone_beside_it(
        self, serve: Serve, application: AcceptEverything, open_raw: OpenRaw
    ) -> None:
        address = await serve(application, max_bytes_per_s=2_000, max_slowed_s=60)
        fast, slow = await open_raw(5, to=address), await open_raw(5, to=address)
        await fast.connect("fast")
        await slow.connect("slow")
        fast.send(*[Publish(topic="a", payload=bytes(1_000))] * 1_000)

        for _ in range(10):
            await slow.expect_nothing_more()

        assert len(application.seen("mqtt.publish", "fast")) < 1_000


class TestTopics:
    @pytest.mark.parametrize("version", [5, 4])
    async def test_a_topic_that_is_too_long_ends_the_connection(
        self, serve: Serve, application: AcceptEverything, open_raw: OpenRaw, version: int
    ) -> None:
        address = await serve(application, max_topic_length=20)
        client = await open_raw(version, to=address)
        await client.connect("c")
        client.send(Publish(topic="x" * 20, qos=1, packet_id=1))
        assert await client.receive() == PubAck(1)

        client.send(Publish(topic="x" * 21, qos=1, packet_id=2))

        if version == 5:
            await client.expect_disconnect(0x90)
        else:
            await client.expect_end()

    async def test_a_filter_that_is_too_long_is_refused_alone(
        self, serve: Serve, application: AcceptEverything, open_raw: OpenRaw
    ) -> None:
        address = await serve(application, max_topic_length=20)
        client = await open_raw(5, to=address)
        await client.connect("c")

        assert await client.subscribe("y" * 21) == 0x8F
        assert await client.subscribe("y" * 20, packet_id=2) == 0


async def test_what_a_bound_has_cost_is_in_the_log(
    serve: Serve, application: AcceptEverything, open_raw: OpenRaw, caplog: pytest.LogCaptureFixture
) -> None:
    address = await serve(application, max_retained_messages=0, max_topic_levels=2)
    client = await open_raw(5, to=address)
    await client.connect("c")

    client.send(Publish(topic="a", payload=b"x", retain=True))
    assert await client.subscribe("a/b/c") == 0x97

    for option in ("max_retained_messages", "max_topic_levels"):
        await until(lambda: option in caplog.text, f"the line about {option}")  # noqa: B023


class TestTime:
    @pytest.mark.parametrize("sent", [b"", b"\x10", b"\x10\x40\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x33"])
    async def test_a_connect_that_does_not_come_in_full_is_not_waited_for(
        self, serve: Serve, application: AcceptEverything, open_raw: OpenRaw, sent: bytes
    ) -> None:
        """Slow-loris: a byte now and then is no progress."""
        address = await serve(application, connect_timeout_s=0.4)
        client = await open_raw(5, to=address)
        client.send(sent)

        async def dribble() -> None:
            while True:
                await asyncio.sleep(0.1)
                if sent:
                    client.send(b"\x00")

        dribbling = asyncio.create_task(dribble())
        await client.expect_end()
        dribbling.cancel()
        assert application.scopes == []


class TestFilters:
    async def test_one_more_than_a_client_may_have_is_refused_and_counted(
        self, serve: Serve, application: AcceptEverything, open_raw: OpenRaw
    ) -> None:
        address = await serve(application, max_subscriptions=1)
        before = counted("mqtt_refused_filters", "max_subscriptions")
        client = await open_raw(5, to=address)
        await client.connect("client")

        assert await client.subscribe("a") == 0
        assert await client.subscribe("b") == 0x97

        await until(
            lambda: counted("mqtt_refused_filters", "max_subscriptions") == before + 1, "the refusal is counted"
        )
