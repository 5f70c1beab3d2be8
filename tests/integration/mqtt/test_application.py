"""docs/events.md, as an application sees it behind the real server and a client in front of it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from protocols.asgi import Event, Receive, Scope, Send
from protocols.mqtt.codec.packets import (
    ConnAck,
    Connect,
    Disconnect,
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
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.fixture_types import OpenRaw, Serve
from tests.support.waiting import until


class Deciding(AcceptEverything):
    """Gives a publish to the test's function, which answers it."""

    def __init__(self, decide: Callable[[Event, Send], Awaitable[None]]) -> None:
        super().__init__()
        self.publish = decide  # type: ignore[method-assign]


class TestScope:
    async def test_the_scope_says_who_connects_and_how(self, open_raw: OpenRaw, application: AcceptEverything) -> None:
        client = await open_raw(5)
        await client.connect(
            "thermo-1",
            keep_alive_s=30,
            clean_start=False,
            username="user",
            password=b"\x00secret",
            will=Will(topic="w", payload=b"gone", qos=1, retain=True, properties={"content_type": "t"}),
            properties={"receive_maximum": 10, "user_property": [("a", "b")]},
        )

        (scope,) = application.scopes
        host, port = client.writer.get_extra_info("sockname")
        assert {key: value for key, value in scope.items() if key != "server"} == {
            "type": "mqtt",
            "asgi": {"version": "3.0", "spec_version": "1.0"},
            "mqtt_version": 5,
            "client_id": "thermo-1",
            "username": "user",
            "clean_start": False,
            "keep_alive_s": 30,
            "will": {
                "topic": "w",
                "payload": b"gone",
                "qos": 1,
                "retain": True,
                "properties": {"content_type": "t"},
            },
            "properties": {"receive_maximum": 10, "user_property": [("a", "b")]},
            "client": (host, port),
            "scheme": "mqtt",
            "extensions": {
                "mqtt.limits": {"max_packet_bytes": 262_144, "receive_maximum": 512, "max_messages_per_s": 0}
            },
            "state": {},
        }
        assert scope["server"] == client.writer.get_extra_info("peername")
        await until(lambda: application.seen("mqtt.connect", "thermo-1"), "the connect event")
        assert application.seen("mqtt.connect", "thermo-1") == [
            {
                "type": "mqtt.connect",
                "password": b"\x00secret",
                "allow_anonymous": True,
                "authentication_method": None,
                "authentication_data": None,
            }
        ]

    async def test_the_scope_has_the_identifier_that_the_server_assigned(
        self, open_raw: OpenRaw, application: AcceptEverything
    ) -> None:
        connack = await (await open_raw(5)).connect("")

        assert application.scopes[0]["client_id"] == connack.properties["assigned_client_identifier"]


