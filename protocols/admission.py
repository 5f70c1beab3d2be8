"""Who may connect: how many at a time, from one address, and how fast. One `Admission` for each listener. Sans I/O."""

from collections import Counter
from typing import Final

from protocols.addresses import network_of
from protocols.trusted import TrustedPeers

MAX_CONNECTIONS: Final = "max_connections"
MAX_PER_ADDRESS: Final = "max_connections_per_address"
MAX_RATE: Final = "max_connects_per_s"

Client = tuple[str, int] | None
"""As in a scope: None for a peer that has no address."""


class Admission:
    """Counts the open connections of a listener."""

    def __init__(
        self, *, connections: int, per_address: int = 0, per_s: float = 0, proxies: TrustedPeers | None = None
    ) -> None:
        """Each is the most that there may be; 0 is no limit of the latter two. A burst may be a second's worth.

        `per_address` does not hold for peers that have no address of their own: those of a Unix socket, and `proxies`,
        whose connections are everybody's.
        """
        self.open = 0
        self._connections = connections
        self._per_address = per_address
        self._per_s = per_s
        self._proxies = proxies or TrustedPeers(())
        self._by_network: Counter[str] = Counter()
        self._tokens = max(1.0, per_s)
        self._as_of = 0.0

    def enter(self, client: Client, now: float) -> str | None:
        """Counts a connection. Returns which limit it exceeds, if any; it counts until `leave` all the same."""
        self.open += 1
        crowded = False
        if self._has_share(client):
            network = network_of(client)
            self._by_network[network] += 1
            crowded = self._by_network[network] > self._per_address
        if self.open > self._connections:
            return MAX_CONNECTIONS
        if crowded:
            return MAX_PER_ADDRESS
        return MAX_RATE if self._per_s and not self._take(now) else None

    def leave(self, client: Client) -> None:
        """The connection has ended."""
        self.open -= 1
        if self._has_share(client):
            network = network_of(client)
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]

    def _has_share(self, client: Client) -> bool:
        return self._per_address > 0 and client is not None and client not in self._proxies

    def _take(self, now: float) -> bool:
        burst = max(1.0, self._per_s)
        self._tokens = min(burst, self._tokens + (now - self._as_of) * self._per_s)
        self._as_of = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
