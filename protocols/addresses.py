"""Addresses as configuration, proxies and headers write them, and which of them count as one peer.

A scope, a count by address and a log have one spelling of each address: that of `ipaddress`, and IPv4 for an IPv4
address that came by IPv6 ("::ffff:192.0.2.1"). A zone ("fe80::1%eth0") is no part of an address that somebody else
tells: it means something on his machine only, and may be any text.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Any, Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")

_NODE: Final = re.compile(
    r"""(?P<quote>"?)
        (?: \[ (?P<bracketed>[0-9A-Fa-f:.]+) \] (?: : (?P<port>[0-9]{1,5}) )?
          | (?P<v4>[0-9.]+) (?: : (?P<v4_port>[0-9]{1,5}) )?
          | (?P<bare>[0-9A-Fa-f:.]+) )
        (?P=quote)""",
    re.VERBOSE | re.ASCII,
)
"""What stands for a client in X-Forwarded-For: an address, in brackets or not, with a port or without, in quotes or
not. The header has no specification; these are the node of RFC 7239 §6 and what Azure, nginx, HAProxy and Envoy
write. "unknown" and names that are to hide the address ("_gazonk") do not match."""


def network_of(client: Sequence[Any] | None) -> str:
    """What counts as one peer, for the `client` of a scope (address, port): one host of IPv4, one customer's network of
    IPv6, everybody at a Unix socket. What no address can be read from counts as it is."""
    if client is None:
        return "unix"
    host = str(client[0])
    address = parse_address(host.partition("%")[0])
    if address is None:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def parse_address(text: str) -> Address | None:
    """The IP address that `text` is; an IPv4 address that came by IPv6 counts as what it is. None for other text."""
    if "%" in text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def parse_node(text: str) -> tuple[str, int] | None:
    """Address and port of a client as a proxy writes it in X-Forwarded-For; port 0 if it tells none. None if `text` is
    no address."""
    match = _NODE.fullmatch(text.strip(" \t"))
    if match is None:
        return None
    address = parse_address(match["bracketed"] or match["v4"] or match["bare"])
    port = int(match["port"] or match["v4_port"] or 0)
    return None if address is None or port > 65_535 else (str(address), port)


def parse_network(text: str) -> Network:
    """The network of an entry in the configuration: "10.0.0.0/8", or an address for itself. Raises ValueError."""
    address, slash, prefix = text.strip().partition("/")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    try:
        network = ipaddress.ip_network(address + slash + prefix)
    except ValueError as error:
        if parse_node(address) is not None and parse_address(address) is None:
            raise ValueError(f"{text!r} has a port: peers are trusted by address, whatever their port") from None
        raise ValueError(f"{text!r} is not a network or address: {error}") from None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network
