"""Keeps the last refusals of each device, and of clients that are none, in the database: for `gateway explain` and the
page of the device.

They are written in the background, in batches, in a thread of its own: no acknowledgement waits for one, and none is
worth a delay of a reading. So what a peer can cause is bounded at each step: a share of each device (or address) and
kind, what waits, and what is kept. What is left out is counted, and is in the other counters all the same.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from django.db import Error as DatabaseFault
from django.db.models import F, Window
from django.db.models.functions import RowNumber

from devices import metrics
from devices.models import Device, RecordedRefusal, now_ms
from devices.observers import Observer
from devices.refusals import Refusal
from gateway.databases.thread import DatabaseThread
from gateway.db import is_outage, one_line
from protocols.addresses import network_of
from protocols.limits import TokenBuckets
from protocols.log_lines import RateLimitedLog
from protocols.masking import printable

logger = logging.getLogger("gateway.devices")

KEPT_OF_DEVICE: Final = 100
KEPT_OF_UNKNOWN: Final = 1_000
"""Refusals of all that are no device, together."""
AT_ONCE: Final = 20
"""Refusals of one device (or address) and kind that are kept at once."""
REFILL_S: Final = 5.0
"""Then there is one in so many seconds."""
MAX_WAITING: Final = 500
"""Refusals that wait to be written, which is as many as are written in WRITE_INTERVAL_S."""
WRITE_INTERVAL_S: Final = 1.0

_TEXTS: Final = {
    name: RecordedRefusal._meta.get_field(name).max_length  # type: ignore[union-attr]
    for name in ("claimed", "wire", "address", "kind", "what", "reason")
}


class RefusalRecorder(Observer):
    """Writes refusals to the database, in one task. Several processes may write to the same."""

    def __init__(
        self,
        *,
        interval_s: float = WRITE_INTERVAL_S,
        now_ms: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now_ms` and `monotonic` are the clocks, that of people and one in seconds that nobody puts right."""
        self._interval_s = interval_s
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._shares = TokenBuckets(AT_ONCE, 1 / REFILL_S)
        self._waiting: list[tuple[int, Refusal]] = []
        self._arrived = asyncio.Event()
        self._thread = DatabaseThread("refusals")
        self._limited_log = RateLimitedLog(logger)
        self._task: asyncio.Task[None] | None = None

    def refused(self, refusal: Refusal) -> None:
        """Has a refusal written soon, or leaves it out. Never waits, and never raises."""
        now = self._monotonic()
        peer = network_of((refusal.address,)) if refusal.device_id is None else refusal.device_id
        share = self._shares.of((peer, refusal.kind), now)
        if share.left(now) < 1:
            metrics.refusals_left_out.labels("share").inc()
        elif len(self._waiting) >= MAX_WAITING:
            metrics.refusals_left_out.labels("too_many").inc()
        else:
            share.take()
            self._waiting.append((self._now_ms(), refusal))
            self._arrived.set()

    def start(self) -> "asyncio.Task[None]":
        """Starts writing. Returns the task, which only `close` ends."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="refusals")
        return self._task

    async def close(self) -> None:
        """Writes what waits, if the database takes it now, and stops."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting:
            await self._write_waiting()
        await self._thread.close()

    def forget(self) -> None:
        """The database is another now: in that one the devices of what waits may be others."""
        metrics.refusals_left_out.labels("database").inc(len(self._waiting))
        self._waiting.clear()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self._write_waiting()
            await asyncio.sleep(self._interval_s)

    async def _write_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            await self._thread.call(_insert, self._note_failure, batch)
        except Exception as error:  # whatever a driver raises, or the start of a thread
            self._note_failure(one_line(error))
            if isinstance(error, DatabaseFault) and not is_outage(error):
                metrics.refusals_left_out.labels("database").inc(len(batch))
            else:
                self._put_back(batch)
            return
        metrics.refusals_recorded.inc(len(batch))
        try:
            await self._thread.call(_trim, self._note_failure, {refusal.device_id for _, refusal in batch})
        except Exception as error:  # the next refusal of each makes up for it
            self._note_failure(one_line(error))

    def _put_back(self, batch: list[tuple[int, Refusal]]) -> None:
        """Has a batch tried again, as far as there is room: the oldest are left out."""
        everything = batch + self._waiting
        self._waiting = everything[-MAX_WAITING:]
        metrics.refusals_left_out.labels("too_many").inc(len(everything) - len(self._waiting))
        self._arrived.set()

    def _note_failure(self, why: str) -> None:
        self._limited_log.warning("cannot record what was refused: %s", why)


# In the thread


def _insert(batch: Sequence[tuple[int, Refusal]]) -> None:
    named = {refusal.device_id for _, refusal in batch if refusal.device_id is not None}
    there = set(Device.objects.filter(pk__in=named).values_list("pk", flat=True))
    RecordedRefusal.objects.bulk_create(_row(at_ms, refusal, there) for at_ms, refusal in batch)


def _row(at_ms: int, refusal: Refusal, there: Collection[int]) -> RecordedRefusal:
    texts: dict[str, Any] = {name: printable(getattr(refusal, name))[:most] for name, most in _TEXTS.items()}
    return RecordedRefusal(
        device_id=refusal.device_id if refusal.device_id in there else None,
        code=refusal.code,
        sample=refusal.sample.content,
        sample_start=refusal.sample.start,
        fault=refusal.sample.fault,
        at_ms=at_ms,
        **texts,
    )


def _trim(device_ids: Collection[int | None]) -> None:
    """Deletes all but the last ones of each of these, None being who is no device. Looks first: on SQLite the look
    keeps nobody from writing."""
    known = RecordedRefusal.objects.filter(device__in=[each for each in device_ids if each is not None])
    for refusals, most in (
        (known, KEPT_OF_DEVICE),
        (RecordedRefusal.objects.filter(device=None), KEPT_OF_UNKNOWN),
    ):
        newest_first = Window(RowNumber(), partition_by=F("device"), order_by=F("pk").desc())
        beyond = refusals.annotate(place=newest_first).filter(place__gt=most)
        RecordedRefusal.objects.filter(pk__in=list(beyond.values_list("pk", flat=True))).delete()
