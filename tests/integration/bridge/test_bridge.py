"""The bridge between our broker and a real one: Mosquitto."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from protocols.bridge.topic_map import ReceiveRule, SendRule
from protocols.mqtt.storage.rows import Changes
from protocols.mqtt.storage.sqlite import SqliteStore
from tests.integration.bridge.conftest import DEADLINE_S, Application_, Connect, OpenGateway
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import until

VERSIONS = ["5.0", "3.1.1"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_message_from_upstream_is_an_event_with_the_topic_that_it_has_here(
    open_gateway: OpenGateway, application: Application_, upstream: Mosquitto, connect: Connect, version: str
) -> None:
    gateway = await (await open_gateway(mqtt_version=version)).connected()
    field = await connect(upstream.address, "field")

    await field.publish("site/thermo-1/telemetry", b"21.5", 1, UserProperty=[("unit", "C")])

    await until(lambda: application.publishes, "the message")
    (event,) = application.publishes
    assert (event["topic"], event["payload"], event["qos"]) == ("in/thermo-1", b"21.5", 1)
    assert event["properties"] == ({"user_property": [("unit", "C")]} if version == "5.0" else {})
    (scope,) = application.scopes
    assert scope["type"] == "mqtt"
    assert scope["mqtt_version"] == (5 if version == "5.0" else 4)
    assert scope["client_id"] == "bridge-1"
    assert scope["client"] == upstream.address
    assert scope["extensions"] == {"bridge": {"name": "upstream"}}
    assert gateway.status() == "ok"


async def test_what_the_application_acknowledges_reaches_the_subscribers_here(
    open_gateway: OpenGateway, application: Application_, upstream: Mosquitto, connect: Connect
) -> None:
    gateway = await (await open_gateway()).connected()
    watching = await connect(gateway.address, "watching")
    await watching.subscribe("in/#", 1)
    field = await connect(upstream.address, "field")

    application.answer = lambda event: {"type": "mqtt.ack", "ack_id": event["ack_id"], "route": False}
    await field.publish("site/hidden/telemetry", b"1", 1)
    await until(lambda: application.publishes, "the first message")
    application.answer = lambda event: {"type": "mqtt.ack", "ack_id": event["ack_id"]}
    await field.publish("site/shown/telemetry", b"2", 1)

    assert (await watching.message()).topic == "in/shown"


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_published_here_goes_upstream_by_the_send_rules(
    open_gateway: OpenGateway, upstream: Mosquitto, connect: Connect, version: str
) -> None:
    gateway = await (await open_gateway(mqtt_version=version)).connected()
    watching = await connect(upstream.address, "watching")
    await watching.subscribe("#", 1)
    here = await connect(gateway.address, "here")

    await here.publish("elsewhere", b"no", 1)
    await here.publish("out/a/b", b"0", 0)
    await here.publish("out/a/b", b"1", 1, retain=True)

    for payload in (b"0", b"1"):
        message = await watching.message()
        assert (message.topic, message.payload) == ("from/out/a/b", payload)
    late = await connect(upstream.address, "late")
    await late.subscribe("from/out/#", 1)
    assert (await late.message()).retain


async def test_the_application_publishes_upstream_through_its_scope(
    open_gateway: OpenGateway, application: Application_, upstream: Mosquitto, connect: Connect
) -> None:
    await (await open_gateway()).connected()
    watching = await connect(upstream.address, "watching")
    await watching.subscribe("#", 1)

    assert application.send_to_bridge is not None
    for topic in ("out/command", "as/it/is"):
        await application.send_to_bridge({"type": "mqtt.publish", "topic": topic, "payload": b"x", "qos": 1})

    assert [(await watching.message()).topic for _ in range(2)] == ["from/out/command", "as/it/is"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_upstream_has_its_acknowledgement_after_the_application_has_given_it(
    open_gateway: OpenGateway, application: Application_, upstream: Mosquitto, connect: Connect, version: str
) -> None:
    gateway = await (await open_gateway(mqtt_version=version)).connected()
    field = await connect(upstream.address, "field")
    application.answering.clear()

    for number in range(5):
        await field.publish("site/d/telemetry", b"%d" % number, 1)
    await until(lambda: application.publishes, "the first message")
    assert upstream.log().count("Received PUBACK from bridge-1") == 0
    application.answering.set()

    await until(lambda: upstream.log().count("Received PUBACK from bridge-1") == 5, "the acknowledgements")
    assert application.payloads() == [b"%d" % number for number in range(5)]
    assert gateway.status() == "ok"


class SlowStore(SqliteStore):
    """Writes when it is told that it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_write = threading.Event()
        self.may_write.set()
        self.asked = False

    def write(self, changes: Changes) -> None:
        self.asked = True
        assert self.may_write.wait(DEADLINE_S)
        super().write(changes)


