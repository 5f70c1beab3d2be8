"""The will: published at every end of a connection except those that the specification leaves out [MQTT5-3.1.2.5]."""

import asyncio

import pytest

from protocols.asgi import Event, Receive, Scope, Send
from protocols.mqtt.codec.packets import Disconnect, Publish, ReasonCode, Will
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.fixture_types import ConnectPaho, OpenRaw, Serve
from tests.integration.mqtt.raw_client import RawClient
from tests.support.waiting import time_passes

WILL = Will(topic="gone", payload=b"client")
GONE = Publish(topic="gone", payload=b"client")
KEPT = {"session_expiry_interval": 3600}


@pytest.fixture
async def watcher(raw: OpenRaw) -> RawClient:
    """A client that is subscribed to the topic of the will."""
    client = await raw("watcher", 5)
    await client.subscribe("gone", 2)
    return client


class TestIsPublished:
    @pytest.mark.mqtt("MQTT3-3.1.2-8", "MQTT5-3.1.2-8")
    @pytest.mark.parametrize("version", [3, 4, 5])
    async def test_when_the_connection_is_lost(self, watcher: RawClient, raw: OpenRaw, version: int) -> None:
        """[MQTT5-3.1.2-8]"""
        client = await raw("client", version, will=WILL)

        client.abort()

        assert await watcher.receive() == GONE

    async def test_when_the_connection_is_closed_without_a_disconnect(self, watcher: RawClient, raw: OpenRaw) -> None:
        client = await raw("client", 4, will=WILL)

        client.writer.write_eof()

        assert await watcher.receive() == GONE

    async def test_when_the_client_breaks_the_protocol(self, watcher: RawClient, raw: OpenRaw) -> None:
        client = await raw("client", 5, will=WILL)

        client.send(b"\x00\x00")

        assert await watcher.receive() == GONE

    async def test_when_the_keep_alive_passes(self, watcher: RawClient, raw: OpenRaw) -> None:
        await raw("client", 5, will=WILL, keep_alive_s=1)

        assert await watcher.receive() == GONE

    async def test_when_another_connection_takes_over(self, watcher: RawClient, raw: OpenRaw) -> None:
        """[MQTT5-3.1.4-3]: with a will delay of 0."""
        await raw("client", 4, will=WILL)

        await raw("client", 4)

        assert await watcher.receive() == GONE

    async def test_when_the_client_disconnects_with_that_wish(self, watcher: RawClient, raw: OpenRaw) -> None:
        client = await raw("client", 5, will=WILL)

        client.send(Disconnect(reason_code=ReasonCode.DISCONNECT_WITH_WILL))

        assert await watcher.receive() == GONE

    async def test_when_the_application_closes_the_connection(self, serve: Serve, raw: OpenRaw) -> None:
        class Closing(AcceptEverything):
            async def publish(self, event: Event, send: Send) -> None:
                await send({"type": "mqtt.close"})

        address = await serve(Closing())
        watcher, client = await raw("watcher", 4, to=address), await raw("client", 4, to=address, will=WILL)
        await watcher.subscribe("gone")

        client.send(Publish(topic="a"))

        assert await watcher.receive() == GONE

    async def test_a_will_is_published_with_its_qos_and_properties(self, watcher: RawClient, raw: OpenRaw) -> None:
        """[MQTT5-3.1.3.2]: the will delay stays with the server."""
        properties = {"content_type": "text/plain", "user_property": [("a", "1"), ("a", "2")]}
        will = Will(topic="gone", payload=b"x", qos=1, properties={**properties, "will_delay_interval": 0})
        client = await raw("client", 5, will=will)

        client.abort()

        assert await watcher.receive() == Publish(topic="gone", payload=b"x", qos=1, packet_id=1, properties=properties)

    @pytest.mark.mqtt("MQTT3-3.1.2-17", "MQTT5-3.1.2-15")
    async def test_a_will_is_published_as_a_retained_message_if_it_asks_for_that(
        self, watcher: RawClient, raw: OpenRaw
    ) -> None:
        """[MQTT5-3.1.2-15]"""
        client = await raw("client", 4, will=Will(topic="gone", payload=b"client", retain=True))
        client.abort()
        assert await watcher.receive() == GONE

        later = await raw("later", 4)
        await later.subscribe("gone")

        assert await later.receive() == Publish(topic="gone", payload=b"client", retain=True)

    async def test_for_paho_that_is_cut_off(self, paho: ConnectPaho) -> None:
        watcher = await paho("watcher", 4)
        await watcher.subscribe("gone/+", 2)
        client = await paho("client", 4, will=("gone/paho", b"x", 2, False))

        client.client.socket().close()

        message = await watcher.message()
        assert (message.topic, message.payload, message.qos) == ("gone/paho", b"x", 2)


