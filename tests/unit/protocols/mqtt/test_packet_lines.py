"""A packet in one line: everything that helps, nothing that is secret."""

import pytest

from protocols.mqtt.codec.packets import (
    Auth,
    ConnAck,
    Connect,
    Packet,
    PingReq,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    Subscription,
    Will,
)
from protocols.mqtt.trace import describe, kind
from tests.unit.protocols.mqtt.codec.vectors import VALID, Vector


@pytest.mark.parametrize(
    ("packet", "line"),
    [
        (Publish(topic="a/b", payload=b"12345", qos=1, packet_id=7), "topic='a/b' payload=5 bytes qos=1 packet_id=7"),
        (Publish(topic="", payload=b"", properties={"topic_alias": 3}), "topic='' topic_alias=3"),
        (PubAck(7), "packet_id=7 reason_code=0x00"),
        (ConnAck(reason_code=0x87, properties={"reason_string": "no"}), "reason_code=0x87 reason_string='no'"),
        (
            Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter="a/#", qos=2, no_local=True),)),
            "packet_id=1 subscriptions=[(topic_filter='a/#' qos=2 no_local=yes)]",
        ),
        (SubAck(packet_id=1, reason_codes=(2, 0x87)), "packet_id=1 reason_codes=0x02,0x87"),
        (PingReq(), ""),
        (Publish(topic="a\nin PUBLISH"), r"topic='a\nin PUBLISH'"),
    ],
)
def test_a_packet_is_told_by_what_is_not_its_default(packet: Packet, line: str) -> None:
    assert describe(packet) == line


def test_a_user_name_and_a_password_are_hidden() -> None:
    will = Will(topic="gone", payload=b"secret")
    connect = Connect(
        version=5,
        client_id="c",
        username="TOKEN",
        password=b"TOKEN",
        will=will,
        properties={"user_property": [("jwt", "TOKEN")], "authentication_data": b"TOKEN"},
    )

    line = describe(connect, payloads=True)

    assert "TOKEN" not in line
    assert "username=*** password=***" in line
    assert "user_property='jwt':***" in line
    assert "authentication_data=***" in line


def test_what_authentication_exchanges_is_not_shown() -> None:
    auth = Auth(reason_code=0x18, properties={"authentication_method": "SCRAM", "authentication_data": b"TOKEN"})

    assert describe(auth) == "reason_code=0x18 authentication_method='SCRAM' authentication_data=***"


def test_the_beginning_of_a_payload_is_for_who_asks() -> None:
    packet = Publish(topic="a", payload=b'{"t": 21.5}\xff' + b"x" * 200)

    assert describe(packet) == "topic='a' payload=212 bytes"
    line = describe(packet, payloads=True)
    assert line.startswith("""topic='a' payload=212 bytes '{"t": 21.5}""")
    assert line.endswith("x'...")
    assert len(line) < 160


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.name)
def test_every_packet_has_one_line(vector: Vector) -> None:
    packet = vector.packet

    assert "\n" not in kind(packet) + describe(packet, payloads=True)
