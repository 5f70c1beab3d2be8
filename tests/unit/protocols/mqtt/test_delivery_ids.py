"""What the application is told of messages that it has sent to one client, and of the client's subscriptions."""

from typing import Any

import pytest

from protocols.mqtt.codec.packets import Connect, PubAck, Publish, PubRec, ReasonCode
from protocols.mqtt.options import MqttOptions
from tests.unit.protocols.mqtt.harness import Client, World

KEEP = {"session_expiry_interval": 1_000}


def send(client: Client, delivery_id: int, qos: int = 1, payload: bytes = b"x", **event: Any) -> None:
    client.answer(
        {"type": "mqtt.publish", "topic": "t", "payload": payload, "qos": qos, "delivery_id": delivery_id, **event}
    )


def log_in(client: Client, *, report_subscriptions: bool, **connect: Any) -> None:
    client.send(Connect(version=5, client_id="c", **connect))
    client.answer({"type": "mqtt.accept", "report_subscriptions": report_subscriptions})


def told(client: Client) -> list[tuple[int, int]]:
    return [
        (event["delivery_id"], event["reason_code"]) for event in client.events if event["type"] == "mqtt.delivered"
    ]


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_message_is_delivered_when_the_client_has_acknowledged_it(version: int) -> None:
    client = World().connected("c", version)

    send(client, 7)
    [packet] = client.publishes()
    before = told(client)
    client.send(PubAck(packet.packet_id))

    assert (before, told(client)) == ([], [(7, 0)])


def test_at_qos_2_when_the_client_has_taken_it_over() -> None:
    client = World().connected("c")

    send(client, 7, qos=2)
    [packet] = client.publishes()
    client.send(PubRec(packet.packet_id))

    assert told(client) == [(7, 0)]


@pytest.mark.parametrize(("answer", "qos"), [(PubAck, 1), (PubRec, 2)])
def test_the_code_of_a_client_that_refuses_it_is_told(answer: type, qos: int) -> None:
    client = World().connected("c")

    send(client, 7, qos=qos)
    [packet] = client.publishes()
    client.send(answer(packet.packet_id, 0x87))

    assert told(client) == [(7, 0x87)]


def test_what_the_client_cannot_take_is_told_at_once() -> None:
    small = World().connected("c", properties={"maximum_packet_size": 50})
    world = World(MqttOptions(max_queued_messages=0))
    busy = world.connected("c", properties={"receive_maximum": 1})

    send(small, 1, payload=b"x" * 100)
    send(busy, 2)
    send(busy, 3)

    assert told(small) == [(1, ReasonCode.PACKET_TOO_LARGE)]
    assert told(busy) == [(3, ReasonCode.QUOTA_EXCEEDED)]


@pytest.mark.parametrize("version", [4, 5])
def test_what_is_not_acknowledged_ends_with_the_connection_and_what_others_sent_does_not(version: int) -> None:
    world = World()
    keep: dict[str, Any] = {"properties": KEEP} if version == 5 else {}
    client = world.connected("c", version, clean_start=version == 5, **keep)
    client.subscribe("#")
    send(client, 1, payload=b"sent")
    world.publish("t", b"of another", qos=1)
    client.connection.writer.writable = False
    send(client, 2, payload=b"waits")
    world.publish("t", b"of another that waits", qos=1)
    client.lose()

    again = world.connected("c", version, clean_start=False, **keep)

    assert [packet.payload for packet in again.earlier if isinstance(packet, Publish)] == [
        b"of another",
        b"of another that waits",
    ]
    assert told(client) == told(again) == []


def test_nobody_acknowledges_qos_0() -> None:
    client = World().connected("c")

    with pytest.raises(ValueError, match="QoS 0"):
        send(client, 1, qos=0)


@pytest.mark.parametrize("wants", [True, False])
def test_the_subscriptions_of_a_session_from_before_are_reported_to_who_asks(wants: bool) -> None:
    world = World()
    client = world.connected("c", properties=KEEP)
    client.subscribe("a/+", qos=1)
    client.subscribe("$share/g/b", qos=0)
    client.lose()

    again = world.client()
    log_in(again, report_subscriptions=wants, clean_start=False, properties=KEEP)

    reports = [event for event in again.events if event["type"] == "mqtt.subscriptions"]
    assert reports == [{"type": "mqtt.subscriptions", "granted": {"a/+": 1, "$share/g/b": 0}}] * wants


def test_a_session_without_subscriptions_has_nothing_to_report() -> None:
    client = World().client()

    log_in(client, report_subscriptions=True)

    assert all(event["type"] != "mqtt.subscriptions" for event in client.events)