class TestIsNotPublished:
    @pytest.mark.mqtt("MQTT3-3.1.2-10", "MQTT3-3.14.4-3", "MQTT5-3.14.4-3")
    @pytest.mark.parametrize("version", [3, 4, 5])
    async def test_when_the_client_disconnects(self, watcher: RawClient, raw: OpenRaw, version: int) -> None:
        """[MQTT5-3.1.2-10] [MQTT5-3.14.4-3]"""
        client = await raw("client", version, will=WILL)

        await client.disconnect()

        await watcher.expect_nothing_more()

    @pytest.mark.mqtt("MQTT3-3.1.2-10", "MQTT5-3.1.2-10")
    async def test_more_than_once(self, watcher: RawClient, raw: OpenRaw) -> None:
        """[MQTT5-3.1.2-10]"""
        client = await raw("client", 5, will=WILL, properties=KEPT)
        client.abort()
        assert await watcher.receive() == GONE

        client = await raw("client", 5, clean_start=False, properties=KEPT)
        client.abort()
        client = await raw("client", 5, clean_start=False)
        await client.disconnect()

        await watcher.expect_nothing_more()

    async def test_when_the_application_has_refused_the_connection(self, serve: Serve, open_raw: OpenRaw) -> None:
        class Choosing(AcceptEverything):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                if scope["client_id"] == "watcher":
                    await super().__call__(scope, receive, send)
                    return
                await receive()
                await send({"type": "mqtt.reject", "reason_code": ReasonCode.NOT_AUTHORIZED})
                await receive()

        address = await serve(Choosing())
        watcher, client = await open_raw(5, to=address), await open_raw(5, to=address)
        await watcher.connect("watcher")
        await watcher.subscribe("gone")

        assert (await client.connect("client", will=WILL)).reason_code == ReasonCode.NOT_AUTHORIZED
        await client.expect_end()

        await watcher.expect_nothing_more()

    async def test_when_the_application_closes_the_connection_without_it(self, serve: Serve, raw: OpenRaw) -> None:
        class Closing(AcceptEverything):
            async def publish(self, event: Event, send: Send) -> None:
                await send({"type": "mqtt.close", "reason_code": ReasonCode.NOT_AUTHORIZED, "will": False})

        address = await serve(Closing())
        watcher, client = await raw("watcher", 5, to=address), await raw("client", 5, to=address, will=WILL)
        await watcher.subscribe("gone")

        client.send(Publish(topic="a"))
        await client.expect_disconnect(ReasonCode.NOT_AUTHORIZED)

        await watcher.expect_nothing_more()


class TestDelay:
    async def test_a_will_waits_as_long_as_it_asks(self, watcher: RawClient, raw: OpenRaw) -> None:
        """[MQTT5-3.1.3.2.2]"""
        loop = asyncio.get_running_loop()
        will = Will(topic="gone", payload=b"client", properties={"will_delay_interval": 1})
        client = await raw("client", 5, will=will, properties=KEPT)

        client.abort()
        lost = loop.time()

        assert await watcher.receive() == GONE
        assert loop.time() - lost >= 0.95

    async def test_a_client_that_is_back_in_time_has_no_will_published(self, watcher: RawClient, raw: OpenRaw) -> None:
        """[MQTT5-3.1.3-9]"""
        will = Will(topic="gone", payload=b"client", properties={"will_delay_interval": 1})
        client = await raw("client", 5, will=will, properties=KEPT)
        client.abort()

        await raw("client", 5, clean_start=False, properties=KEPT)

        await time_passes(1.2)
        await watcher.expect_nothing_more()

    async def test_the_end_of_the_session_ends_the_delay(self, watcher: RawClient, raw: OpenRaw) -> None:
        """[MQTT5-3.1.2-8] [MQTT5-3.1.3.2.2]: whichever happens first; here a new session."""
        will = Will(topic="gone", payload=b"client", properties={"will_delay_interval": 3600})
        client = await raw("client", 5, will=will, properties=KEPT)
        client.abort()

        await raw("client", 5, clean_start=True)

        assert await watcher.receive() == GONE

    async def test_a_session_that_is_not_kept_has_no_delay(self, watcher: RawClient, raw: OpenRaw) -> None:
        will = Will(topic="gone", payload=b"client", properties={"will_delay_interval": 3600})
        client = await raw("client", 5, will=will)

        client.abort()

        assert await watcher.receive() == GONE