class TestAcceptingAndRejecting:
    @pytest.mark.parametrize(
        ("reason_code", "return_code"),
        [
            (ReasonCode.BAD_USER_NAME_OR_PASSWORD, 4),
            (ReasonCode.NOT_AUTHORIZED, 5),
            (ReasonCode.SERVER_UNAVAILABLE, 3),
            (ReasonCode.BANNED, 5),
        ],
    )
    async def test_a_rejected_client_is_told_why_in_its_version(
        self, serve: Serve, open_raw: OpenRaw, reason_code: int, return_code: int
    ) -> None:
        events: list[Event] = []

        async def reject(scope: Scope, receive: Receive, send: Send) -> None:
            events.append(await receive())
            await send({"type": "mqtt.reject", "reason_code": reason_code, "reason_string": "why"})
            events.append(await receive())

        address = await serve(reject)
        old, new = await open_raw(4, to=address), await open_raw(5, to=address)
        for client, version in ((old, 4), (new, 5)):
            client.send(Connect(version=version, client_id="c"))

        await old.expect(bytes((0x20, 2, 0, return_code)))
        await old.expect_end()
        assert await new.receive() == ConnAck(reason_code=reason_code, properties={"reason_string": "why"})
        await new.expect_end()
        await until(lambda: len(events) == 4, "the disconnect events")
        assert {event["reason"] for event in events if event["type"] == "mqtt.disconnect"} == {"application"}

    async def test_what_a_client_sends_before_the_answer_waits(self, serve: Serve, open_raw: OpenRaw) -> None:
        """[MQTT5-3.1.4-5]"""
        decided = asyncio.Event()

        class Slow(AcceptEverything):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                async def receive_late() -> Event:
                    event = await receive()
                    await decided.wait()
                    return event

                await super().__call__(scope, receive_late, send)

        application = Slow()
        client = await open_raw(4, to=await serve(application))
        client.send(Connect(client_id="c"), Publish(topic="a", qos=1, packet_id=1), b"\xc0\x00")
        await until(lambda: application.scopes, "the application")
        assert application.events == []

        decided.set()

        assert await client.receive() == ConnAck()
        answers = [await client.receive_bytes(), await client.receive_bytes()]
        assert sorted(answers) == [b"\x40\x02\x00\x01", b"\xd0\x00"]

    async def test_an_application_may_give_the_client_another_identity(self, serve: Serve, open_raw: OpenRaw) -> None:
        async def rename(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "mqtt.accept", "client_id": "device-7", "properties": {"response_information": "r"}})
            await receive()

        client = await open_raw(5, to=await serve(rename))

        connack = await client.connect("anything", properties={"request_response_information": 1})

        assert "assigned_client_identifier" not in connack.properties
        assert connack.properties["response_information"] == "r"

    @pytest.mark.mqtt("MQTT5-3.2.2-9", "MQTT5-3.2.2-11")
    async def test_an_application_may_limit_the_qos(self, serve: Serve, open_raw: OpenRaw) -> None:
        """[MQTT5-3.2.2-9] [MQTT5-3.2.2-11]"""

        async def limit(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "mqtt.accept", "maximum_qos": 1})
            while (event := await receive())["type"] != "mqtt.disconnect":
                await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_codes": [2]})

        client = await open_raw(5, to=await serve(limit))

        assert (await client.connect("c")).properties["maximum_qos"] == 1
        assert await client.subscribe("a", 2) == 1
        client.send(Publish(topic="a", qos=2, packet_id=1))
        await client.expect_disconnect(ReasonCode.QOS_NOT_SUPPORTED)


