"""Reads history for charts. The database makes buckets: a chart gets as many points as it has room for, never all
rows."""

from dataclasses import dataclass

from django.db import connection

from devices.limits import configured
from devices.models import LatestValue
from devices.writers.base import KEYS, READINGS


@dataclass(frozen=True, slots=True)
class Bucket:
    """The numbers of one bucket. `ts` is that of its newest reading, in ms UTC, so that gaps stay gaps."""

    ts: int
    mean: float
    minimum: float
    maximum: float
    count: int


def end_of(device_id: int, key: str, now_ms: int) -> int:
    """Where a chart of `key` ends: now, or after the latest value, which is later if the device's clock is ahead."""
    latest = LatestValue.objects.filter(device_id=device_id, key__name=key).values_list("ts", flat=True).first()
    if latest is None or not now_ms <= latest <= now_ms + configured().max_clock_skew_ms:
        return now_ms
    return latest + 1


def history(device_id: int, key: str, start_ms: int, end_ms: int, buckets: int) -> list[Bucket]:
    """The numbers of `key` in start_ms <= ts < end_ms, oldest first, in at most `buckets` buckets of equal width.

    Readings without a number (text, objects) are left out. Raises ValueError for an empty range.
    """
    if end_ms <= start_ms or buckets < 1:
        raise ValueError(f"expected start_ms < end_ms and buckets > 0, got {start_ms}, {end_ms}, {buckets}")
    width_ms = -(-(end_ms - start_ms) // buckets)
    query = f"""
        SELECT max(ts), avg(number), min(number), max(number), count(*)
        FROM {READINGS}
        WHERE device_id = %s AND key_id = (SELECT id FROM {KEYS} WHERE name = %s)
            AND ts >= %s AND ts < %s AND number IS NOT NULL
        GROUP BY (ts - %s) / %s
        ORDER BY 1
    """  # noqa: S608  table names are constants
    with connection.cursor() as cursor:
        cursor.execute(query, [device_id, key, start_ms, end_ms, start_ms, width_ms])
        return [Bucket(*row) for row in cursor.fetchall()]
