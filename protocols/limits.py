"""Who may connect: how many at a time, from one address, and how fast. One `Admission` for each listener. Sans I/O."""

from collections import Counter, OrderedDict
from typing import Final

from protocols.addresses import network_of
from protocols.token_bucket import TokenBucket
from protocols.trusted_peers import TrustedPeers

MAX_CONNECTIONS: Final = "max_connections"
MAX_PER_ADDRESS: Final = "max_connections_per_address"
MAX_RATE: Final = "max_connects_per_s"
MAX_RATE_OF_ADDRESS: Final = "max_connects_per_s_of_address"
"""No option: one address may have RATE_SHARE of `max_connects_per_s`."""

RATE_SHARE: Final = 0.5
RATES: Final = 10_000
"""Addresses whose rates are known; those that connected least recently are forgotten, and begin anew."""

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
        self._rate = TokenBucket(max(1.0, per_s), per_s, 0.0)
        self._rates: OrderedDict[str, TokenBucket] = OrderedDict()

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
        return self._too_fast(client, now) if self._per_s else None

    def leave(self, client: Client) -> None:
        """The connection has ended."""
        self.open -= 1
        if self._has_share(client):
            network = network_of(client)
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]

    def _has_share(self, client: Client) -> bool:
        return self._per_address > 0 and self._has_address(client)

    def _has_address(self, client: Client) -> bool:
        return client is not None and client not in self._proxies

    def _too_fast(self, client: Client, now: float) -> str | None:
        rates = [self._rate]
        if self._has_address(client):
            rates.append(self._rate_of(network_of(client), now))
        for rate, exceeded in zip(rates, (MAX_RATE, MAX_RATE_OF_ADDRESS), strict=False):
            if not rate.has_one(now):
                return exceeded
        for rate in rates:
            rate.take()
        return None

    def _rate_of(self, network: str, now: float) -> TokenBucket:
        rate = self._rates.get(network)
        if rate is None:
            share = max(1.0, self._per_s * RATE_SHARE)
            rate = self._rates[network] = TokenBucket(share, share, now)
            if len(self._rates) > RATES:
                self._rates.popitem(last=False)
        else:
            self._rates.move_to_end(network)
        return rate
