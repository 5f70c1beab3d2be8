"""So many at once, then so many a second. Sans I/O: `now` is an argument, in seconds."""


class TokenBucket:
    """Begins full."""

    __slots__ = ("_as_of", "_burst", "_per_s", "_tokens")

    def __init__(self, burst: float, per_s: float, now: float) -> None:
        self._burst = self._tokens = burst
        self._per_s = per_s
        self._as_of = now

    def has_one(self, now: float) -> bool:
        """Whether there is one to `take`."""
        self._tokens = min(self._burst, self._tokens + (now - self._as_of) * self._per_s)
        self._as_of = now
        return self._tokens >= 1

    def take(self) -> None:
        """Takes one that there is."""
        self._tokens -= 1
