"""Deletes readings in the background: of a key, a period, or a deleted device; and keys that no device has any more.

An order is a row of `Deletion`, which also says how far it has come: a gateway that is killed loses nothing, and any
gateway of the database goes on. A slice is one transaction of about SLICE_S, in the thread that
commits readings, between two commits: a commit waits for one slice at most. Then there is a pause twice as long.

A device is gone when its row is: its name is free, its readings are not shown, its connections end, and its data are
deleted later.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import AbstractBaseUser
from django.contrib.contenttypes.models import ContentType
from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from django.utils import timezone

from devices import metrics
from devices.limits import configured
from devices.models import Deletion, Device, Key, LatestValue, Reading, now_ms
from devices.writers.base import KEYS, LATEST, READINGS
from gateway.databases.abortable import AbortableConnection
from gateway.db import close_old_connections, one_line
from protocols.log_lines import RateLimitedLog

logger = logging.getLogger("gateway.devices")

POLL_INTERVAL_S: Final = 1.0
HOUSEKEEPING_INTERVAL_S: Final = 3_600.0
SLICE_S: Final = 0.01
SLICE_LIMIT_S: Final = 5.0
"""How long a slice may wait for the database: commits of readings wait behind it."""
FIRST_SLICE: Final = 500
SMALLEST_SLICE: Final = 100
LARGEST_SLICE: Final = 10_000
LOCK_TIMEOUT_MS: Final = 100
STATEMENT_TIMEOUT_MS: Final = 2_000
"""What a slice may wait for, on PostgreSQL: commits wait behind it."""
IDS_AT_ONCE: Final = 500
"""Keys or devices that housekeeping looks at in one slice."""
KEEP_FINISHED: Final = timedelta(days=90)

T = TypeVar("T")
BetweenCommits: TypeAlias = "Callable[[Callable[[], T]], Awaitable[T]]"
"""Calls a function in the thread that commits readings."""


def delete_readings(
    device: Device,
    *,
    key: Key | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    user: AbstractBaseUser | None = None,
) -> Deletion:
    """Orders the readings of `device` to be deleted that have been received by now: of one key or all, of
    since_ms <= ts < until_ms, None being without that bound. A gateway that runs begins within a second. `user` is
    recorded as who has ordered it."""
    order = Deletion.of(device, key, since_ms, until_ms, None if user is None else user.pk)
    order.save()
    return order


def follow_deleted(sender: type[Device], instance: Device, **kwargs: Any) -> None:
    """A receiver of pre_delete: orders the data of a device that is deleted to be deleted, whoever deletes it."""
    Deletion.objects.create(device_id=instance.pk, device_name=instance.name)


@dataclass(frozen=True, slots=True)
class Slice:
    """What was done in one transaction."""

    device_id: int
    deleted: int
    work_s: float
    """Without the commit, whose time does not depend on how much there is."""
    whole_s: float


def delete_slice(limit: int) -> Slice | None:
    """Goes on with the first order that no other gateway is working at: `limit` readings at most. Returns None if there
    is none. Raises what the database driver raises; nothing is done then."""
    if not Deletion.objects.filter(finished_at=None).exists():  # without the lock that SQLite has for the rest
        return None
    with transaction.atomic():
        _wait_briefly()
        deletion = Deletion.objects.select_for_update(skip_locked=True).filter(finished_at=None).order_by("pk").first()
        if deletion is None:
            return None
        began = time.perf_counter()
        before = deletion.deleted
        while deletion.finished_at is None and deletion.deleted - before < limit:
            _go_on(deletion, limit - (deletion.deleted - before))
            if time.perf_counter() - began > SLICE_S:
                break
        deletion.save(update_fields=["next_key_id", "next_ts", "deleted", "finished_at"])
        work_s = time.perf_counter() - began
    metrics.readings_deleted.inc(deletion.deleted - before)
    if deletion.finished_at is not None:
        _log_finished(deletion)
    return Slice(deletion.device_id, deletion.deleted - before, work_s, time.perf_counter() - began)


def _wait_briefly() -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            cursor.execute(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}")


def _go_on(deletion: Deletion, limit: int) -> None:
    """Deletes up to `limit` readings of the next key, and notes how far it has come."""
    key_id = _next_key(deletion)
    if key_id is None:
        deletion.finished_at = timezone.now()
        return
    place = deletion.next_ts if key_id == deletion.next_key_id else None
    deleted, rest = _delete_some(deletion, key_id, place, limit)
    deletion.deleted += deleted
    if rest is None:
        _settle_latest(deletion, key_id)
    deletion.next_key_id, deletion.next_ts = (key_id + 1, None) if rest is None else (key_id, rest)


def _next_key(deletion: Deletion) -> int | None:
    """The first key that is not done."""
    if deletion.key_id is not None:
        return deletion.key_id if deletion.next_key_id <= deletion.key_id else None
    if deletion.next_ts is not None:  # to look for it would be to go through what was deleted of it
        return deletion.next_key_id
    return _first("key_id", {"device_id": deletion.device_id, "key_id__gte": deletion.next_key_id})


def _delete_some(deletion: Deletion, key_id: int, place: int | None, limit: int) -> tuple[int, int | None]:
    """Deletes `limit` readings of a key from the time `place` on, along the primary key. Returns how many, and the
    time of the first that is left; None if none is."""
    since = deletion.since if place is None else place
    readings = f"FROM {READINGS} WHERE device_id = %s AND key_id = %s AND received <= %s AND ts >= %s AND ts"
    chosen = [deletion.device_id, key_id, deletion.received_until, since]
    with connection.cursor() as cursor:
        following = f"SELECT ts, seq {readings} < %s ORDER BY ts, seq LIMIT 1 OFFSET %s"
        cursor.execute(following, [*chosen, deletion.until, limit])
        rest: tuple[int, int] | None = cursor.fetchone()
        if rest is None:
            cursor.execute(f"DELETE {readings} < %s", [*chosen, deletion.until])
            return cursor.rowcount, None
        # Of `(ts, seq) < (%s, %s)` alone SQLite makes no bound of the search, and looks at all readings of the key.
        cursor.execute(f"DELETE {readings} <= %s AND (ts, seq) < (%s, %s)", [*chosen, rest[0], *rest])
        return cursor.rowcount, rest[0]


def _settle_latest(deletion: Deletion, key_id: int) -> None:
    """Finds the latest value of a key anew, if it was deleted; without readings, the device has the key no more."""
    if deletion.received_until_ms is None:  # the device is gone, and what comes late is found by `find_orphans`
        LatestValue.with_future.filter(device_id=deletion.device_id, key_id=key_id).delete()
        return
    # Who commits a reading of the key meanwhile waits for this row, or has done so before the look at the readings.
    locked = LatestValue.with_future.select_for_update()
    latest = locked.filter(device_id=deletion.device_id, key_id=key_id).first()
    if latest is None or not deletion.since <= latest.ts < deletion.until:
        return
    if latest.received > deletion.received_until:
        return
    now, skew = now_ms(), configured().max_clock_skew_ms
    left = f"SELECT ts, received, number, text FROM {READINGS} WHERE device_id = %s AND key_id = %s"  # noqa: S608
    newest = "ORDER BY ts DESC, received DESC, seq DESC LIMIT 1"
    with connection.cursor() as cursor:
        cursor.execute(
            f"{left} AND ts <= %s AND ts - %s <= received AND received <= %s {newest}",
            [deletion.device_id, key_id, now + skew, skew, now],
        )
        row = cursor.fetchone()
        if row is None:  # but perhaps of a clock that is ahead
            cursor.execute(f"{left} {newest}", [deletion.device_id, key_id])
            row = cursor.fetchone()
    if row is None:
        latest.delete()
    else:
        latest.ts, latest.received, latest.number, latest.text = row
        latest.save()


def _log_finished(deletion: Deletion) -> None:
    by = f", ordered by {deletion.requested_by}" if deletion.requested_by is not None else ""
    logger.info("deleted %d readings: %s%s", deletion.deleted, deletion, by)
    if deletion.requested_by is not None:
        LogEntry.objects.create(
            user_id=deletion.requested_by.pk,
            content_type=ContentType.objects.get_for_model(Device),
            object_id=str(deletion.device_id),
            object_repr=deletion.device_name[:200],
            action_flag=CHANGE,
            change_message=f"Deleted {deletion.deleted} readings: {deletion}.",
        )


def free_keys(after: int) -> int | None:
    """Deletes the names of keys that no device has, among the next IDS_AT_ONCE; returns where to go on."""
    ids = list(Key.objects.filter(pk__gt=after).order_by("pk").values_list("pk", flat=True)[:IDS_AT_ONCE])
    if not ids:
        metrics.keys.set(Key.objects.count())
        return None
    is_used = f"EXISTS (SELECT 1 FROM {LATEST} WHERE {LATEST}.key_id = {KEYS}.id)"  # noqa: S608
    unused = f"FROM {KEYS} WHERE id BETWEEN %s AND %s AND NOT {is_used}"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT 1 {unused} LIMIT 1", [ids[0], ids[-1]])
        if cursor.fetchone() is not None:
            with transaction.atomic():
                _wait_briefly()
                cursor.execute(f"DELETE {unused}", [ids[0], ids[-1]])
    return ids[-1]


def find_orphans(after: int) -> int | None:
    """Orders the data of devices to be deleted that are gone, among the next IDS_AT_ONCE that have data: something may
    have been on its way when they were deleted. Returns where to go on."""
    with transaction.atomic():
        _wait_briefly()
        began = time.perf_counter()
        ids: set[int] = set()
        place: int | None = after
        while place is not None and len(ids) < IDS_AT_ONCE and time.perf_counter() - began < SLICE_S:
            place = _first("device_id", {"device_id__gt": place})
            if place is not None:
                ids.add(place)
        there = Device.objects.filter(pk__in=ids).values_list("pk", flat=True)
        ordered = Deletion.objects.filter(finished_at=None, device_id__in=ids).values_list("device_id", flat=True)
        for device_id in sorted(ids - set(there) - set(ordered)):
            Deletion.objects.create(device_id=device_id, device_name=f"device {device_id}, deleted before")
    return place


def _first(column: str, chosen: dict[str, int]) -> int | None:
    """The least id in a column of what is stored, readings or latest values: one step in the index of each."""
    firsts = [
        rows.filter(**chosen).order_by(column).values_list(column, flat=True).first()
        for rows in (Reading.objects, LatestValue.with_future)
    ]
    return min((first for first in firsts if first is not None), default=None)


def forget_finished(after: int) -> None:
    """Deletes the record of what was deleted long ago."""
    Deletion.objects.filter(finished_at__lt=timezone.now() - KEEP_FINISHED).delete()


class Deleter:
    """Carries out deletions, slice by slice, in one task."""

    def __init__(self, between_commits: Any, *, forget_keys: Callable[[int], None]) -> None:
        """`between_commits` awaits a function that is called in the thread that commits. `forget_keys` is called with
        a device of which readings were deleted, and may have been all of a key."""
        self._between_commits = between_commits
        self._forget_keys = forget_keys
        self._limit = FIRST_SLICE
        self._limited_log = RateLimitedLog(logger, 60.0)
        self._abortable = AbortableConnection()
        self._end: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> "asyncio.Task[None]":
        """Starts. Returns the task, which only `close` ends."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="deleter")
        return self._task

    async def close(self) -> None:
        """Ends after the slice that is being done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due_at = loop.time()
        while True:
            try:
                is_due = loop.time() >= due_at
                if await self._delete() or is_due:
                    await self._go_through(free_keys)
                if is_due:
                    await self._go_through(find_orphans)
                    await self._go_through(forget_finished)
                    due_at = loop.time() + HOUSEKEEPING_INTERVAL_S
            except Exception as error:  # whatever a driver raises: what is left to do is in the database
                self._limited_log.warning("cannot delete readings now, trying again: %s", one_line(error))
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _delete(self) -> bool:
        """Deletes all there is to delete; returns whether there was something."""
        was_something = False
        while (done := await self._slice(partial(delete_slice, self._limit))) is not None:
            was_something = True
            self._forget_keys(done.device_id)
            if done.deleted >= self._limit or done.work_s > SLICE_S:
                fitting = self._limit * min(2.0, max(0.5, SLICE_S / done.work_s))
                self._limit = max(SMALLEST_SLICE, min(LARGEST_SLICE, round(fitting)))
            await asyncio.sleep(2 * done.whole_s)
        return was_something

    async def _go_through(self, step: Callable[[int], int | None]) -> None:
        place: int | None = 0
        while place is not None:
            place = await self._slice(partial(step, place))
            await asyncio.sleep(SLICE_S)

    async def _slice(self, function: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        began = partial(loop.call_soon_threadsafe, self._limit_slice)
        try:
            result: T = await self._between_commits(partial(self._with_database, function, began))
        finally:
            if self._end is not None:
                self._end.cancel()
                self._end = None
        return result

    def _limit_slice(self) -> None:
        """A slice has begun: commits wait for it, also if the database never answers."""
        self._end = asyncio.get_running_loop().call_later(SLICE_LIMIT_S, self._abortable.abort)

    def _with_database(self, function: Callable[[], T], began: Callable[[], object]) -> T:
        """In the thread that commits."""
        began()
        try:
            with self._abortable.using(connections[DEFAULT_DB_ALIAS]):
                return function()
        finally:
            close_old_connections()
