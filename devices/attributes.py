"""Attributes of devices: facts that are no readings, in three scopes (devices.models.Attribute).

A change of several keys is one transaction: all of it is done, or nothing. The version of an attribute is the time of
its change in ms, or one more than the version before if that is not less; so one that was deleted and set again never
has a version that it had. Whoever gives the version that he has seen, and is not the first to change it, gets
VersionConflictError. What is set to the value that it has is not changed.

Of shared attributes, what the device has not been told waits: devices.downlink tells it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db import transaction
from django.db.models import Count, Sum

from devices import json_text, metrics
from devices.device_lock import lock_device
from devices.downlink_notices import note
from devices.limits import configured
from devices.models import Attribute, now_ms
from gateway.exceptions import GatewayError

Scope = Attribute.Scope

MAX_KEY_LENGTH: Final = 255
ABSENT: Final = 0
"""The version of an attribute that is not there."""


class AttributesError(GatewayError):
    """Raised when attributes are not changed."""


class InvalidKeyError(AttributesError):
    """Raised when a text cannot be the key of an attribute."""

    def __init__(self, key: str) -> None:
        super().__init__(f"a key has 1 to {MAX_KEY_LENGTH} characters, none of them NUL; got {key[:50]!r}")


class VersionConflictError(AttributesError):
    """Raised when an attribute has another version than whoever changes it has seen."""

    def __init__(self, key: str, version: int) -> None:
        state = "is not there" if version == ABSENT else f"has version {version}"
        super().__init__(f"{key!r} was changed meanwhile: it {state}")
        self.key = key
        self.version = version


class TooManyAttributesError(AttributesError):
    """Raised when a device would have more attributes in a scope than it may, or more bytes of them."""

    def __init__(self, option: str, bound: int) -> None:
        super().__init__(f"the device would have more attributes than {option} allows: {bound}")
        self.option = option


@dataclass(frozen=True, slots=True)
class StoredAttribute:
    """An attribute as it is; `changed_by` is empty for the device itself."""

    value: Any
    version: int
    changed_at_ms: int
    changed_by: str


def get_attributes(device_id: int, scope: Scope, keys: Collection[str] | None = None) -> dict[str, StoredAttribute]:
    """The attributes of a device by key: those of `keys` that are there, or all."""
    rows = Attribute.objects.filter(device_id=device_id, scope=scope).order_by("key")
    if keys is not None:
        rows = rows.filter(key__in=keys)
    return {
        row.key: StoredAttribute(
            json_text.decode(row.value_json or "null"), row.version, row.changed_at_ms, row.changed_by
        )
        for row in rows
    }


def set_attributes(
    device_id: int,
    scope: Scope,
    values: Mapping[str, Any],
    *,
    by: str = "",
    seen_versions: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Sets attributes to JSON values; returns their versions. `by` is recorded as who has done it. `seen_versions` has
    the versions on which the change relies, by key: each has to be that still; ABSENT for one that is not there.

    Raises AttributesError, NoJsonError or UnknownDeviceError; nothing is changed then.
    """
    texts: dict[str, str | None] = {key: json_text.encode(value) for key, value in values.items()}
    return _change(device_id, scope, texts, by, seen_versions or {})


def delete_attributes(
    device_id: int,
    scope: Scope,
    keys: Collection[str],
    *,
    by: str = "",
    seen_versions: Mapping[str, int] | None = None,
) -> set[str]:
    """Deletes attributes; returns which of the keys were there. Otherwise as `set_attributes`."""
    return set(_change(device_id, scope, dict.fromkeys(keys), by, seen_versions or {}))


