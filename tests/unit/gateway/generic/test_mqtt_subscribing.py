"""The MQTT consumers: who may subscribe to what, and which retained messages they get."""

import logging
from typing import Any

import pytest
from prometheus_client import REGISTRY

from gateway.exceptions import Reject
from gateway.generic.mqtt import AsyncMqttConsumer, MqttConsumer
from gateway.testing import MqttCommunicator

BOTH = pytest.mark.parametrize("base", [AsyncMqttConsumer, MqttConsumer], ids=["async", "sync"])


class Accepting(AsyncMqttConsumer):
    async def connect(self, password: bytes | None) -> None:
        await self.accept()


class TestSubscribe:
    async def test_subscribe_is_asked_for_each_filter(self, served: Any) -> None:
        class Subject(Accepting):
            async def subscribe(self, topic_filter: str, qos: int, *, share_name: str | None) -> int | None:
                if topic_filter == "forbidden":
                    raise Reject(0x87, "not yours")
                if topic_filter == "fails":
                    raise ZeroDivisionError
                return 1 if share_name == "group" else None

        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()

            assert await client.subscribe("a", "forbidden", "fails", "$share/group/b/c", qos=2) == [2, 0x87, 0x83, 1]

    @BOTH
    async def test_a_shared_subscription_may_be_refused_by_its_name(self, served: Any, base: Any) -> None:
        def decide(share_name: str | None) -> None:
            if share_name == "theirs":
                raise Reject(0x9E)

        subject = readers(base, subscribe=decide)
        async with MqttCommunicator(served(subject.as_asgi())) as client:
            await client.connect()

            assert await client.subscribe("a", "$share/theirs/a", "$share/ours/a") == [0, 0x9E, 0]

    async def test_the_first_refusal_gives_the_reason(self, served: Any) -> None:
        class Subject(Accepting):
            async def subscribe(self, topic_filter: str, qos: int, *, share_name: str | None) -> int | None:
                raise Reject(0x87, f"{topic_filter} is not yours")

        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()
            subscription = {"topic_filter": "a", "qos": 0, "share_name": None}
            await client.send_input({"type": "mqtt.subscribe", "ack_id": 7, "subscriptions": [subscription]})

            assert await client.receive_ack(7) == {
                "type": "mqtt.ack",
                "ack_id": 7,
                "reason_codes": [0x87],
                "reason_string": "a is not yours",
            }


def readers(base: Any, *, subscribe: Any = None, authorize: Any = None) -> Any:
    """A consumer of either kind: `subscribe(share_name)` may raise, `authorize(topic)` decides on retained messages."""
    if base is AsyncMqttConsumer:

        class AsyncReader(Accepting):
            async def subscribe(self, topic_filter: str, qos: int, *, share_name: str | None) -> int | None:
                if subscribe is not None:
                    subscribe(share_name)
                return None

        class AsyncCarefulReader(AsyncReader):
            async def authorize_retained(self, topic: str) -> bool:
                return bool(authorize(topic))

        return AsyncReader if authorize is None else AsyncCarefulReader

    class SyncReader(MqttConsumer):
        def connect(self, password: bytes | None) -> None:
            self.accept()

        def subscribe(self, topic_filter: str, qos: int, *, share_name: str | None) -> int | None:
            if subscribe is not None:
                subscribe(share_name)
            return None

    class SyncCarefulReader(SyncReader):
        def authorize_retained(self, topic: str) -> bool:
            return bool(authorize(topic))

    return SyncReader if authorize is None else SyncCarefulReader


class TestRetained:
    """A filter may be granted, and yet not every retained message that it matches."""

    async def subscribed(self, client: MqttCommunicator) -> Any:
        """The answer to a SUBSCRIBE."""
        await client.connect()
        subscription = {"topic_filter": "a/#", "qos": 1, "share_name": None}
        await client.send_input({"type": "mqtt.subscribe", "ack_id": 7, "subscriptions": [subscription]})
        return await client.receive_ack(7)

    @BOTH
    async def test_a_consumer_that_does_not_say_so_is_not_asked(self, served: Any, base: Any) -> None:
        async with MqttCommunicator(served(readers(base).as_asgi())) as client:
            assert await self.subscribed(client) == {"type": "mqtt.ack", "ack_id": 7, "reason_codes": [1]}
            assert await client.check_retained("a/b") == [0]

    @BOTH
    async def test_one_that_overrides_authorize_retained_decides_on_each(
        self, served: Any, base: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "gateway.mqtt")
        labels = {"request": "retained", "reason_code": "0x87"}
        before = REGISTRY.get_sample_value("gateway_mqtt_refusals_total", labels) or 0
        subject = readers(base, authorize=lambda topic: topic != "a/secret")
        async with MqttCommunicator(served(subject.as_asgi())) as client:
            ack = {"type": "mqtt.ack", "ack_id": 7, "reason_codes": [1], "check_retained": True}
            assert await self.subscribed(client) == ack

            assert await client.check_retained("a/open", "a/secret") == [0, 0x87]

        assert REGISTRY.get_sample_value("gateway_mqtt_refusals_total", labels) == before + 1
        [record] = [record for record in caplog.records if "a/secret" in record.message]
        assert (record.levelname, record.message) == (
            "DEBUG",
            "kept retained 'a/secret' from mqtt test from 127.0.0.1:50000: 0x87",
        )

    @BOTH
    async def test_authorize_retained_may_raise_reject_and_what_it_fails_at_is_kept_back(
        self, served: Any, base: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def authorize(topic: str) -> bool:
            if topic == "refused":
                raise Reject(0x80)
            return 1 // len(topic) == 1

        async with MqttCommunicator(served(readers(base, authorize=authorize).as_asgi())) as client:
            await client.connect()

            assert await client.check_retained("a", "refused", "") == [0, 0x80, 0x83]

        assert "retained '' of mqtt test from 127.0.0.1:50000 failed" in caplog.text
