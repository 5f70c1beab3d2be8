"""Which peers count as one: the network of an address."""

import ipaddress
from collections.abc import Sequence
from typing import Any


def network_of(client: Sequence[Any] | None) -> str:
    """What counts as one peer, for the `client` of a scope (address, port): one host of IPv4, one customer's network of
    IPv6, everybody at a Unix socket."""
    if client is None:
        return "unix"
    host = str(client[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
