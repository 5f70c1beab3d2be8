"""Dropped messages: each is counted, and the log gets at most one line per interval."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from gateway.metrics import layer_dropped
from protocols.log_lines import LINE_INTERVAL_S, RateLimitedLog

logger = logging.getLogger("gateway.layer")

FULL: Final = "full"
EXPIRED: Final = "expired"
GONE: Final = "gone"
UNDECODABLE: Final = "undecodable"
TOO_LARGE: Final = "too_large"
UNAVAILABLE: Final = "unavailable"
FAILED: Final = "failed"


class DropLog:
    """Counts drops by reason in `gateway_layer_dropped_total` and logs them in one line per interval."""

    def __init__(self, *, interval_s: float = LINE_INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._limited_log = RateLimitedLog(logger, interval_s, clock)
        self._unlogged: Counter[str] = Counter()

    def add(self, reason: str, where: str, count: int = 1) -> None:
        """Counts `count` messages dropped for `reason`; `where` names the last channel or group in the log line."""
        layer_dropped.labels(reason).inc(count)
        if reason == GONE:
            return  # a receiver that left between send and delivery is no fault
        self._unlogged[reason] += count
        if self._limited_log.take("drops") is not None:
            unlogged, self._unlogged = self._unlogged, Counter()
            counts = ", ".join(f"{number} {reason}" for reason, number in unlogged.items())
            logger.warning("messages dropped: %s; the last for %s", counts, where)