class TestAcknowledging:
    async def test_a_puback_waits_for_the_application(self, serve: Serve, raw: OpenRaw) -> None:
        stored = asyncio.Event()

        async def store(event: Event, send: Send) -> None:
            await stored.wait()
            await send({"type": "mqtt.ack", "ack_id": event["ack_id"]})

        client = await raw("c", to=await serve(Deciding(store)))

        client.send(Publish(topic="a", qos=1, packet_id=1))
        await client.expect_nothing_more()
        stored.set()

        assert await client.receive() == PubAck(1)

    async def test_pubacks_reach_a_client_in_the_order_of_its_publishes(self, serve: Serve, raw: OpenRaw) -> None:
        """[MQTT5-4.6.0-2]"""
        waiting: list[int] = []

        async def collect(event: Event, send: Send) -> None:
            waiting.append(event["ack_id"])
            if len(waiting) == 3:
                for ack_id in reversed(waiting):
                    await send({"type": "mqtt.ack", "ack_id": ack_id})

        client = await raw("c", to=await serve(Deciding(collect)))

        client.send(
            Publish(topic="a", qos=1, packet_id=5),
            Publish(topic="a", qos=2, packet_id=6),
            Publish(topic="a", qos=1, packet_id=7),
        )

        assert [await client.receive() for _ in range(3)] == [PubAck(5), PubRec(6), PubAck(7)]

    async def test_a_message_that_is_not_to_be_routed_is_acknowledged_only(self, serve: Serve, raw: OpenRaw) -> None:
        async def keep(event: Event, send: Send) -> None:
            await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "route": event["topic"] == "routed"})

        address = await serve(Deciding(keep))
        subscriber, publisher = await raw("s", to=address), await raw("p", to=address)
        await subscriber.subscribe("#")

        publisher.send(Publish(topic="kept", retain=True, payload=b"x", qos=1, packet_id=1))
        assert await publisher.receive() == PubAck(1)
        publisher.send(Publish(topic="routed"))

        assert await subscriber.receive() == Publish(topic="routed")
        await subscriber.subscribe("kept")
        await subscriber.expect_nothing_more()

    async def test_a_publish_that_is_dropped_is_not_routed_and_5_0_is_told(self, serve: Serve, raw: OpenRaw) -> None:
        async def refuse(event: Event, send: Send) -> None:
            code = ReasonCode.NOT_AUTHORIZED if event["topic"] == "secret" else 0
            answer = {"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_code": code, "drop": True}
            await send({**answer, "reason_string": "no"} if code else answer)

        address = await serve(Deciding(refuse))
        subscriber = await raw("s", to=address)
        old, new = await raw("old", 4, to=address), await raw("new", 5, to=address)
        await subscriber.subscribe("#")

        for client in (old, new):
            client.send(Publish(topic="secret", qos=1, packet_id=1), Publish(topic="secret", qos=2, packet_id=2))

        assert [await old.receive(), await old.receive()] == [PubAck(1), PubRec(2)]
        reason = {"reason_string": "no"}
        assert [await new.receive(), await new.receive()] == [
            PubAck(1, ReasonCode.NOT_AUTHORIZED, reason),
            PubRec(2, ReasonCode.NOT_AUTHORIZED, reason),
        ]
        old.send(PubRel(2))
        assert await old.receive() == PubComp(2)
        await subscriber.expect_nothing_more()

    async def test_a_reason_string_is_not_sent_to_a_client_that_does_not_want_it(
        self, serve: Serve, raw: OpenRaw
    ) -> None:
        """[MQTT5-3.1.2-29]"""

        async def refuse(event: Event, send: Send) -> None:
            code = ReasonCode.QUOTA_EXCEEDED
            await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_code": code, "reason_string": "no"})

        properties = {"request_problem_information": 0}
        client = await raw("c", 5, to=await serve(Deciding(refuse)), properties=properties)

        client.send(Publish(topic="a", qos=1, packet_id=1))

        assert await client.receive() == PubAck(1, ReasonCode.QUOTA_EXCEEDED)

    async def test_a_refusal_closes_an_older_client_with_one_warning(
        self, serve: Serve, raw: OpenRaw, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def refuse(event: Event, send: Send) -> None:
            await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_code": 0x87, "reason_string": "not you"})

        client = await raw("c", 4, to=await serve(Deciding(refuse)))

        client.send(Publish(topic="a", qos=1, packet_id=1))

        await client.expect_end()
        [record] = [record for record in caplog.records if "closed c from" in record.getMessage()]
        assert record.levelname == "WARNING"
        assert "application, 0x87 refused a publish to 'a': not you" in record.getMessage()

    async def test_a_second_answer_and_an_answer_to_nothing_are_ignored(self, serve: Serve, raw: OpenRaw) -> None:
        async def stammer(event: Event, send: Send) -> None:
            for ack_id in (event["ack_id"], event["ack_id"], 999, -999):
                await send({"type": "mqtt.ack", "ack_id": ack_id})

        client = await raw("c", to=await serve(Deciding(stammer)))

        for packet_id in (1, 2):
            client.send(Publish(topic="a", qos=1, packet_id=packet_id))
            assert await client.receive() == PubAck(packet_id)
        await client.expect_nothing_more()


class TestSubscribing:
    async def test_the_application_sees_the_filters_and_decides_each(self, serve: Serve, raw: OpenRaw) -> None:
        events: list[Event] = []

        async def decide(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "mqtt.accept"})
            while (event := await receive())["type"] != "mqtt.disconnect":
                events.append(event)
                codes = [0, ReasonCode.NOT_AUTHORIZED]
                await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_codes": codes})

        client = await raw("c", 5, to=await serve(decide))
        client.send(
            Subscribe(
                packet_id=1,
                subscriptions=(
                    Subscription(topic_filter="$share/g/a/+", qos=1, retain_handling=2),
                    Subscription(topic_filter="b#"),
                    Subscription(topic_filter="c", qos=2, no_local=True, retain_as_published=True),
                ),
                properties={"user_property": [("k", "v")]},
            )
        )

        answer = await client.receive()
        assert isinstance(answer, SubAck)
        assert answer.reason_codes == (0, ReasonCode.TOPIC_FILTER_INVALID, ReasonCode.NOT_AUTHORIZED)
        (event,) = events
        assert event["subscriptions"] == [
            {
                "topic_filter": "a/+",
                "qos": 1,
                "no_local": False,
                "retain_as_published": False,
                "retain_handling": 2,
                "share_name": "g",
            },
            {
                "topic_filter": "c",
                "qos": 2,
                "no_local": True,
                "retain_as_published": True,
                "retain_handling": 0,
                "share_name": None,
            },
        ]
        assert event["properties"] == {"user_property": [("k", "v")]}

    async def test_the_application_may_keep_a_subscription(self, serve: Serve, raw: OpenRaw) -> None:
        class Keeping(AcceptEverything):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                async def refuse(event: Event) -> None:
                    if event["type"] == "mqtt.ack" and event.get("reason_codes") == [0, 0]:
                        event["reason_codes"] = [0, ReasonCode.NOT_AUTHORIZED]
                    await send(event)

                await super().__call__(scope, receive, refuse)

        client = await raw("c", 5, to=await serve(Keeping()))
        for topic_filter in ("a", "b"):
            await client.subscribe(topic_filter)

        client.send(Unsubscribe(packet_id=3, topic_filters=("a", "b")))

        assert await client.receive() == UnsubAck(packet_id=3, reason_codes=(0, ReasonCode.NOT_AUTHORIZED))
        client.send(Publish(topic="a"), Publish(topic="b"))
        assert await client.receive() == Publish(topic="b")


