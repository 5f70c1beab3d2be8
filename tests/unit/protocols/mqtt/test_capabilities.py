"""What a client says it can, or wants, has a consequence: nothing is decoded and then without one."""

import ast
from pathlib import Path
from typing import Final

import pytest

import protocols.mqtt
from protocols.mqtt.codec import packets
from protocols.mqtt.codec.packets import PacketType
from protocols.mqtt.codec.properties import PROPERTIES, WILL

CODEC: Final = {"codec", "decoding", "description", "encoding", "packets", "properties", "reason_codes", "wire"}
"""Modules that write and read what they do not use."""
FROM_CLIENTS: Final = (
    *(packets.Connect, packets.Will, packets.Publish, packets.PubAck, packets.PubRec, packets.PubRel, packets.PubComp),
    *(packets.Subscribe, packets.Subscription, packets.Unsubscribe, packets.Auth, packets.Disconnect),
)
FORWARDED: Final = {
    "payload_format_indicator",
    "content_type",
    "response_topic",
    "correlation_data",
    "user_property",
    "reason_string",
}
"""Properties that mean something to applications and subscribers alone, who get them."""


def words() -> tuple[set[str], set[str]]:
    """The attributes that are read, and the strings that are written, in the modules that use packets."""
    read: set[str] = set()
    strings: set[str] = set()
    for path in Path(protocols.mqtt.__path__[0]).rglob("*.py"):
        if path.stem not in CODEC:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    read.add(node.attr)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    strings.add(node.value)
    return read, strings


READ, STRINGS = words()


@pytest.mark.parametrize(
    ("packet", "field"), [(packet.__name__, field) for packet in FROM_CLIENTS for field in packet.__struct_fields__]
)
def test_every_field_of_what_a_client_sends_is_read(packet: str, field: str) -> None:
    assert field in READ


@pytest.mark.parametrize(
    "name",
    [
        row.name
        for row in PROPERTIES
        if row.carriers & {WILL, PacketType.CONNECT, PacketType.PUBLISH, PacketType.SUBSCRIBE, PacketType.DISCONNECT}
        and row.name != "server_reference"  # a server alone sends it
    ],
)
def test_every_property_of_what_a_client_sends_is_used_or_forwarded(name: str) -> None:
    assert name in STRINGS or name in FORWARDED
