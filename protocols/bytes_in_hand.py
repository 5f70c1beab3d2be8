"""How much of what peers have sent is held while more of it, or its turn, is awaited. One for each listener. Sans I/O.

Bodies of requests, from their first byte until the application has ended; WebSocket messages that are not complete;
heads that are not; requests that are sent ahead of the answer to another. What is held of one connection counts here
when it is more than UNCOUNTED_BYTES: small requests, which are nearly all, cost nothing, and are bounded by the number
of connections.
"""

from collections import Counter
from typing import Final

from protocols import metrics
from protocols.addresses import network_of
from protocols.trusted_peers import TrustedPeers

MAX_IN_ALL: Final = "max_body_bytes_in_all"
MAX_PER_ADDRESS: Final = "max_body_bytes_per_address"

UNCOUNTED_BYTES: Final = 4 * 1024

Client = tuple[str, int] | None
"""As in a scope: None for a peer that has no address."""


class BytesInHand:
    """Counts bytes by the address of the client, and in all."""

    def __init__(self, *, in_all: int, per_address: int, proxies: TrustedPeers) -> None:
        """Each is the most that there may be. Peers of a Unix socket and `proxies`, which speak for everybody, have no
        share of their own."""
        self.total = 0
        self._in_all = in_all
        self._per_address = per_address
        self._proxies = proxies
        self._by_network: Counter[str] = Counter()

    def hold(self, client: Client, size: int) -> str | None:
        """Counts `size` more bytes of `client`. If there are too many then, the name of the bound, and none is
        counted."""
        if self.total + size > self._in_all:
            return MAX_IN_ALL
        if self._has_share(client):
            network = network_of(client)
            if self._by_network[network] + size > self._per_address:
                self._forget_if_empty(network)
                return MAX_PER_ADDRESS
            self._by_network[network] += size
        self.total += size
        metrics.http_bytes_in_hand.inc(size)
        return None

    def release(self, client: Client, size: int) -> None:
        """These bytes are held no longer."""
        if self._has_share(client):
            network = network_of(client)
            self._by_network[network] -= size
            self._forget_if_empty(network)
        self.total -= size
        metrics.http_bytes_in_hand.dec(size)

    def _forget_if_empty(self, network: str) -> None:
        if not self._by_network[network]:
            del self._by_network[network]

    def _has_share(self, client: Client) -> bool:
        return client is not None and client not in self._proxies


class Holding:
    """What one connection, or one request, has of it."""

    __slots__ = ("_client", "_counted", "_in_hand")

    def __init__(self, in_hand: BytesInHand, client: Client) -> None:
        self._in_hand = in_hand
        self._client = client
        self._counted = 0

    def set(self, size: int) -> str | None:
        """It is `size` bytes now. Returns which bound that exceeds, if any; then it counts as it did."""
        counted = size if size > UNCOUNTED_BYTES else 0
        more = counted - self._counted
        if more > 0:
            exceeded = self._in_hand.hold(self._client, more)
            if exceeded is not None:
                return exceeded
        elif more:
            self._in_hand.release(self._client, -more)
        self._counted = counted
        return None
