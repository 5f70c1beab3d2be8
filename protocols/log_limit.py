"""At most one log line per interval, for what a peer may cause as often as it likes."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable


class LogLimit:
    """Says whether a line may be logged now, and how many were not since the last one."""

    __slots__ = ("_clock", "_interval_s", "_logged_at", "_suppressed")

    def __init__(self, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._logged_at = float("-inf")
        self._suppressed = 0

    def take(self) -> int | None:
        """The number of lines suppressed since the last one, if this one may be logged; else None."""
        now = self._clock()
        if now - self._logged_at < self._interval_s:
            self._suppressed += 1
            return None
        self._logged_at = now
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


class LogLimits:
    """A LogLimit for each key, so that a noisy peer does not hide another."""

    def __init__(
        self, interval_s: float = 10.0, *, size: int = 1_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Of more than `size` keys, the one that was used least recently is forgotten."""
        self._interval_s = interval_s
        self._size = size
        self._clock = clock
        self._limits: OrderedDict[Hashable, LogLimit] = OrderedDict()

    def take(self, key: Hashable) -> int | None:
        """As LogLimit.take, for lines about `key`."""
        limit = self._limits.get(key)
        if limit is None:
            limit = self._limits[key] = LogLimit(self._interval_s, self._clock)
            if len(self._limits) > self._size:
                self._limits.popitem(last=False)
        self._limits.move_to_end(key)
        return limit.take()