async def test_what_a_subscriber_who_is_away_will_get_is_kept_before_it_is_acknowledged(
    open_gateway: OpenGateway, upstream: Mosquitto, connect: Connect, tmp_path: Path
) -> None:
    store = SlowStore(tmp_path / "sessions.sqlite3")
    gateway = await (await open_gateway(store=store)).connected()
    keep = {"SessionExpiryInterval": 3600}
    away = await connect(gateway.address, "away", clean=False, connect_properties=keep)
    await away.subscribe("in/#", 1)
    await away.disconnect()
    field = await connect(upstream.address, "field")

    store.may_write.clear()
    store.asked = False
    for number in range(3):
        await field.publish("site/d/telemetry", b"%d" % number, 1)
    await until(lambda: store.asked, "the commit")
    assert "Received PUBACK from bridge-1" not in upstream.log()
    store.may_write.set()

    await until(lambda: upstream.log().count("Received PUBACK from bridge-1") == 3, "the acknowledgements")
    back = await connect(gateway.address, "away", clean=False, connect_properties=keep)
    assert [(await back.message()).payload for _ in range(3)] == [b"0", b"1", b"2"]


async def test_what_was_not_acknowledged_when_the_connection_ended_comes_again(
    open_gateway: OpenGateway, application: Application_, upstream: Mosquitto, connect: Connect
) -> None:
    await (await open_gateway()).connected()
    field = await connect(upstream.address, "field")
    application.answering.clear()
    await field.publish("site/d/telemetry", b"1", 1)
    await until(lambda: application.publishes, "the message")

    upstream.stop()
    application.answering.set()
    upstream.start()

    await until(lambda: len(application.publishes) == 2, "the message once more")
    assert application.payloads() == [b"1", b"1"]
    assert application.publishes[1]["dup"]
    await until(lambda: "Received PUBACK from bridge-1" in upstream.log(), "the acknowledgement")
    assert [end["reason"] for end in application.ends] == ["lost"]
    assert len(application.scopes) == 2


async def test_a_refusal_has_the_message_come_once_more_and_a_second_one_gives_it_up(
    open_gateway: OpenGateway, application: Application_, upstream: Mosquitto, connect: Connect
) -> None:
    await (await open_gateway()).connected()
    field = await connect(upstream.address, "field")
    application.answer = lambda event: {
        "type": "mqtt.ack",
        "ack_id": event["ack_id"],
        "reason_code": 0x83 if event["payload"] == b"poison" else 0,
    }

    await field.publish("site/d/telemetry", b"poison", 1)
    await field.publish("site/d/telemetry", b"good", 1)

    await until(lambda: b"good" in application.payloads()[1:], "what comes after it")
    await until(lambda: upstream.log().count("Received PUBACK from bridge-1") == 2, "the acknowledgements")
    assert application.payloads().count(b"poison") == 2


async def test_what_is_to_be_dropped_does_not_come_again(
    open_gateway: OpenGateway, application: Application_, upstream: Mosquitto, connect: Connect
) -> None:
    await (await open_gateway()).connected()
    field = await connect(upstream.address, "field")
    application.answer = lambda event: {
        "type": "mqtt.ack",
        "ack_id": event["ack_id"],
        "reason_code": 0x99 if event["payload"] == b"poison" else 0,
        "drop": True,
    }

    await field.publish("site/d/telemetry", b"poison", 1)
    await field.publish("site/d/telemetry", b"good", 1)

    await until(lambda: upstream.log().count("Received PUBACK from bridge-1") == 2, "the acknowledgements")
    assert application.payloads() == [b"poison", b"good"]
    assert application.ends == []


class TestLoops:
    @pytest.mark.parametrize("share", [None, "fleet"])
    async def test_what_was_sent_upstream_does_not_come_back_though_both_rules_are_about_it(
        self,
        open_gateway: OpenGateway,
        application: Application_,
        upstream: Mosquitto,
        connect: Connect,
        share: str | None,
    ) -> None:
        rules = {"receive": (ReceiveRule(upstream="all/#"),), "send": (SendRule(local="all/#"),)}
        gateway = await (await open_gateway(share=share, **rules)).connected()
        watching = await connect(upstream.address, "watching")
        await watching.subscribe("all/#", 1)
        here = await connect(gateway.address, "here")

        await here.publish("all/1", b"from here", 1)
        await watching.publish("all/2", b"from there", 1)

        seen = {(await watching.message()).payload for _ in range(2)}
        assert seen == {b"from here", b"from there"}
        await until(lambda: application.publishes, "the message from there")
        await watching.publish("all/3", b"the end", 1)
        await until(lambda: len(application.publishes) == 2, "the last message")
        assert application.payloads() == [b"from there", b"the end"]
        assert (await watching.message()).payload == b"the end"
        assert watching.messages.empty()

    async def test_two_gateways_that_are_bridged_to_each_other_by_one_broker_do_not_echo(
        self, open_gateway: OpenGateway, application: Application_, upstream: Mosquitto, connect: Connect
    ) -> None:
        rules = {"receive": (ReceiveRule(upstream="all/#"),), "send": (SendRule(local="all/#"),)}
        one = await (await open_gateway(client_id="bridge-1", **rules)).connected()
        other = await (await open_gateway(client_id="bridge-2", **rules)).connected()
        there = await connect(other.address, "there")
        await there.subscribe("all/#", 1)
        watching = await connect(upstream.address, "watching")
        await watching.subscribe("all/#", 1)
        here = await connect(one.address, "here")

        for payload in (b"1", b"2"):
            await here.publish("all/x", payload, 1)

        assert [(await there.message()).payload for _ in range(2)] == [b"1", b"2"]
        assert [(await watching.message()).payload for _ in range(2)] == [b"1", b"2"]
        assert watching.messages.empty()
        assert application.payloads() == [b"1", b"2"]


