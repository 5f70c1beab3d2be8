"""Reads one page of devices as people see it: which, in what order, with which values.

Both the dashboard's HTML and the snapshots of its live stream are made here, so they cannot differ.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypedDict
from urllib.parse import urlencode

from django.db.models import Count, Exists, F, Max, OuterRef, Q, QuerySet, Window
from django.db.models.functions import RowNumber

from devices.fanout import KEYS_PER_ROW
from devices.models import ConnectedDevice, Credential, Device, DeviceQuerySet, LatestValue, valid
from devices.queries import CodePoints, contains_words, heads
from devices.values import Value

PAGE_SIZE: Final = 50
KEYS_PER_DEVICE: Final = 500
MAX_SEARCH_LENGTH: Final = 200

_HINT: Final = re.compile("…?[A-Za-z0-9]{4}")
_PART_OF_UUID: Final = re.compile(r"[0-9a-fA-F-]{8,36}")

STATES: Final = {
    "": "All states",
    "connected": "Connected",
    "disconnected": "Not connected",
    "disabled": "Disabled",
}
SORTS: Final = {"name": "name", "connected": "connected", "seen": "last_seen_ms"}

COLUMNS: Final = (
    "id",
    "name",
    "type__name",
    "enabled",
    "connected",
    "last_seen_ms",
    "disconnected_at_ms",
    "clock_skew_ms",
)

MAX_CHARACTERS: Final = 131_072
"""Of keys and values of one device in a page or a snapshot, as they are shown; `more` counts what has no room."""


class DeviceFacts(TypedDict):
    """A device in a snapshot; `more` is how many keys it has beyond those in `values`.

    `since` is when it connected, if it is connected, else when its last connection ended: ms, None if unknown.
    `clock_skew` is how far its clock is ahead (ms), if that is more than is allowed.
    """

    id: int
    name: str
    type: str
    enabled: bool
    connected: bool
    since: int | None
    last_seen: int | None
    clock_skew: int | None
    values: dict[str, Value]
    more: int


@dataclass(frozen=True, slots=True)
class DeviceListQuery:
    """The query of a dashboard's address. A parameter that is not understood has its default."""

    q: str = ""
    state: str = ""
    type: str = ""
    sort: str = "name"
    page: int = 1

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> "DeviceListQuery":
        """Reads the query parameters of an address."""
        state, sort, page = (parameters.get(name, "") for name in ("state", "sort", "page"))
        return cls(
            q=search_text(parameters.get("q", "")),
            state=state if state in STATES else "",
            type=parameters.get("type", "").replace("\0", "")[:MAX_SEARCH_LENGTH],
            sort=sort if sort.removeprefix("-") in SORTS else "name",
            page=max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 9 else 1,
        )

    @property
    def filtered(self) -> bool:
        """Whether the query leaves devices out."""
        return bool(self.q or self.state or self.type)

    def address(self, **changes: Any) -> str:
        """The query string for this, with `changes`; defaults are left out of it."""
        changed = replace(self, **changes)
        default = DeviceListQuery()
        fields = {name: getattr(changed, name) for name in ("q", "state", "type", "sort", "page")}
        return urlencode({name: value for name, value in fields.items() if value != getattr(default, name)})

    def direction(self, column: str) -> str:
        """How `column` is sorted, in the words of aria-sort; empty if the order is another column's."""
        return {column: "ascending", f"-{column}": "descending"}.get(self.sort, "")


@dataclass(frozen=True, slots=True)
class DeviceList:
    """A page of devices. A device with an id above `newest_id` has been added since."""

    devices: list[DeviceFacts]
    total: int
    page: int
    pages: int
    newest_id: int


def search_text(text: str) -> str:
    """A search text as databases accept it: PostgreSQL has no NUL in a text."""
    return text.replace("\0", "").strip()[:MAX_SEARCH_LENGTH]