@transaction.atomic
def _change(
    device_id: int, scope: Scope, texts: Mapping[str, str | None], by: str, seen_versions: Mapping[str, int]
) -> dict[str, int]:
    """Changes attributes to JSON texts, None being no attribute; returns the versions of those there are or were."""
    for key in texts:
        if not key or len(key) > MAX_KEY_LENGTH or "\0" in key:
            raise InvalidKeyError(key)
    lock_device(device_id)
    concerned = Attribute.with_deleted.filter(device_id=device_id, scope=scope, key__in={*texts, *seen_versions})
    rows = {row.key: row for row in concerned}
    _require_seen(rows, seen_versions)
    versions: dict[str, int] = {}
    changed: list[Attribute] = []
    now = now_ms()
    for key, text in texts.items():
        row = rows.get(key) or Attribute(device_id=device_id, scope=scope, key=key, version=ABSENT)
        if row.value_json != text:
            row.value_json, row.size_bytes = text, _size(key, text)
            row.version, row.changed_at_ms, row.changed_by = max(now, row.version + 1), now, by
            row.is_told = scope != Scope.SHARED
            changed.append(row)
        elif text is None:  # it was not there
            continue
        versions[key] = row.version
    _write(changed)
    if scope == Scope.SHARED and changed:
        note(device_id)
    if any(row.value_json is not None for row in changed):
        _require_room(device_id, scope)
    return versions


def untold(device_ids: Collection[int]) -> dict[int, list[tuple[str, str | None, int]]]:
    """The shared attributes of which devices have not been told: by device, the key, the JSON text (None for one that
    was deleted) and the version of each."""
    rows = Attribute.with_deleted.filter(device__in=device_ids, scope=Scope.SHARED, is_told=False)
    found: dict[int, list[tuple[str, str | None, int]]] = {}
    for row in rows.order_by("device", "key"):
        found.setdefault(row.device_id, []).append((row.key, row.value_json, row.version))
    return found


def mark_told(versions: Mapping[tuple[int, str], int]) -> None:
    """Writes that devices know versions of shared attributes, by device and key. To be called in a transaction."""
    concerned = Attribute.with_deleted.select_for_update().filter(
        device__in={device_id for device_id, _ in versions}, scope=Scope.SHARED, is_told=False
    )
    told = [row.pk for row in concerned if versions.get((row.device_id, row.key)) == row.version]
    Attribute.with_deleted.filter(pk__in=told, value_json=None).delete()
    Attribute.with_deleted.filter(pk__in=told).update(is_told=True)


def _size(key: str, text: str | None) -> int:
    return len(key.encode()) + len((text or "").encode())


def _require_seen(rows: Mapping[str, Attribute], seen_versions: Mapping[str, int]) -> None:
    for key, seen in seen_versions.items():
        row = rows.get(key)
        version = ABSENT if row is None or row.value_json is None else row.version
        if version != seen:
            raise VersionConflictError(key, version)


def _write(changed: Collection[Attribute]) -> None:
    gone = [row.pk for row in changed if row.value_json is None and row.is_told]
    Attribute.with_deleted.filter(pk__in=gone).delete()
    Attribute.with_deleted.bulk_create(
        (row for row in changed if row.value_json is not None or not row.is_told),
        update_conflicts=True,
        unique_fields=["device", "scope", "key"],
        update_fields=["value_json", "size_bytes", "version", "changed_at_ms", "changed_by", "is_told"],
    )


def _require_room(device_id: int, scope: Scope) -> None:
    """Raises TooManyAttributesError, which undoes the transaction. Those that wait to be told as deleted count, too."""
    options = configured()
    there = Attribute.with_deleted.filter(device_id=device_id, scope=scope)
    used = there.aggregate(number=Count("pk"), size_bytes=Sum("size_bytes", default=0))
    for option, bound, is_used in (
        ("max_attributes_per_device", options.max_attributes_per_device, used["number"]),
        ("max_attribute_bytes_per_device", options.max_attribute_bytes_per_device, used["size_bytes"]),
    ):
        if bound and is_used > bound:
            metrics.attributes_refused.labels(option).inc()
            raise TooManyAttributesError(option, bound)
