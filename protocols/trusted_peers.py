"""Which peers are believed when they say for whom they speak: proxies, by network."""

from collections.abc import Sequence
from typing import Final

from protocols.addresses import Network, parse_address, parse_network

UNIX: Final = "unix"


def check_networks(trusted: tuple[str, ...]) -> tuple[str, ...]:
    """The networks as TrustedPeers takes them. Raises ValueError for what it cannot take. The check of options."""
    TrustedPeers(trusted)
    return trusted


class TrustedPeers:
    """Networks of addresses, and whether the peers of Unix sockets count too."""

    def __init__(self, trusted: Sequence[str]) -> None:
        """`trusted` are networks ("10.0.0.0/8", "::1", "[::1]") and "unix" for the peers of Unix sockets.

        Raises ValueError.
        """
        self._unix = UNIX in trusted
        self._networks: Sequence[Network] = [parse_network(each) for each in trusted if each != UNIX]

    def __bool__(self) -> bool:
        """Whether anybody is trusted."""
        return bool(self._networks) or self._unix

    def __contains__(self, client: tuple[str, int] | None) -> bool:
        """Whether the peer at this address is; None for one of a Unix socket."""
        return self._unix if client is None else self.has_address(client[0])

    def has_address(self, text: str) -> bool:
        """Whether `text`, which may be that of a socket and have a zone, is an address in one of the networks."""
        if not self._networks:
            return False
        address = parse_address(text.partition("%")[0])
        return address is not None and any(address in network for network in self._networks)
