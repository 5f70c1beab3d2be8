"""One page of devices as people look at it: which, in what order, with which values.

The dashboard's first HTML and every snapshot of its live stream are made here, so they cannot differ.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, TypedDict
from urllib.parse import urlencode

import msgspec
from django.db.models import Count, F, Max, Q, Window
from django.db.models.functions import RowNumber

from devices.models import Device, DeviceQuerySet, LatestValue, now_ms

PAGE_SIZE: Final = 50
KEYS_PER_ROW: Final = 6
KEYS_PER_DEVICE: Final = 500
MAX_SEARCH_LENGTH: Final = 200

STATES: Final = {
    "": "All states",
    "connected": "Connected",
    "disconnected": "Not connected",
    "disabled": "Disabled",
}
SORTS: Final = {"name": "name", "connected": "connected", "seen": "last_seen_ms"}

COLUMNS: Final[tuple[str, ...]] = ("id", "name", "type__name", "enabled", "connected", "last_seen_ms")

Reading: TypeAlias = tuple[int, float | msgspec.Raw | None]
"""Device time in ms, and the value: a plain number, or the JSON of anything else as it is stored."""


class DeviceFacts(TypedDict):
    """A device in a snapshot; `more` is how many keys it has beyond those in `values`."""

    id: int
    name: str
    type: str
    enabled: bool
    connected: bool
    last_seen: int | None
    values: dict[str, Reading]
    more: int


@dataclass(frozen=True, slots=True)
class BoardQuery:
    """What a dashboard shows, as its address says it. Anything that is not understood is the default."""

    q: str = ""
    state: str = ""
    type: str = ""
    sort: str = "name"
    page: int = 1

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> "BoardQuery":
        """Reads the query parameters of an address."""
        state, sort, page = (parameters.get(name, "") for name in ("state", "sort", "page"))
        return cls(
            q=parameters.get("q", "").strip().replace("\0", "")[:MAX_SEARCH_LENGTH],
            state=state if state in STATES else "",
            type=parameters.get("type", "").replace("\0", "")[:MAX_SEARCH_LENGTH],
            sort=sort if sort.removeprefix("-") in SORTS else "name",
            page=max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 9 else 1,
        )

    @property
    def filtered(self) -> bool:
        """Whether this leaves devices out."""
        return bool(self.q or self.state or self.type)

    def address(self, **changes: Any) -> str:
        """The query string for this, with `changes`; defaults are left out of it."""
        changed = replace(self, **changes)
        default = BoardQuery()
        fields = {name: getattr(changed, name) for name in ("q", "state", "type", "sort", "page")}
        return urlencode({name: value for name, value in fields.items() if value != getattr(default, name)})

    def direction(self, column: str) -> str:
        """How `column` is sorted, in the words of aria-sort; empty if the order is another column's."""
        return {column: "ascending", f"-{column}": "descending"}.get(self.sort, "")


@dataclass(frozen=True, slots=True)
class Board:
    """A page of devices. `newest_id` is above every device there was: a greater one is new."""

    devices: list[DeviceFacts]
    total: int
    page: int
    pages: int
    newest_id: int


def read_board(query: BoardQuery) -> Board:
    """The page that `query` asks for, or the last one if there are fewer. Two to four database queries."""
    newest_id = Device.objects.aggregate(newest=Max("id"))["newest"] or 0
    chosen = _filter(Device.objects.with_connected(now_ms()), query)
    total = chosen.count()
    pages = max(1, -(-total // PAGE_SIZE))
    page = min(query.page, pages)
    rows = _order(chosen, query.sort)[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    return Board(_with_values(rows, KEYS_PER_ROW), total, page, pages, newest_id)


def read_device(device_id: int) -> DeviceFacts | None:
    """One device with all its latest values (the first 500 keys); None if there is no such device."""
    found = _with_values(Device.objects.with_connected(now_ms()).filter(pk=device_id), KEYS_PER_DEVICE)
    return found[0] if found else None


def _filter(devices: DeviceQuerySet, query: BoardQuery) -> DeviceQuerySet:
    if query.q:
        devices = devices.filter(Q(name__icontains=query.q) | Q(type__name__icontains=query.q))
    if query.type:
        devices = devices.filter(type__name=query.type)
    match query.state:
        case "connected":
            devices = devices.filter(Q(connected=True))
        case "disconnected":
            devices = devices.filter(Q(connected=False))
        case "disabled":
            devices = devices.filter(enabled=False)
    return devices


def _order(devices: DeviceQuerySet, sort: str) -> DeviceQuerySet:
    column = F(SORTS[sort.removeprefix("-")])
    if sort.startswith("-"):
        return devices.order_by(column.desc(nulls_last=True), "name")
    return devices.order_by(column.asc(nulls_last=True), "name")


def _with_values(devices: DeviceQuerySet, keys_per_device: int) -> list[DeviceFacts]:
    facts: dict[int, DeviceFacts] = {
        device_id: {
            "id": device_id,
            "name": name,
            "type": type_name,
            "enabled": enabled,
            "connected": connected,
            "last_seen": last_seen,
            "values": {},
            "more": 0,
        }
        for device_id, name, type_name, enabled, connected, last_seen in devices.values_list(*COLUMNS)
    }
    for device_id, key, ts, number, text, keys in _first_values(facts, keys_per_device):
        facts[device_id]["values"][key] = (ts, number if text is None else msgspec.Raw(text.encode()))
        facts[device_id]["more"] = max(0, keys - keys_per_device)
    return list(facts.values())


def _first_values(
    device_ids: Iterable[int], keys_per_device: int
) -> Iterable[tuple[int, str, int, float | None, str | None, int]]:
    """The latest values of the first keys, by name, of each device, and how many keys it has."""
    return (
        LatestValue.objects.filter(device_id__in=list(device_ids))
        .annotate(
            rank=Window(RowNumber(), partition_by="device_id", order_by="key__name"),
            keys=Window(Count("key_id"), partition_by="device_id"),
        )
        .filter(rank__lte=keys_per_device)
        .order_by("device_id", "rank")
        .values_list("device_id", "key__name", "ts", "number", "text", "keys")
    )
