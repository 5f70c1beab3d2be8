"""The PROXY protocol, versions 1 and 2: what a proxy in front says of a connection before its first byte. Sans I/O.

The specification is HAProxy's proxy-protocol.txt, whose sections are named here. A header is read exactly, not a byte
beyond it: what follows belongs to TLS or to the protocol of the listener.
"""

import ipaddress
from typing import Final, NamedTuple

from protocols.addresses import parse_address

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""How a header of version 2 begins (§2.2)."""

_V1: Final = b"PROXY "
_V1_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
_V1_LONGEST: Final = 107  # §2.1, its line break included
_V2_FIXED: Final = 16
_V2_LONGEST: Final = 4_096
"""More than any proxy sends: addresses are at most 216 bytes, the rest are facts about TLS."""

_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31


class ProxyHeaderError(ValueError):
    """Raised when a connection does not begin with a PROXY header that can be read."""


class Proxied(NamedTuple):
    """The connection that the proxy took. `client` is None for one that has no address, as of a Unix socket."""

    client: tuple[str, int] | None
    server: tuple[str, int] | None


def missing(header: bytes | bytearray) -> int:
    """How many bytes to read next, which are certainly the header's: 0 when it is complete. Raises ProxyHeaderError."""
    got = len(header)
    if _V1.startswith(header[: len(_V1)]):
        return _missing_v1(header)
    if not SIGNATURE.startswith(header[: len(SIGNATURE)]):
        raise ProxyHeaderError("the connection does not begin with a PROXY header")
    if got < _V2_FIXED:
        return _V2_FIXED - got
    size = _V2_FIXED + int.from_bytes(header[14:16], "big")
    if size > _V2_LONGEST:
        raise ProxyHeaderError(f"a PROXY header of {size} bytes")
    return size - got


def _missing_v1(header: bytes | bytearray) -> int:
    """Version 1 is a line of unknown length: its end is looked for a byte at a time."""
    if header.endswith(b"\r\n"):
        return 0
    if len(header) >= _V1_LONGEST:
        raise ProxyHeaderError(f"a PROXY line of more than {_V1_LONGEST} bytes")
    return max(1, _V1_SHORTEST - len(header))


def parse(header: bytes | bytearray) -> Proxied | None:
    """What a complete header says; None if it is the proxy's own connection (a health check) or tells no address, and
    the addresses of the connection itself hold. Raises ProxyHeaderError."""
    return _parse_v2(bytes(header)) if header.startswith(SIGNATURE) else _parse_v1(bytes(header))


def _parse_v1(line: bytes) -> Proxied | None:
    """§2.1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443`."""
    fields = line[: -len(b"\r\n")].split(b" ")
    if fields[1] == b"UNKNOWN":
        return None
    if len(fields) != 6 or fields[1] not in (b"TCP4", b"TCP6"):
        raise ProxyHeaderError("a PROXY line with other fields than family, addresses and ports")
    source, target = (_address(field, fields[1]) for field in fields[2:4])
    return Proxied((source, _port(fields[4])), (target, _port(fields[5])))


def _address(field: bytes, family: bytes) -> str:
    """In the one spelling that all wires use: HAProxy passes an IPv4 client on to IPv6 as "::ffff:192.0.2.1"."""
    text = field.decode("latin-1")
    address = parse_address(text)
    if address is None or (":" in text) != (family == b"TCP6"):
        raise ProxyHeaderError("a PROXY line with an address that is none")
    return str(address)


def _port(field: bytes) -> int:
    if not field.isdigit() or len(field) > 5 or int(field) > 65_535 or (field[:1] == b"0" and field != b"0"):
        raise ProxyHeaderError("a PROXY line with a port that is none")
    return int(field)


def _parse_v2(header: bytes) -> Proxied | None:
    """§2.2: version and command, family, length; the addresses, and facts that are skipped."""
    command, family = header[12], header[13]
    body = header[_V2_FIXED:]
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise ProxyHeaderError(f"a PROXY header of version and command {command:#04x}")
    if family == _UNSPECIFIED:
        return None
    if family == _UNIX:
        return Proxied(None, None)
    size = {_TCP4: 4, _TCP6: 16}.get(family)
    if size is None:
        raise ProxyHeaderError(f"a PROXY header of the family {family:#04x}, which is not a stream's")
    if len(body) < 2 * size + 4:
        raise ProxyHeaderError("a PROXY header that is too short for its addresses")
    source, target = (_packed(body[at : at + size]) for at in (0, size))
    ports = body[2 * size :]
    return Proxied((source, int.from_bytes(ports[:2], "big")), (target, int.from_bytes(ports[2:4], "big")))


def _packed(address: bytes) -> str:
    parsed = ipaddress.ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
