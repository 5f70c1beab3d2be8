"""Counts of a simulation."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

_GROWTH: Final = math.log(1.02)


class Latencies:
    """Times in buckets that are 2 % apart, so that any number of them takes no more memory."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def note(self, seconds: float) -> None:
        """Counts one."""
        self._buckets[round(math.log(max(seconds, 1e-6)) / _GROWTH)] += 1

    def quantile_ms(self, share: float) -> float | None:
        """What `share` of all did not exceed, in milliseconds; None without any."""
        wanted = share * self._buckets.total()
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                return round(math.exp(bucket * _GROWTH) * 1_000, 2)
        return None


@dataclass(slots=True)
class Tally:
    """What has become of all that was sent: sent = acknowledged + refused + lost + what has no answer yet."""

    connected: int = 0
    reconnects: int = 0
    connections_refused: int = 0
    """Refused by the gateway, or not to be had."""
    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    lost: int = 0
    """Under way when their connection ended."""
    not_sent: int = 0
    """Were due while the device was not connected, or had as many under way as it may."""
    commands_answered: int = 0
    latencies: Latencies = field(default_factory=Latencies)

    def as_dict(self) -> dict[str, Any]:
        """The counts, and the times from publish to acknowledgement."""
        counts = {name: getattr(self, name) for name in self.__slots__ if name != "latencies"}
        return counts | {
            "latency_p50_ms": self.latencies.quantile_ms(0.5),
            "latency_p99_ms": self.latencies.quantile_ms(0.99),
        }
