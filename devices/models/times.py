"""Times: integer milliseconds UTC where devices are concerned, and the clock that all gateways share."""

import time
from typing import Any

from django.db import models

from devices.values import instant


def now_ms() -> int:
    """The current time, as it is stored."""
    return time.time_ns() // 1_000_000


def shown_time(ms: int) -> str:
    """A time as people read it, to the second."""
    at = instant(ms)
    return f"{ms} ms" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


class DatabaseNow(models.Func):
    """The time (ms) by the clock that all gateways share: that of PostgreSQL, or of the machine with the file."""

    output_field = models.BigIntegerField()

    def as_sqlite(self, *args: Any, **kwargs: Any) -> tuple[str, tuple[int, ...]]:
        """This process's clock, which is every other's, too."""
        return "%s", (now_ms(),)

    def as_postgresql(self, *args: Any, **kwargs: Any) -> tuple[str, tuple[int, ...]]:
        """The server's clock at the beginning of the statement."""
        return "(extract(epoch FROM statement_timestamp()) * 1000)::bigint", ()
