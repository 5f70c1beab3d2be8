"""Log lines that are bounded: those that a peer can cause, by `PeerLog`; others that may come often, by
`RateLimitedLog`. Both say in a later line how many were left out.

Of the lines that peers cause, the operator gets the first few of each peer and kind at once, then one an interval,
which says how many were left out; of all peers together no more than a disk can take. What no later line has told is
summed up in a line of its own, with the peers that have most. Counters count all of them, whatever the log says.
"""

import asyncio
import logging
import re
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, TypeAlias

from protocols import metrics
from protocols.addresses import network_of
from protocols.asgi import Scope
from protocols.limits import TokenBucket
from protocols.masking import printable, redact_path

LINES_AT_ONCE: Final = 5
"""Lines of one peer and kind that are logged at once."""
LINE_INTERVAL_S: Final = 10.0
"""Then there is one in so many seconds."""
LINES_AT_ONCE_IN_ALL: Final = 100
"""Lines of all peers that are logged at once."""
LINES_PER_S_IN_ALL: Final = 10.0
"""Then so many a second: about 100 MB a day, however many peers there are."""
SUMMARY_INTERVAL_S: Final = 60.0
SHARES: Final = 10_000
"""Pairs of peer and kind whose lines are counted; those that were used least recently are forgotten."""
NAMED: Final = 3
"""How many kinds and peers a summary names."""
SUMMED_PEERS: Final = 1_000
"""Peers that a summary counts apart, to name those with most."""

Peer: TypeAlias = Sequence[Any] | str | None
"""Who caused a line: the `client` of a scope (address and port, None at a Unix socket), or an identity that is known,
such as "device/22"."""

