"""How fast a client may send: first its socket is read no faster, then it is told to go. Sans I/O."""

from typing import Final

_RECOVERED: Final = 0.1
"""Which part of a second's worth has to be left for a client to count as one that is not too fast."""


class _Bucket:
    """Holds a second's worth, is drawn upon and fills again; below zero it says how long that takes."""

    __slots__ = ("_as_of", "_left", "_per_s")

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._left = per_s
        self._as_of = now

    def draw(self, amount: float, now: float) -> bool:
        """Returns whether there was enough left before."""
        self._left = min(self._per_s, self._left + (now - self._as_of) * self._per_s)
        self._as_of = now
        enough = self._left >= _RECOVERED * self._per_s
        self._left -= amount
        return enough

    @property
    def pause_s(self) -> float:
        """How long until nothing is owed."""
        return max(0.0, -self._left / self._per_s)


class Rate:
    """What one client sends, in messages and in bytes, and since when it has been slowed down."""

    __slots__ = ("_buckets", "_publishes", "_since")

    def __init__(self, *, messages_per_s: float, bytes_per_s: float, now: float) -> None:
        """0 is no limit."""
        limits = {"messages": messages_per_s, "bytes": bytes_per_s}
        self._buckets = {what: _Bucket(per_s, now) for what, per_s in limits.items() if per_s}
        self._since: float | None = None
        self._publishes = 0

    def received(self, *, publishes: int, size: int, now: float) -> tuple[float, str]:
        """Takes what has come: `publishes` in all so far, `size` bytes since the last call. Returns for how long
        nothing more should be read, and what there is too much of."""
        amounts = {"messages": publishes - self._publishes, "bytes": size}
        self._publishes = publishes
        keeps = [bucket.draw(amounts[what], now) for what, bucket in self._buckets.items()]
        if all(keeps):
            self._since = None
        what, slowest = max(self._buckets.items(), key=lambda item: item[1].pause_s)
        if slowest.pause_s and self._since is None:
            self._since = now
        return slowest.pause_s, what

    def slowed_s(self, now: float) -> float:
        """For how long the client has been slowed down without a break."""
        return 0.0 if self._since is None else now - self._since
