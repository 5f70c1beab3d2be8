"""The MQTT consumers: publishes that are acknowledged when a future which their handler returned is done."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from gateway.exceptions import Reject
from gateway.generic.mqtt import AsyncMqttConsumer
from gateway.testing import MqttCommunicator


class Accepting(AsyncMqttConsumer):
    async def connect(self, password: bytes | None) -> None:
        await self.accept()


class Storing(Accepting):
    """Acknowledges when `commit`, which many publishes share, is done."""

    commit: ClassVar["asyncio.Future[None]"]
    ended: ClassVar[list[int]]

    async def receive_publish(self, topic: str, payload: bytes, **how: Any) -> "asyncio.Future[None] | None":
        return None if payload == b"at once" else self.commit

    async def disconnect(self, reason_code: int, reason: str) -> None:
        self.ended.append(reason_code)


class TestAFutureFromAHandler:
    @pytest.fixture
    async def client(self, served: Any) -> AsyncIterator[MqttCommunicator]:
        Storing.ended = []
        Storing.commit = asyncio.get_running_loop().create_future()
        async with MqttCommunicator(served(Storing.as_asgi())) as client:
            await client.connect()
            yield client

    async def test_acknowledges_all_publishes_that_share_it_when_it_is_done(self, client: MqttCommunicator) -> None:
        ack_ids = [await client.send_publish("a", b"x") for _ in range(3)]
        assert await client.receive_nothing(timeout=0.01)

        Storing.commit.set_result(None)

        assert [(await client.receive_ack(ack_id))["reason_code"] for ack_id in ack_ids] == [0, 0, 0]

    async def test_a_future_lets_the_next_publishes_be_handled_meanwhile(self, client: MqttCommunicator) -> None:
        waiting = await client.send_publish("a", b"x")
        assert await client.publish("a", b"at once") == 0

        Storing.commit.set_result(None)
        assert (await client.receive_ack(waiting))["reason_code"] == 0

    async def test_a_future_may_follow_another_one(self, client: MqttCommunicator) -> None:
        first, first_id = Storing.commit, await client.send_publish("a", b"x")
        assert await client.receive_nothing(timeout=0)
        Storing.commit = asyncio.get_running_loop().create_future()
        second_id = await client.send_publish("a", b"x")
        assert await client.receive_nothing(timeout=0.01)

        Storing.commit.set_result(None)
        await client.receive_ack(second_id)
        first.set_result(None)
        await client.receive_ack(first_id)

    async def test_a_future_may_be_done_already(self, client: MqttCommunicator) -> None:
        Storing.commit.set_result(None)
        for _ in range(3):
            assert await client.publish("a", b"x") == 0

    @pytest.mark.parametrize(("count", "about"), [(1, "'a'"), (3, "'a and 2 more'")])
    async def test_a_future_that_ends_in_reject_refuses_all_and_the_log_says_of_which_topic(
        self, client: MqttCommunicator, caplog: pytest.LogCaptureFixture, count: int, about: str
    ) -> None:
        ack_ids = [await client.send_publish("a", b"x") for _ in range(count)]
        assert await client.receive_nothing(timeout=0.01)

        Storing.commit.set_exception(Reject(0x97, "quota"))

        for ack_id in ack_ids:
            ack = await client.receive_ack(ack_id)
            assert (ack["reason_code"], ack["reason_string"]) == (0x97, "quota")
        assert f"refused publish {about} of" in caplog.text

    async def test_a_future_that_fails_refuses_all_with_0x83_and_is_logged_once(
        self, client: MqttCommunicator, caplog: pytest.LogCaptureFixture
    ) -> None:
        ack_ids = [await client.send_publish("a", b"x") for _ in range(3)]
        assert await client.receive_nothing(timeout=0.01)

        Storing.commit.set_exception(OSError("disk full"))

        for ack_id in ack_ids:
            ack = await client.receive_ack(ack_id)
            assert (ack["reason_code"], "drop" in ack) == (0x83, False)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert "failed (3)" in caplog.text

    async def test_a_future_that_is_cancelled_refuses_all(self, client: MqttCommunicator) -> None:
        ack_id = await client.send_publish("a", b"x")
        assert await client.receive_nothing(timeout=0.01)
        Storing.commit.cancel()

        assert (await client.receive_ack(ack_id))["reason_code"] == 0x83

    async def test_a_future_that_is_done_when_the_client_has_left_acknowledges_all_the_same_and_so_routes(
        self, client: MqttCommunicator
    ) -> None:
        ack_id = await client.send_publish("a", b"x", qos=0)
        client.inbox.disconnect({"type": "mqtt.disconnect", "reason_code": 0, "reason": "client", "properties": {}})
        assert await client.receive_nothing(timeout=0.01)
        assert Storing.ended == [0]

        Storing.commit.set_result(None)

        assert (await client.receive_ack(ack_id))["reason_code"] == 0
        await client.wait()

    @pytest.mark.parametrize(("grace_s", "route"), [(0.01, True), (None, False)])
    async def test_a_future_that_is_done_too_late_harms_nobody_and_nobody_waits_where_nothing_is_to_be_routed(
        self, served: Any, grace_s: float | None, route: bool
    ) -> None:
        class Subject(Storing):
            disconnect_grace_s = grace_s

            def routes(self, topic: str) -> bool:
                return route

        Storing.ended = []
        Storing.commit = asyncio.get_running_loop().create_future()
        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()
            await client.send_publish("a", b"x")
            assert await client.receive_nothing(timeout=0.01)
            await client.disconnect()
            Storing.commit.set_result(None)

            assert await client.receive_nothing(timeout=0.01)
            assert Storing.ended == [0]

    async def test_anything_else_is_a_fault_of_the_handler(self, served: Any) -> None:
        class Wrong(Accepting):
            async def receive_publish(self, topic: str, payload: bytes, **how: Any) -> Any:
                return True

        client = MqttCommunicator(served(Wrong.as_asgi()))
        await client.connect()
        await client.send_publish("a", b"x")
        with pytest.raises(TypeError, match=r"returns None or an asyncio\.Future, not True"):
            await client.wait()
