"""What this process cannot do now about devices, and tries again: in the log, in the counters, and for /readyz."""

import logging
from collections.abc import Callable
from typing import Final

from devices import metrics
from protocols.log_lines import RateLimitedLog

logger: Final = logging.getLogger("gateway.devices")


class Failures:
    """Those of the tasks of one part. What is done is named as it follows "cannot"."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._limited_log = RateLimitedLog(logger)

    @property
    def first(self) -> str | None:
        """What fails now, and why; None while all is well."""
        return next((f"cannot {what}: {why}" for what, why in self._reasons.items()), None)

    def slow(self, what: str) -> Callable[[str], None]:
        """What DatabaseThread.call is to call if this is slow."""
        return lambda why: self.note(what, why)

    def note(self, what: str, why: str) -> None:
        """It has failed, and will be tried again."""
        self._reasons[what] = why
        metrics.watch_failures.labels(what).inc()
        self._limited_log.error("cannot %s, trying again: %s", what, why, kind=what)

    def over(self, what: str) -> None:
        """It has been done."""
        if self._reasons.pop(what, None) is not None:
            logger.warning("can %s again", what)
