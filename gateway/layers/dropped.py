"""Dropped messages: counted each, told in the log at most once per interval."""

import logging
import time
from collections import Counter
from collections.abc import Callable

from gateway.metrics import layer_dropped

logger = logging.getLogger("gateway.layer")

LOG_INTERVAL_S = 10.0

FULL = "full"
EXPIRED = "expired"
GONE = "gone"
UNDECODABLE = "undecodable"
TOO_LARGE = "too_large"
UNAVAILABLE = "unavailable"
FAILED = "failed"


class DropLog:
    """Counts drops by reason in `gateway_layer_dropped_total` and logs them in one line per interval."""

    def __init__(self, *, interval_s: float = LOG_INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._logged_at = float("-inf")
        self._unlogged: Counter[str] = Counter()

    def add(self, reason: str, where: str, count: int = 1) -> None:
        """Counts `count` messages dropped for `reason`; `where` names the last channel or group in the log line."""
        layer_dropped.labels(reason).inc(count)
        if reason == GONE:
            return  # a receiver that left between send and delivery is no fault
        self._unlogged[reason] += count
        now = self._clock()
        if now - self._logged_at >= self._interval_s:
            self._logged_at = now
            counts = ", ".join(f"{count} {reason}" for reason, count in self._unlogged.items())
            self._unlogged.clear()
            logger.warning("messages dropped: %s; the last for %s", counts, where)
