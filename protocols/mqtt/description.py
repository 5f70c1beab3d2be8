"""A control packet in one line that a person reads, without what only the client and the application may know.

Hidden are the user name (a device's token often is one), the password, authentication data, and the user properties of
CONNECT and AUTH. Payloads are told by their size; their beginning is shown only to who asks for it.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from protocols.mqtt.codec.packets import Auth, Connect, Packet, PacketType, Properties, Subscription, Will

HIDDEN: Final = "***"
_SECRETS: Final = frozenset({"username", "password", "authentication_data"})
_PAYLOAD_SHOWN: Final = 100
"""How many bytes of a payload are shown to who asks."""

_CODES: Final = frozenset({"reason_code", "reason_codes"})
_KINDS: Final = {packet_type.name: packet_type for packet_type in PacketType}


def kind(packet: Packet) -> str:
    """The name of its type, as the specification has it: "PUBLISH"."""
    return _KINDS[type(packet).__name__.upper()].name


def describe(packet: Packet, *, payloads: bool = False) -> str:
    """What is in the packet: `topic='a/b' qos=1 packet_id=7 payload=12 bytes`; "" for one that says nothing more."""
    private = isinstance(packet, (Connect, Auth))
    return " ".join(_fields(packet, private=private, payloads=payloads))


def _fields(value: Any, *, private: bool, payloads: bool) -> Iterator[str]:
    defaults = {field.name: field.default for field in msgspec.structs.fields(type(value))}
    for name in value.__struct_fields__:
        content = getattr(value, name)
        if name == "properties":
            yield from _properties(content, private=private)
        elif content != defaults[name] or name == "reason_code":
            yield f"{name}={_shown(name, content, private=private, payloads=payloads)}"


def _shown(name: str, content: Any, *, private: bool, payloads: bool) -> str:
    if name in _SECRETS:
        return HIDDEN
    if name in _CODES:
        codes = content if isinstance(content, tuple) else (content,)
        return ",".join(f"{code:#04x}" for code in codes)
    match content:
        case bytes():
            return _bytes(content, payloads=payloads)
        case Will() | Subscription():
            return f"({' '.join(_fields(content, private=private, payloads=payloads))})"
        case tuple():
            return "[" + " ".join(_shown("", each, private=private, payloads=payloads) for each in content) + "]"
        case bool():
            return "yes" if content else "no"
        case str():
            return repr(content)  # a line break in it does not begin another line
    return str(content)


def _properties(properties: Properties, *, private: bool) -> Iterator[str]:
    for name, content in properties.items():
        if name in _SECRETS:
            yield f"{name}={HIDDEN}"
        elif name == "user_property":
            for key, value in content:
                yield f"user_property={key!r}:{HIDDEN if private else repr(value)}"
        else:
            yield f"{name}={_shown(name, content, private=private, payloads=False)}"


def _bytes(data: bytes, *, payloads: bool) -> str:
    size = f"{len(data)} bytes"
    if not payloads or not data:
        return size
    beginning = data[:_PAYLOAD_SHOWN]
    more = "..." if len(data) > _PAYLOAD_SHOWN else ""
    return f"{size} {beginning.decode('utf-8', 'backslashreplace')!r}{more}"