_PLACEHOLDER: Final = re.compile(r"%[-#0-9.]*[a-z]")
_ExcInfo: TypeAlias = (
    bool | BaseException | tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class RateLimitedLog:
    """A logger for lines that may come often, but not as often as a peer likes: of each kind one an interval.

        self._limited_log = RateLimitedLog(logger)
        self._limited_log.error("cannot commit, trying again: %s", failure)

    Lines are of one kind that have the same message, unless `kind` tells them apart. The kinds are few, and known to
    the code. For one thread at a time.
    """

    __slots__ = ("_clock", "_interval_s", "_kinds", "_logger")

    def __init__(
        self, logger: logging.Logger, interval_s: float = LINE_INTERVAL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}

    def take(self, kind: str) -> int | None:
        """The number of lines of `kind` that were suppressed since the last one, if this one may be logged; else None.
        For those who log it themselves."""
        logged_at, suppressed = self._kinds.get(kind, (float("-inf"), 0))
        now = self._clock()
        if now - logged_at < self._interval_s:
            self._kinds[kind] = logged_at, suppressed + 1
            return None
        self._kinds[kind] = now, 0
        return suppressed

    def warning(self, message: str, *args: object, kind: str | None = None) -> None:
        """Logs at level WARNING."""
        self._log(logging.WARNING, message, args, kind)

    def error(self, message: str, *args: object, kind: str | None = None) -> None:
        """Logs at level ERROR."""
        self._log(logging.ERROR, message, args, kind)

    def _log(self, level: int, message: str, args: tuple[object, ...], kind: str | None) -> None:
        suppressed = self.take(message if kind is None else kind)
        if suppressed is not None:
            self._logger.log(level, *_with_number(message, args, suppressed), stacklevel=3)


def _with_number(message: str, args: tuple[object, ...], suppressed: int) -> tuple[Any, ...]:
    """The message and its arguments, with the number of those that were left out before it."""
    return (f"{message} (%d more like it were not logged)", *args, suppressed) if suppressed else (message, *args)


class _Share(TokenBucket):
    """What one peer may have of one kind of line."""

    __slots__ = ("suppressed",)

    def __init__(self, now: float) -> None:
        super().__init__(LINES_AT_ONCE, 1 / LINE_INTERVAL_S, now)
        self.suppressed = 0
        """What was refused and is told nowhere yet."""


class LogShares:
    """What each peer, and all together, may have in the log. One for the process, used by every `PeerLog`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # lines come from threads, too
        self.forget()

    def forget(self) -> None:
        """As new: every peer may have its first lines again. For tests, which are all of one peer."""
        self._shares: OrderedDict[tuple[str, str], _Share] = OrderedDict()
        self._all = TokenBucket(LINES_AT_ONCE_IN_ALL, LINES_PER_S_IN_ALL, self._clock())
        self._forgotten: Counter[tuple[str, str]] = Counter()
        self._summary_at: float | None = None
        self._timer_loop: asyncio.AbstractEventLoop | None = None

    def take(self, peer: Peer, kind: str) -> int | None:
        """The number of lines of `peer` and `kind` that were suppressed since the last one, if this one may be logged;
        else None. The kind is one of a few that the code knows, never what a peer has chosen."""
        key = (peer if isinstance(peer, str) else network_of(peer), kind)
        now = self._clock()
        with self._lock:
            share = self._shares.get(key)
            if share is None:
                share = self._shares[key] = _Share(now)
                if len(self._shares) > SHARES:
                    forgotten, old = self._shares.popitem(last=False)
                    self._add_forgotten(forgotten, old.suppressed)
            else:
                self._shares.move_to_end(key)
            if share.left(now) >= 1 and self._all.left(now) >= 1:
                share.take()
                self._all.take()
                suppressed, share.suppressed = share.suppressed, 0
                return suppressed
            share.suppressed += 1
            if self._summary_at is None:
                self._summary_at = now + SUMMARY_INTERVAL_S
        metrics.log_lines_suppressed.inc()
        return None

    def summary(self) -> str | None:
        """What no line has told, if it is time to say it."""
        with self._lock:
            if self._summary_at is None or self._clock() < self._summary_at:
                return None
            self._summary_at = None
            untold = self._forgotten
            self._forgotten = Counter()
            for key, share in self._shares.items():
                if share.suppressed:
                    untold[key] += share.suppressed
                    share.suppressed = 0
        if not untold:
            return None
        peers: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        for (peer, kind), count in untold.items():
            peers[peer] += count
            kinds[_PLACEHOLDER.sub("…", kind)] += count
        return f"{untold.total()} lines were not logged: {_most(kinds)}; most of them of {_most(peers)}"

    def tell_later(self, tell: Callable[[], None]) -> None:
        """Has `tell` called when the summary is due, if an event loop runs here; else the next line looks."""
        if self._summary_at is None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._timer_loop is not loop:
            self._timer_loop = loop
            loop.call_later(self._summary_at - self._clock() + 0.01, self._tell, tell)

    def _tell(self, tell: Callable[[], None]) -> None:
        self._timer_loop = None
        tell()
        self.tell_later(tell)  # if somebody has told it before, and more has come since

    def _add_forgotten(self, key: tuple[str, str], count: int) -> None:
        if not count:
            return
        if key not in self._forgotten and len(self._forgotten) >= SUMMED_PEERS:
            key = ("others", key[1])
        self._forgotten[key] += count


log_shares: Final = LogShares()
"""Those of the process."""


class PeerLog:
    """A logger for lines that a peer can cause, within its share and that of all.

        peers = PeerLog("gateway.http")
        peers.info(scope.get("client"), "refused %s with %d", describe(scope), 400)

    Lines are of one kind that have the same message; `kind` tells apart those that have not, or joins it. Debug lines
    are the operator's wish, and need none of this.
    """

    __slots__ = ("_logger", "_shares")

    def __init__(self, name: str, shares: LogShares = log_shares) -> None:
        """`name` is the logger's."""
        self._logger = logging.getLogger(name)
        self._shares = shares

    def log(
        self,
        level: int,
        peer: Peer,
        message: str,
        *args: object,
        kind: str | None = None,
        exc_info: _ExcInfo | None = None,
        extra: Mapping[str, object] | None = None,
        stacklevel: int = 1,
    ) -> None:
        """Logs the line, unless `peer` has had its share of such lines; then a later one says how many there were."""
        if not self._logger.isEnabledFor(level):
            return
        if level <= logging.DEBUG:
            self._logger.log(level, message, *args, exc_info=exc_info, extra=extra, stacklevel=stacklevel + 1)
            return
        suppressed = self._shares.take(peer, message if kind is None else kind)
        if suppressed is not None:
            line = _with_number(message, args, suppressed)
            self._logger.log(level, *line, exc_info=exc_info, extra=extra, stacklevel=stacklevel + 1)
        self._summarise()
        self._shares.tell_later(self._summarise)

    def is_enabled_for(self, level: int) -> bool:
        """Whether lines of that level are logged at all."""
        return self._logger.isEnabledFor(level)

    def info(self, peer: Peer, message: str, *args: object, kind: str | None = None) -> None:
        """Logs at level INFO."""
        self.log(logging.INFO, peer, message, *args, kind=kind, stacklevel=2)

    def warning(self, peer: Peer, message: str, *args: object, kind: str | None = None) -> None:
        """Logs at level WARNING."""
        self.log(logging.WARNING, peer, message, *args, kind=kind, stacklevel=2)

    def error(
        self, peer: Peer, message: str, *args: object, kind: str | None = None, exc_info: _ExcInfo | None = None
    ) -> None:
        """Logs at level ERROR."""
        self.log(logging.ERROR, peer, message, *args, kind=kind, exc_info=exc_info, stacklevel=2)

    def _summarise(self) -> None:
        summary = self._shares.summary()
        if summary is not None:
            _summary_logger.warning("%s", summary)


_summary_logger: Final = logging.getLogger("gateway.log")


def _most(counts: Counter[str]) -> str:
    named = ", ".join(f"{name} ({count})" for name, count in counts.most_common(NAMED))
    return f"{named} and {len(counts) - NAMED} others" if len(counts) > NAMED else named


def describe(scope: Scope) -> str:
    """One line that says which connection this is, for a log: no query string, no header, no credential."""
    parts = [scope["type"]]
    if scope.get("method"):
        parts.append(scope["method"])
    if scope.get("path"):
        parts.append(redact_path(scope["path"]))
    if scope.get("client_id"):
        parts.append(printable(str(scope["client_id"])))
    client = scope.get("client")
    if client:
        parts.append(f"from {client[0]}:{client[1]}")
    return " ".join(parts)
