"""Which peers are believed when they say for whom they speak: proxies, by network."""

import ipaddress
from collections.abc import Sequence
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNIX: Final = "unix"


class TrustedPeers:
    """Networks of addresses, and whether the peers of Unix sockets count too."""

    def __init__(self, trusted: Sequence[str]) -> None:
        """`trusted` are networks ("10.0.0.0/8", "::1") and "unix" for the peers of Unix sockets. Raises ValueError."""
        self._unix = UNIX in trusted
        self._networks: Sequence[Network] = [ipaddress.ip_network(each) for each in trusted if each != UNIX]

    def __bool__(self) -> bool:
        """Whether anybody is trusted."""
        return bool(self._networks) or self._unix

    def __contains__(self, client: tuple[str, int] | None) -> bool:
        """Whether the peer at this address is; None for one of a Unix socket."""
        return self._unix if client is None else self.has_address(client[0])

    def has_address(self, text: str) -> bool:
        """Whether `text` is an address in one of the networks."""
        address = parse_address(text)
        return address is not None and any(address in network for network in self._networks)


def parse_address(text: str) -> Address | None:
    """The IP address that `text` is; an IPv4 address that came by IPv6 counts as what it is. None for other text."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