async def test_two_processes_with_one_share_have_each_message_once_between_them(
    open_gateway: OpenGateway, upstream: Mosquitto, connect: Connect
) -> None:
    applications = [Application_(), Application_()]
    for number, application in enumerate(applications):
        await (await open_gateway(application, client_id=f"bridge-{number}", share="fleet")).connected()
    field = await connect(upstream.address, "field")

    for number in range(50):
        await field.publish("site/d/telemetry", b"%d" % number, 1)

    await until(lambda: sum(len(one.publishes) for one in applications) == 50, "all messages")
    assert all(len(one.publishes) >= 10 for one in applications)
    assert sorted(int(payload) for one in applications for payload in one.payloads()) == list(range(50))


class TestUpstreamAway:
    async def test_nothing_at_qos_1_is_lost_in_either_direction_when_upstream_restarts_under_traffic(
        self, open_gateway: OpenGateway, application: Application_, upstream: Mosquitto, connect: Connect
    ) -> None:
        gateway = await (await open_gateway()).connected()
        here = await connect(gateway.address, "here")
        keep = {"SessionExpiryInterval": 3600}
        watching = [await connect(upstream.address, "watching", clean=False, connect_properties=keep)]
        await watching[0].subscribe("from/out/#", 1)
        field = await connect(upstream.address, "field")
        sent_here, sent_there = 0, 0
        received: set[bytes] = set()

        def all_have_come() -> bool:  # also what a client has acknowledged just before upstream went away
            for client in watching:
                while not client.messages.empty():
                    received.add(client.messages.get_nowait().payload)
            return len(received) == sent_here

        for _ in range(3):
            for _ in range(40):
                await here.publish("out/x", b"%d" % sent_here, 1)
                await field.publish("site/d/telemetry", b"%d" % sent_there, 1)
                sent_here += 1
                sent_there += 1
            upstream.stop()
            for _ in range(10):
                await here.publish("out/x", b"%d" % sent_here, 1)
                sent_here += 1
            upstream.start()
            field = await connect(upstream.address, "field")
            watching.append(await connect(upstream.address, "watching", clean=False, connect_properties=keep))
        await gateway.connected()

        await until(all_have_come, "all that was sent here")
        await until(lambda: len(set(application.payloads())) == sent_there, "all that was sent there")

    async def test_what_waits_is_bounded_and_the_newest_is_dropped(
        self, open_gateway: OpenGateway, upstream: Mosquitto, connect: Connect
    ) -> None:
        keep = {"SessionExpiryInterval": 3600}
        watching = await connect(upstream.address, "watching", clean=False, connect_properties=keep)
        await watching.subscribe("from/out/#", 1)
        upstream.stop()
        gateway = await open_gateway(spool_messages=10)
        here = await connect(gateway.address, "here")
        for number in range(30):
            await here.publish("out/x", b"%d" % number, 1)
        assert gateway.status() == "not connected"

        upstream.start()
        watching = await connect(upstream.address, "watching", clean=False, connect_properties=keep)
        messages = [(await watching.message()).payload for _ in range(10)]
        await here.publish("out/x", b"after", 1)

        assert messages == [b"%d" % number for number in range(10)]
        assert (await watching.message()).payload == b"after"


async def test_an_application_that_does_not_take_the_bridge_is_asked_again(
    open_gateway: OpenGateway, upstream: Mosquitto
) -> None:
    asked = 0

    async def unwilling(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1
        await receive()
        await send({"type": "mqtt.reject", "reason_code": 0x87})
        await receive()

    gateway = await open_gateway(unwilling)

    await until(lambda: asked >= 2, "the second time")
    assert gateway.status() == "not connected"
    assert "SUBSCRIBE from bridge-1" not in upstream.log()


async def test_at_the_stop_what_the_application_has_is_acknowledged_first(
    open_gateway: OpenGateway, application: Application_, upstream: Mosquitto, connect: Connect
) -> None:
    gateway = await (await open_gateway()).connected()
    field = await connect(upstream.address, "field")
    application.answering.clear()
    await field.publish("site/d/telemetry", b"1", 1)
    await until(lambda: application.publishes, "the message")
    asyncio.get_running_loop().call_later(0.1, application.answering.set)
    await gateway.stop()

    await until(lambda: "Received DISCONNECT from bridge-1" in upstream.log(), "the goodbye")
    log = upstream.log()
    assert log.count("Received PUBACK from bridge-1") == 1
    assert log.index("Received PUBACK from bridge-1") < log.index("Received DISCONNECT from bridge-1")
    assert [end["reason"] for end in application.ends] == ["shutdown"]
