"""The data types of the wire: integers, UTF-8 strings, binary data [MQTT5-1.5] [MQTT3-1.5], read and written."""

import re
from typing import Final

from protocols.mqtt.codec.errors import EncodeError, MalformedPacketError, ProtocolError
from protocols.mqtt.codec.packets import ReasonCode

MAX_TWO_BYTES: Final = 65_535
MAX_FOUR_BYTES: Final = 4_294_967_295
MAX_VARIABLE: Final = 268_435_455

_UNFIT_FOR_NAMES: Final = re.compile(
    "[\x01-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
"""Control characters and what Unicode will never define."""


def malformed(text: str) -> MalformedPacketError:
    """The error for bytes that cannot be parsed, with the reason code 0x81."""
    return MalformedPacketError(ReasonCode.MALFORMED_PACKET, text)


class Reader:
    """A cursor over the body of one complete packet; methods raise MalformedPacketError where it ends too soon."""

    __slots__ = ("data", "position", "stop")

    def __init__(self, data: bytes, position: int, stop: int) -> None:
        self.data = data
        self.position = position
        self.stop = stop

    def __bool__(self) -> bool:
        """Whether bytes are left."""
        return self.position < self.stop

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        start = self.position
        end = start + size
        if end > self.stop:
            raise malformed("the packet ends inside a field")
        self.position = end
        return self.data[start:end]

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(self.stop - self.position)

    def byte(self) -> int:
        """A byte."""
        return self.take(1)[0]

    def two_bytes(self) -> int:
        """A two byte integer [MQTT5-1.5.2]."""
        return int.from_bytes(self.take(2), "big")

    def four_bytes(self) -> int:
        """A four byte integer [MQTT5-1.5.3]."""
        return int.from_bytes(self.take(4), "big")

    def variable(self) -> int:
        """A variable byte integer, in as few bytes as it can have [MQTT5-1.5.5-1]."""
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise malformed("a variable byte integer is longer than it needs to be")
                return value
        raise malformed("a variable byte integer has more than four bytes")

    def binary(self) -> bytes:
        """Binary data [MQTT5-1.5.6]."""
        return self.take(self.two_bytes())

    def string(self) -> str:
        """A UTF-8 string [MQTT5-1.5.4]."""
        return decode_utf8(self.binary())

    def name(self) -> str:
        """A UTF-8 string by which something is found or somebody is known; see `decode_name`."""
        return decode_name(self.binary())

    def packet_id(self) -> int:
        """A packet identifier, which is never 0 [MQTT5-2.2.1-3] [MQTT3-2.3.1-1]."""
        packet_id = self.two_bytes()
        if packet_id == 0:
            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "packet identifier 0")
        return packet_id

    def sub_reader(self, size: int) -> "Reader":
        """A reader of the next `size` bytes, which this one skips."""
        start = self.position
        if start + size > self.stop:
            raise malformed("the packet ends inside a field")
        self.position = start + size
        return Reader(self.data, start, start + size)

    def expect_end(self) -> None:
        """Raises MalformedPacketError if bytes are left."""
        if self.position != self.stop:
            raise malformed("bytes follow the last field of the packet")


def decode_utf8(data: bytes) -> str:
    """The text of a UTF-8 string. Raises MalformedPacketError for ill-formed UTF-8, surrogates included
    [MQTT5-1.5.4-1] [MQTT3-1.5.3-1], and for U+0000 [MQTT5-1.5.4-2] [MQTT3-1.5.3-2]; a U+FEFF stays [MQTT5-1.5.4-3]."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise malformed("a string is not UTF-8") from error
    if "\0" in text:
        raise malformed("a string has U+0000")
    return text


def decode_name(data: bytes) -> str:
    """The text of a client identifier, a user name, a topic name or a topic filter.

    What a UTF-8 string should not have, and a receiver may refuse [MQTT5-1.5.4] [MQTT3-1.5.3], is refused in these:
    they are compared, logged and shown, and nobody means a control character there. Texts that are only passed on may
    have them. Raises MalformedPacketError.
    """
    text = decode_utf8(data)
    if not text.isprintable() and _UNFIT_FOR_NAMES.search(text):
        raise malformed("a name has a control character or a non-character")
    return text


def encode_two_bytes(value: int) -> bytes:
    """A two byte integer."""
    if not 0 <= value <= MAX_TWO_BYTES:
        raise EncodeError(f"{value} is not within 0 and {MAX_TWO_BYTES}")
    return value.to_bytes(2, "big")


def encode_four_bytes(value: int) -> bytes:
    """A four byte integer."""
    if not 0 <= value <= MAX_FOUR_BYTES:
        raise EncodeError(f"{value} is not within 0 and {MAX_FOUR_BYTES}")
    return value.to_bytes(4, "big")


def encode_variable(value: int) -> bytes:
    """A variable byte integer in as few bytes as it can have [MQTT5-1.5.5-1]."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if not 0 <= value <= MAX_VARIABLE:
        raise EncodeError(f"{value} is not within 0 and {MAX_VARIABLE}")
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(0x80))


def encode_binary(data: bytes) -> bytes:
    """Binary data with its length."""
    if len(data) > MAX_TWO_BYTES:
        raise EncodeError(f"a field of {len(data)} bytes; at most {MAX_TWO_BYTES} can be sent")
    return len(data).to_bytes(2, "big") + data


def encode_string(text: str) -> bytes:
    """A UTF-8 string with its length. Raises EncodeError for surrogates and U+0000."""
    if "\0" in text:
        raise EncodeError("a string has U+0000")
    try:
        return encode_binary(text.encode())
    except UnicodeEncodeError as error:
        raise EncodeError("a string has surrogates") from error


def encode_packet_id(packet_id: int) -> bytes:
    """A packet identifier."""
    if not 0 < packet_id <= MAX_TWO_BYTES:
        raise EncodeError(f"packet identifier {packet_id} is not within 1 and {MAX_TWO_BYTES}")
    return packet_id.to_bytes(2, "big")
