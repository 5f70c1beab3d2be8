"""The MQTT consumers: who may connect and publish, and what they send to their clients."""

import asyncio
import threading
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest
from prometheus_client import REGISTRY

from gateway.exceptions import AcceptConnection, DenyConnection, Reject
from gateway.generic.mqtt import AsyncMqttConsumer, MqttConsumer, topic
from gateway.layers import InMemoryChannelLayer
from gateway.testing import MqttCommunicator
from protocols.log_lines import LINES_AT_ONCE

BOTH = pytest.mark.parametrize("base", [AsyncMqttConsumer, MqttConsumer], ids=["async", "sync"])


class TestByDefault:
    """Safe defaults: nothing is allowed that the listener or the consumer does not allow."""

    @BOTH
    async def test_an_anonymous_client_is_refused(self, served: Any, base: Any) -> None:
        async with MqttCommunicator(served(base.as_asgi())) as client:
            assert await client.connect() == (False, 0x86)

    @BOTH
    async def test_a_client_with_credentials_is_refused(self, served: Any, base: Any) -> None:
        application = served(base.as_asgi())
        async with MqttCommunicator(application, username="a", password=b"b", allow_anonymous=True) as client:
            assert await client.connect() == (False, 0x86)

    @BOTH
    async def test_an_anonymous_client_is_that_of_a_plain_broker_where_the_listener_says_so(
        self, served: Any, base: Any
    ) -> None:
        async with MqttCommunicator(served(base.as_asgi()), allow_anonymous=True) as client:
            assert await client.connect() == (True, 0)
            ack_id = await client.send_publish("any/topic", b"x")
            ack = {"type": "mqtt.ack", "ack_id": ack_id, "reason_code": 0, "no_subscribers": True}
            assert await client.receive_ack() == ack
            assert await client.subscribe("#", "$share/g/a/b", qos=2) == [2, 2]
            assert await client.unsubscribe("#") == [0]
            assert await client.publish("$SYS/broker/version", b"forged") == 0x87
            assert await client.publish("$SYS/broker/connection/field.up/state", b"1", retain=True) == 0

    @BOTH
    async def test_a_client_that_a_subclass_accepts_may_neither_publish_nor_subscribe(
        self, served: Any, base: Any
    ) -> None:
        if base is AsyncMqttConsumer:

            class AsyncSubject(AsyncMqttConsumer):
                async def connect(self, password: bytes | None) -> None:
                    await self.accept()

            subject: Any = AsyncSubject
        else:

            class SyncSubject(MqttConsumer):
                def connect(self, password: bytes | None) -> None:
                    self.accept()

            subject = SyncSubject
        async with MqttCommunicator(served(subject.as_asgi())) as client:
            await client.connect()
            assert await client.publish("any/topic", b"x") == 0x87
            assert await client.subscribe("a", "b") == [0x87, 0x87]

    @BOTH
    async def test_a_client_that_a_subclass_accepts_may_not_leave_a_will(
        self, served: Any, base: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Subject(base):  # type: ignore[misc]
            def _anonymous(self, password: bytes | None) -> bool:
                raise AcceptConnection

        assert await self._answer_to_a_will(served(Subject.as_asgi())) == {"type": "mqtt.accept", "will": False}
        assert "refused will 'gone' of mqtt test from" in caplog.text

    @BOTH
    async def test_an_anonymous_client_may_publish_subscribe_and_leave_a_will(self, served: Any, base: Any) -> None:
        assert await self._answer_to_a_will(served(base.as_asgi())) == {"type": "mqtt.accept"}

    @BOTH
    async def test_an_anonymous_client_may_not_publish_below_the_brokers_own_topics(
        self, served: Any, base: Any
    ) -> None:
        answer = await self._answer_to_a_will(served(base.as_asgi()), "$SYS/broker/version")
        assert answer == {"type": "mqtt.accept", "will": False}

    @BOTH
    async def test_an_anonymous_bridge_may_say_below_the_brokers_own_topics_that_it_is_gone(
        self, served: Any, base: Any
    ) -> None:
        answer = await self._answer_to_a_will(served(base.as_asgi()), "$SYS/broker/connection/field.up/state")
        assert answer == {"type": "mqtt.accept"}

    async def _answer_to_a_will(self, application: Any, topic: str = "gone") -> Any:
        will = {"topic": topic, "payload": b"x", "qos": 0, "retain": False, "properties": {}}
        async with MqttCommunicator(application, allow_anonymous=True, will=will) as client:
            await client.send_input(client._connect)
            return await client.receive_output()


class Accepting(AsyncMqttConsumer):
    async def connect(self, password: bytes | None) -> None:
        await self.accept()


class TestConnect:
    async def test_connect_gets_the_password_and_may_accept_under_another_client_id(self, served: Any) -> None:
        class Subject(AsyncMqttConsumer):
            async def connect(self, password: bytes | None) -> None:
                assert (self.scope["username"], password) == ("user", b"secret")
                await self.accept(client_id="device-1", maximum_qos=1, properties={"receive_maximum": 10})

        client = MqttCommunicator(served(Subject.as_asgi()), username="user", password=b"secret")
        await client.send_input(client._connect)
        assert await client.receive_output() == {
            "type": "mqtt.accept",
            "client_id": "device-1",
            "maximum_qos": 1,
            "properties": {"receive_maximum": 10},
        }
        await client.stop()

    @pytest.mark.parametrize(
        ("exception", "answer"),
        [
            (AcceptConnection(), {"type": "mqtt.accept"}),
            (DenyConnection(), {"type": "mqtt.reject", "reason_code": 0x87}),
            (Reject(0x8A, "banned"), {"type": "mqtt.reject", "reason_code": 0x8A, "reason_string": "banned"}),
            (
                Reject(0x8A, "banned", log_reason="7 is banned"),
                {"type": "mqtt.reject", "reason_code": 0x8A, "reason_string": "banned", "log_reason": "7 is banned"},
            ),
        ],
    )
    @BOTH
    async def test_connect_may_answer_by_raising(
        self, served: Any, base: Any, exception: Exception, answer: dict[str, Any]
    ) -> None:
        class AsyncSubject(AsyncMqttConsumer):
            async def connect(self, password: bytes | None) -> None:
                raise exception

        class SyncSubject(MqttConsumer):
            def connect(self, password: bytes | None) -> None:
                raise exception

        Subject = AsyncSubject if base is AsyncMqttConsumer else SyncSubject  # noqa: N806

        client = MqttCommunicator(served(Subject.as_asgi()))
        await client.send_input(client._connect)

        assert await client.receive_output() == answer
        await client.stop()

    async def test_a_refusal_is_counted_and_the_line_in_the_log_left_to_the_server(
        self, served: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels = {"request": "connect", "reason_code": "0x86"}
        before = REGISTRY.get_sample_value("gateway_mqtt_refusals_total", labels) or 0
        application = served(AsyncMqttConsumer.as_asgi())
        async with MqttCommunicator(application, "thermo", username="token", password=b"secret") as client:
            await client.connect()

        assert REGISTRY.get_sample_value("gateway_mqtt_refusals_total", labels) == before + 1
        assert caplog.text == ""

    async def test_groups_are_joined_by_accepted_clients_only_and_left_at_the_end(
        self, served: Any, layer: InMemoryChannelLayer
    ) -> None:
        class Grouped(AsyncMqttConsumer):
            groups = ["devices"]

            async def command(self, event: Any) -> None:
                await self.publish("commands", event["payload"], qos=1)

        application = served(Grouped.as_asgi())
        async with MqttCommunicator(application) as client:
            assert await client.connect() == (False, 0x86)
            assert layer.groups == {}
        async with MqttCommunicator(application, allow_anonymous=True) as client:
            await client.connect()
            await layer.group_send("devices", {"type": "command", "payload": "on"})
            publish = await client.receive_publish()
            assert (publish["topic"], publish["payload"], publish["qos"]) == ("commands", b"on", 1)
        assert layer.groups == {}
        assert layer.local.channels == {}


class TestReceivePublish:
    async def test_receive_publish_gets_the_topic_the_payload_and_how_it_was_sent(self, served: Any) -> None:
        seen = []

        class Subject(Accepting):
            async def receive_publish(
                self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: dict[str, Any]
            ) -> None:
                seen.append((topic, payload, qos, retain, properties))

        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()
            ack_id = await client.send_publish("a/b", b"x", qos=2, retain=True, properties={"content_type": "text"})

            assert await client.receive_ack() == {"type": "mqtt.ack", "ack_id": ack_id, "reason_code": 0}
        assert seen == [("a/b", b"x", 2, True, {"content_type": "text"})]

    async def test_what_is_accepted_may_be_kept_from_other_subscribers(self, served: Any) -> None:
        class Subject(Accepting):
            def routes(self, topic: str) -> bool:
                return False

            async def receive_publish(self, topic: str, payload: bytes, **how: Any) -> None:
                pass

        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()
            await client.send_publish("a", b"x")

            assert (await client.receive_ack())["route"] is False

    async def test_reject_refuses_with_its_code_and_the_connection_goes_on(self, served: Any) -> None:
        class Subject(Accepting):
            async def receive_publish(self, topic: str, payload: bytes, **how: Any) -> None:
                if payload == b"bad":
                    raise Reject(0x99, "not JSON")

        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()
            ack_id = await client.send_publish("a", b"bad")
            assert await client.receive_ack() == {
                "type": "mqtt.ack",
                "ack_id": ack_id,
                "reason_code": 0x99,
                "reason_string": "not JSON",
            }
            assert await client.publish("a", b"good") == 0

    async def test_any_other_exception_refuses_with_0x83_and_is_logged(
        self, served: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Subject(Accepting):
            async def receive_publish(self, topic: str, payload: bytes, **how: Any) -> None:
                if payload == b"bad":
                    raise ZeroDivisionError

        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()
            ack_id = await client.send_publish("a", b"bad")

            # and no word of dropping: a client before MQTT 5 is disconnected, and sends it again
            assert await client.receive_ack() == {"type": "mqtt.ack", "ack_id": ack_id, "reason_code": 0x83}
            assert await client.publish("a", b"good") == 0
        assert "publish 'a' of mqtt test from 127.0.0.1:50000 failed" in caplog.text
        assert "ZeroDivisionError" in caplog.text

    async def test_refusals_of_a_client_are_counted_each_but_logged_a_few_times(
        self, served: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels = {"request": "publish", "reason_code": "0x87"}
        before = REGISTRY.get_sample_value("gateway_mqtt_refusals_total", labels) or 0
        async with MqttCommunicator(served(Accepting.as_asgi())) as client:
            await client.connect()
            for _ in range(10):
                await client.publish("a", b"x")

        assert REGISTRY.get_sample_value("gateway_mqtt_refusals_total", labels) == before + 10
        assert caplog.text.count("refused publish 'a' of mqtt test from 127.0.0.1:50000: 0x87") == LINES_AT_ONCE

    async def test_one_that_ends_the_connection_is_left_to_the_server_too(
        self, served: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Strict(Accepting):
            async def receive_publish(self, *args: Any, **kwargs: Any) -> None:
                raise Reject(0x99, "no telemetry")

        for version, qos in ((3, 1), (4, 2), (4, 0), (5, 0)):
            async with MqttCommunicator(served(Strict.as_asgi()), mqtt_version=version) as client:
                await client.connect()
                await client.send_publish("a", b"x", qos=qos)
                await client.receive_ack()
        assert caplog.text == ""

        async with MqttCommunicator(served(Strict.as_asgi()), mqtt_version=5) as client:
            await client.connect()
            await client.publish("a", b"x")
        assert caplog.text.count("0x99 no telemetry") == 1

    async def test_one_that_is_to_be_dropped_says_so_and_is_logged_for_every_version(
        self, served: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Lenient(Accepting):
            async def receive_publish(self, *args: Any, **kwargs: Any) -> None:
                raise Reject(0x90, drop=True)

        for version in (3, 4, 5):
            caplog.clear()
            async with MqttCommunicator(served(Lenient.as_asgi()), mqtt_version=version) as client:
                await client.connect()
                ack_id = await client.send_publish("a", b"x")
                ack = await client.receive_ack()
            assert ack == {"type": "mqtt.ack", "ack_id": ack_id, "reason_code": 0x90, "drop": True}
            assert caplog.text.count("refused publish 'a' of mqtt test from 127.0.0.1:50000: 0x90") == 1

    async def test_lines_of_a_client_that_was_accepted_by_name_have_it(
        self, served: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Named(Accepting):
            async def connect(self, password: bytes | None) -> None:
                await self.accept(name="thermo-1")

        async with MqttCommunicator(served(Named.as_asgi())) as client:
            await client.send_input({"type": "mqtt.connect", "password": None, "allow_anonymous": False})
            assert await client.receive_output() == {"type": "mqtt.accept", "name": "thermo-1"}
            await client.publish("a", b"x")

        assert "refused publish 'a' of thermo-1: mqtt test from 127.0.0.1:50000: 0x87" in caplog.text


class TestToTheClient:
    async def test_publish_sends_text_as_utf_8(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Accepting):
            groups = ["all"]

            async def tell(self, event: Any) -> None:
                await self.publish("t", "grün", qos=1, retain=True, properties={"content_type": "text"})

        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()
            await layer.group_send("all", {"type": "tell"})

            assert await client.receive_publish() == {
                "type": "mqtt.publish",
                "topic": "t",
                "payload": "grün".encode(),
                "qos": 1,
                "retain": True,
                "properties": {"content_type": "text"},
            }

    async def test_close_says_why_and_what_follows_is_not_sent(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Accepting):
            groups = ["all"]

            async def revoke(self, event: Any) -> None:
                await self.close(reason_string="revoked")
                await self.publish("t", b"too late")

        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()
            await layer.group_send("all", {"type": "revoke"})

            assert await client.receive_output() == {
                "type": "mqtt.close",
                "reason_code": 0x98,
                "reason_string": "revoked",
            }
            assert await client.receive_nothing(timeout=0.01)

    async def test_a_message_that_names_a_topic_handler_is_refused(
        self, served: Any, layer: InMemoryChannelLayer
    ) -> None:
        class Subject(Accepting):
            groups = ["all"]

            @topic("telemetry")
            async def telemetry(self, event: Any) -> None:
                raise AssertionError("called from the layer")

        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()
            assert (await layer.group_send("all", {"type": "telemetry"})).dropped == 1


class TestDisconnect:
    @pytest.mark.parametrize(("reason_code", "reason"), [(0, "client"), (0x8E, "taken_over")])
    async def test_disconnect_gets_the_reason_once(self, served: Any, reason_code: int, reason: str) -> None:
        ends = []

        class Subject(Accepting):
            async def disconnect(self, reason_code: int, reason: str) -> None:
                ends.append((reason_code, reason))

        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()
            await client.disconnect(reason_code, reason)

        assert ends == [(reason_code, reason)]

    async def test_disconnect_says_shutdown_when_the_server_cancels(self, served: Any) -> None:
        ends = []

        class Subject(Accepting):
            async def disconnect(self, reason_code: int, reason: str) -> None:
                ends.append((reason_code, reason))

        client = MqttCommunicator(served(Subject.as_asgi()))
        await client.connect()
        await client.stop()

        assert ends == [(0x8B, "shutdown")]

    async def test_publishes_that_came_before_a_disconnect_are_handled_first(self, served: Any) -> None:
        seen = []

        class Subject(Accepting):
            async def receive_publish(self, topic: str, payload: bytes, **how: Any) -> None:
                await asyncio.sleep(0)
                seen.append(payload)

        async with MqttCommunicator(served(Subject.as_asgi())) as client:
            await client.connect()
            for n in range(100):
                await client.send_publish("a", b"%d" % n, qos=0)
            await client.disconnect()

        assert len(seen) == 100


class SyncDevice(MqttConsumer):
    groups = ["devices"]

    def connect(self, password: bytes | None) -> None:
        if password == b"wrong":
            raise Reject(0x86)
        self.accept()

    @topic("telemetry/<int:number>")
    def telemetry(self, event: Any, number: int) -> None:
        self.publish("echo", event["payload"] * number)

    def receive_publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: Any) -> None:
        if payload == b"bad":
            raise Reject(0x99)
        if payload == b"worse":
            raise ZeroDivisionError

    def subscribe(self, topic_filter: str, qos: int, *, share_name: str | None) -> int | None:
        if topic_filter == "fails":
            raise ZeroDivisionError
        if topic_filter == "forbidden":
            raise Reject(0x87)
        return None

    def revoke(self, event: Any) -> None:
        self.close(0x98, "revoked")


async def test_the_synchronous_consumer_does_the_same_in_a_thread(served: Any, layer: InMemoryChannelLayer) -> None:
    async with MqttCommunicator(served(SyncDevice.as_asgi()), password=b"wrong") as client:
        assert await client.connect() == (False, 0x86)
    async with MqttCommunicator(served(SyncDevice.as_asgi())) as client:
        assert await client.connect() == (True, 0)
        ack_id = await client.send_publish("telemetry/2", b"x")
        assert (await client.receive_publish())["payload"] == b"xx"
        assert (await client.receive_ack(ack_id))["reason_code"] == 0
        assert [await client.publish("a", payload) for payload in (b"good", b"bad", b"worse")] == [0, 0x99, 0x83]
        assert await client.subscribe("a", "forbidden", "fails", qos=1) == [1, 0x87, 0x83]
        assert await client.unsubscribe("a") == [0]
        await layer.group_send("devices", {"type": "revoke"})
        assert (await client.receive_output())["type"] == "mqtt.close"
    assert layer.groups == {}


async def test_a_client_that_falls_behind_may_be_closed(served: Any, layer: InMemoryChannelLayer) -> None:
    go_on = asyncio.Event()

    class Slow(Accepting):
        groups = ["all"]
        mailbox_capacity = 2
        mailbox_policy = "close"

        async def tell(self, event: Any) -> None:
            await go_on.wait()

    async with MqttCommunicator(served(Slow.as_asgi())) as client:
        await client.connect()
        for _ in range(3):
            await layer.group_send("all", {"type": "tell"})
        go_on.set()

        assert await client.receive_output() == {"type": "mqtt.close", "reason_code": 0x97}


@pytest.mark.parametrize("target", ["class", "instance"])
async def test_a_topic_handler_may_be_patched(served: Any, target: str) -> None:
    class Subject(Accepting):
        @topic("telemetry/<int:number>")
        async def telemetry(self, event: Any, number: int) -> None:
            raise AssertionError("it is patched")

    consumer = Subject()
    with patch.object(Subject if target == "class" else consumer, "telemetry", AsyncMock(return_value=None)) as handler:
        async with MqttCommunicator(served(consumer)) as client:
            await client.connect()
            assert await client.publish("telemetry/7", b"x") == 0

    handler.assert_awaited_once()
    assert handler.await_args.kwargs == {"number": 7}


async def test_a_synchronous_consumer_may_send_events_of_its_own_making_and_return_what_it_likes(served: Any) -> None:
    class Subject(SyncDevice):
        groups = None

        @topic("echo")
        def echo(self, event: Any) -> str:
            message = {"topic": "echoed", "payload": event["payload"], "qos": 0, "retain": False}
            self.send({"type": "mqtt.publish", **message})
            return "nobody looks at this"

    async with MqttCommunicator(served(Subject.as_asgi())) as client:
        await client.connect()
        ack_id = await client.send_publish("echo", b"x")

        assert (await client.receive_publish())["payload"] == b"x"
        assert (await client.receive_ack(ack_id))["reason_code"] == 0


async def test_a_synchronous_consumer_looks_at_a_will_in_its_thread(served: Any) -> None:
    class Subject(SyncDevice):
        groups = None

        def allow_will(self, will: dict[str, Any]) -> bool:
            return threading.current_thread() is not threading.main_thread()

    will = {"topic": "gone", "payload": b"x", "qos": 0, "retain": False, "properties": {}}
    async with MqttCommunicator(served(Subject.as_asgi()), will=will) as client:
        await client.send_input(client._connect)

        assert await client.receive_output() == {"type": "mqtt.accept"}
