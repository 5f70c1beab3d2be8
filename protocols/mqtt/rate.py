"""How fast a client may send: first its socket is read no faster, then it is told to go. Sans I/O."""

from typing import Final

from protocols.limits import TokenBucket

_RECOVERED: Final = 0.1
"""Which part of a second's worth has to be left for a client to count as one that is not too fast."""


class Rate:
    """What one client sends, in messages and in bytes, and since when it has been slowed down."""

    __slots__ = ("_buckets", "_publishes", "_since")

    def __init__(self, *, messages_per_s: float, bytes_per_s: float, now: float) -> None:
        """0 is no limit."""
        limits = {"messages": messages_per_s, "bytes": bytes_per_s}
        self._buckets = {what: TokenBucket(per_s, per_s, now) for what, per_s in limits.items() if per_s}
        self._since: float | None = None
        self._publishes = 0

    def received(self, *, publishes: int, size: int, now: float) -> tuple[float, str]:
        """Takes what has come: `publishes` in all so far, `size` bytes since the last call. Returns for how long
        nothing more should be read, and what there is too much of."""
        amounts = {"messages": publishes - self._publishes, "bytes": size}
        self._publishes = publishes
        keeps = [bucket.left(now) >= _RECOVERED * bucket.per_s for bucket in self._buckets.values()]
        if all(keeps):
            self._since = None
        for what, bucket in self._buckets.items():
            bucket.take(amounts[what])
        pause_s, what = max((bucket.wait_s(0, now), what) for what, bucket in self._buckets.items())
        if pause_s and self._since is None:
            self._since = now
        return pause_s, what

    def slowed_s(self, now: float) -> float:
        """For how long the client has been slowed down without a break."""
        return 0.0 if self._since is None else now - self._since