class TestSpeakingToTheClient:
    async def test_an_application_publishes_to_its_client(self, serve: Serve, raw: OpenRaw) -> None:
        async def echo(event: Event, send: Send) -> None:
            for qos in (0, 1, 2):
                answer = {"topic": f"echo/{qos}", "payload": event["payload"], "qos": qos}
                await send({"type": "mqtt.publish", **answer, "properties": {"content_type": "t"}})
            await send({"type": "mqtt.ack", "ack_id": event["ack_id"]})

        client = await raw("c", 5, to=await serve(Deciding(echo)))

        client.send(Publish(topic="a", payload=b"x"))

        properties = {"content_type": "t"}
        assert [await client.receive() for _ in range(3)] == [
            Publish(topic="echo/0", payload=b"x", properties=properties),
            Publish(topic="echo/1", payload=b"x", qos=1, packet_id=1, properties=properties),
            Publish(topic="echo/2", payload=b"x", qos=2, packet_id=2, properties=properties),
        ]

    @pytest.mark.parametrize(("version", "code"), [(4, 0x98), (5, 0x98), (5, 0x9D)])
    async def test_an_application_closes_the_connection(
        self, serve: Serve, raw: OpenRaw, version: int, code: int
    ) -> None:
        async def close(event: Event, send: Send) -> None:
            await send({"type": "mqtt.close", "reason_code": code, "reason_string": "bye"})

        application = Deciding(close)
        client = await raw("c", version, to=await serve(application))

        client.send(Publish(topic="a"))

        if version == 5:
            assert await client.receive() == Disconnect(reason_code=code, properties={"reason_string": "bye"})
        await client.expect_end()
        await until(lambda: application.seen("mqtt.disconnect", "c"), "the disconnect event")
        assert application.seen("mqtt.disconnect", "c")[0]["reason"] == "application"


class TestEnds:
    @pytest.mark.parametrize("before_accept", [True, False])
    @pytest.mark.parametrize("raises", [True, False])
    async def test_an_application_that_ends_too_soon_closes_the_connection(
        self, serve: Serve, open_raw: OpenRaw, before_accept: bool, raises: bool
    ) -> None:
        async def end(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            if not before_accept:
                await send({"type": "mqtt.accept"})
                await receive()
            if raises:
                raise LookupError("a bug in the application")

        client = await open_raw(5, to=await serve(end))
        client.send(Connect(version=5, client_id="c"))

        answer = await client.receive()
        assert isinstance(answer, ConnAck)
        if before_accept:
            assert answer.reason_code == ReasonCode.SERVER_UNAVAILABLE
            await client.expect_end()
        else:
            client.send(Publish(topic="a"))
            await client.expect_disconnect(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)

    async def test_a_disconnect_event_has_what_the_client_said(
        self, raw: OpenRaw, application: AcceptEverything
    ) -> None:
        client = await raw("c", 5)

        client.send(Disconnect(reason_code=ReasonCode.DISCONNECT_WITH_WILL, properties={"reason_string": "later"}))

        await until(lambda: application.seen("mqtt.disconnect", "c"), "the disconnect event")
        assert application.seen("mqtt.disconnect", "c") == [
            {
                "type": "mqtt.disconnect",
                "reason_code": ReasonCode.DISCONNECT_WITH_WILL,
                "reason": "client",
                "properties": {"reason_string": "later"},
            }
        ]

    async def test_a_lost_connection_is_told_apart(self, raw: OpenRaw, application: AcceptEverything) -> None:
        client = await raw("c", 5)

        client.abort()

        await until(lambda: application.seen("mqtt.disconnect", "c"), "the disconnect event")
        assert application.seen("mqtt.disconnect", "c")[0]["reason"] == "lost"