def read_device_list(query: DeviceListQuery) -> DeviceList:
    """The page that `query` asks for, or the last one if there are fewer. Two to four database queries."""
    newest_id = Device.objects.aggregate(newest=Max("id"))["newest"] or 0
    chosen = _filter(Device.objects.with_connected(), query)
    total = chosen.count()
    pages = max(1, -(-total // PAGE_SIZE))
    page = min(query.page, pages)
    rows = _order(chosen, query.sort)[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    return DeviceList(_with_values(rows, KEYS_PER_ROW), total, page, pages, newest_id)


def read_device(device_id: int, keys: str = "") -> DeviceFacts | None:
    """One device with its latest values, of keys with the words `keys`; None if there is no such device.

    The first KEYS_PER_DEVICE keys by name, as far as MAX_CHARACTERS go.
    """
    found = _with_values(Device.objects.with_connected().filter(pk=device_id), KEYS_PER_DEVICE, keys)
    return found[0] if found else None


def as_message(device: DeviceFacts) -> dict[str, Any]:
    """A device as a snapshot has it."""
    return {**device, "values": {key: value.told for key, value in device["values"].items()}}


def found_by(text: str) -> Q:
    """The condition for devices that have each word of `text` in their name or type, or this UUID, or a valid token
    that ends so."""
    text = search_text(text)
    found = contains_words(text, "name", "type__name")
    if _PART_OF_UUID.fullmatch(text):
        found |= Q(uuid__icontains=text)
    if _HINT.fullmatch(text):
        hint = text.removeprefix("…")
        found |= Q(Exists(Credential.objects.filter(valid(), device=OuterRef("pk"), hint=hint)))
    return found


def _filter(devices: DeviceQuerySet, query: DeviceListQuery) -> DeviceQuerySet:
    if query.q:
        devices = devices.filter(found_by(query.q))
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


def _with_values(devices: DeviceQuerySet, keys_per_device: int, keys: str = "") -> list[DeviceFacts]:
    facts: dict[int, DeviceFacts] = {}
    for device_id, name, type_name, enabled, connected, last_seen, went, skew in devices.values_list(*COLUMNS):
        facts[device_id] = {
            "id": device_id,
            "name": name,
            "type": type_name,
            "enabled": enabled,
            "connected": connected,
            "since": None if connected else went,
            "last_seen": last_seen,
            "clock_skew": skew,
            "values": {},
            "more": 0,
        }
    for device_id, came in ConnectedDevice.objects.filter(device_id__in=list(facts)).values_list("device", "since_ms"):
        # If it is not connected, its gateway was killed a moment ago, and nobody knows yet when.
        facts[device_id]["since"] = came if facts[device_id]["connected"] else None
    room = dict.fromkeys(facts, MAX_CHARACTERS)
    stored = LatestValue.objects.filter(contains_words(keys, "key__name"), device_id__in=list(facts))
    for device_id, count in stored.values_list("device_id").annotate(Count("pk")):
        facts[device_id]["more"] = count
    for device_id, key, *columns in _first_values(stored, keys_per_device):
        value = Value(*columns)
        room[device_id] -= len(key) + len(value.shown.text)
        if room[device_id] >= 0:
            facts[device_id]["values"][key] = value
            facts[device_id]["more"] -= 1
    return list(facts.values())


def _first_values(stored: "QuerySet[LatestValue]", keys_per_device: int) -> Iterable[tuple[Any, ...]]:
    """The device, the key and the fields of a Value, for the first keys of each device by name.

    The keys are chosen first, so that the texts of the others are not read.
    """
    by_key = CodePoints("key__name")
    rank = Window(RowNumber(), partition_by="device_id", order_by=by_key)
    chosen = stored.annotate(rank=rank).filter(rank__lte=keys_per_device).values("pk")
    values = LatestValue.objects.filter(pk__in=chosen).order_by("device_id", by_key)
    return heads(values, "device_id", "key__name", "ts")  # type: ignore[no-any-return]
