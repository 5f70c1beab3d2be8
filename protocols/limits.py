"""How often and how many: token buckets, and how many may connect to a listener, from one address, and how fast.

Sans I/O: `now` is an argument, in seconds of any monotonic clock.
"""

from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Final

from protocols.addresses import network_of
from protocols.trusted_peers import TrustedPeers

REMEMBERED: Final = 10_000
"""How many keys have a bucket; of more, the one used least recently is forgotten, and begins anew."""

MAX_CONNECTIONS: Final = "max_connections"
MAX_PER_ADDRESS: Final = "max_connections_per_address"
MAX_RATE: Final = "max_connects_per_s"
MAX_RATE_OF_ADDRESS: Final = "max_connects_per_s_of_address"
"""No option: one address may have RATE_SHARE of `max_connects_per_s`."""

RATE_SHARE: Final = 0.5
Client = tuple[str, int] | None
"""As in a scope: None for a peer that has no address."""


class TokenBucket:
    """Holds up to `burst` tokens, is full at first, and gains `per_s` a second. Below zero it says what is owed."""

    __slots__ = ("_as_of", "_tokens", "burst", "per_s")

    def __init__(self, burst: float, per_s: float, now: float) -> None:
        self.burst = self._tokens = burst
        self.per_s = per_s
        self._as_of = now

    def left(self, now: float) -> float:
        """How many tokens there are."""
        self._tokens = min(self.burst, self._tokens + (now - self._as_of) * self.per_s)
        self._as_of = now
        return self._tokens

    def take(self, amount: float = 1) -> None:
        """Takes tokens, whether there are so many or not."""
        self._tokens -= amount

    def give_back(self, amount: float = 1) -> None:
        """Puts tokens back that were taken."""
        self._tokens = min(self.burst, self._tokens + amount)

    def wait_s(self, amount: float, now: float) -> float:
        """How long it is until there are `amount`; 0 if they are there."""
        return max(0.0, (amount - self.left(now)) / self.per_s)


class TokenBuckets:
    """A bucket for each key, of the REMEMBERED that were used last."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def of(self, key: Hashable, now: float) -> TokenBucket:
        """The bucket of `key`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._burst, self._per_s, now)
            if len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket

    def __len__(self) -> int:
        return len(self._buckets)


class ConnectionLimits:
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
        share = max(1.0, per_s * RATE_SHARE)
        self._rates = TokenBuckets(share, share)

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
            rates.append(self._rates.of(network_of(client), now))
        for rate, exceeded in zip(rates, (MAX_RATE, MAX_RATE_OF_ADDRESS), strict=False):
            if rate.left(now) < 1:
                return exceeded
        for rate in rates:
            rate.take()
        return None
