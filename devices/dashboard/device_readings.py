"""Reads the readings of one key of a device, page by page, for the admin."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

from devices.models import Key, LatestValue, Reading
from devices.queries import CodePoints, heads
from devices.values import Shown, shown

PAGE_SIZE: Final = 100


@dataclass(frozen=True, slots=True)
class ReadingsQuery:
    """Which readings: of `key` (empty: the first there is), between two times UTC, older than the cursor `before`."""

    key: str = ""
    since: str = ""
    until: str = ""
    before: tuple[int, int] | None = None

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> "ReadingsQuery":
        """Reads the parameters of an address; what is not understood is left out."""
        return cls(
            key=parameters.get("key", ""),
            since=_as_minute(parameters.get("since", "")),
            until=_as_minute(parameters.get("until", "")),
            before=_as_cursor(parameters.get("before", "")),
        )

    def address(self, key: str, before: tuple[int, int] | None) -> str:
        """The query string for the readings of `key` that are older than `before`."""
        fields = {"key": key, "since": self.since, "until": self.until}
        if before is not None:
            fields["before"] = f"{before[0]}-{before[1]}"
        return urlencode({name: value for name, value in fields.items() if value})


@dataclass(frozen=True, slots=True)
class ReadingsChoice:
    """Which readings are to be deleted: of a key (None: all), of since_ms <= ts < until_ms (None: no bound)."""

    key: Key | None
    since_ms: int | None
    until_ms: int | None

    @classmethod
    def parse(cls, device_id: int, parameters: Mapping[str, str]) -> "ReadingsChoice":
        """Reads the fields `key`, `since` and `until` of a form. Raises ValueError, with words for people, for what is
        not understood: nothing is to be deleted by mistake."""
        name = parameters.get("key", "")
        key = Key.objects.filter(name=name).first() if "\0" not in name else None
        if name and (key is None or not LatestValue.with_future.filter(device_id=device_id, key=key).exists()):
            raise ValueError("The device has no such key.")
        since, until = (parameters.get(field, "").strip() for field in ("since", "until"))
        if not (_as_minute(since) or not since) or not (_as_minute(until) or not until):
            raise ValueError("A time is to be as in 2026-11-27T14:03.")
        since_ms = _to_ms(_as_minute(since)) if since else None
        until_ms = _to_ms(_as_minute(until)) + 60_000 if until else None
        if since_ms is not None and until_ms is not None and until_ms <= since_ms:
            raise ValueError("The time from is to be before the time to.")
        return cls(key, since_ms, until_ms)


@dataclass(frozen=True, slots=True)
class ReadingRow:
    """One reading as it is shown. `whole` is the query string by which all of a value that is cut is asked for."""

    ts: int
    received: int
    value: Shown
    whole: str


@dataclass(frozen=True, slots=True)
class ReadingsPage:
    """A page of readings; `older` and `newest` are query strings, empty if there is nothing there."""

    keys: list[str]
    key: str
    rows: list[ReadingRow]
    older: str
    newest: str


def read_page(device_id: int, query: ReadingsQuery) -> ReadingsPage:
    """Walks the primary key backwards from the cursor, so the last page costs what the first does."""
    found = LatestValue.with_future.filter(device_id=device_id).order_by(CodePoints("key__name"))
    key_ids = dict(found.values_list("key__name", "key_id"))
    keys = list(key_ids)
    key = query.key if query.key in key_ids else next(iter(keys), "")
    if not key:
        return ReadingsPage(keys, "", [], "", "")
    readings = Reading.objects.filter(device_id=device_id, key_id=key_ids[key])
    if query.since:
        readings = readings.filter(ts__gte=_to_ms(query.since))
    if query.until:
        readings = readings.filter(ts__lt=_to_ms(query.until) + 60_000)
    if query.before is not None:
        ts, seq = query.before
        readings = readings.filter(ts__lte=ts).exclude(ts=ts, seq__gte=seq)
    rows = list(heads(readings.order_by("-ts", "-seq"), "ts", "seq", "received")[: PAGE_SIZE + 1])
    shown_rows = [
        ReadingRow(ts, received, shown(number, head, size or 0), urlencode({"key": key, "ts": ts, "seq": seq}))
        for ts, seq, received, number, head, size in rows[:PAGE_SIZE]
    ]
    older = query.address(key, rows[PAGE_SIZE - 1][:2]) if len(rows) > PAGE_SIZE else ""
    newest = query.address(key, None) if query.before is not None else ""
    return ReadingsPage(keys, key, shown_rows, older, newest)


def _as_minute(text: str) -> str:
    """A time as an <input type="datetime-local"> has it, or nothing."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None).isoformat(timespec="minutes")
    except ValueError:
        return ""


def _to_ms(minute: str) -> int:
    return int(datetime.fromisoformat(minute).replace(tzinfo=UTC).timestamp() * 1000)


def _as_cursor(text: str) -> tuple[int, int] | None:
    ts, dash, seq = text.rpartition("-")
    try:
        return (int(ts), int(seq)) if dash else None
    except ValueError:
        return None
