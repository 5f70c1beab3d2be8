"""Filters the fleet's stream for one dashboard: only the devices of its page, and only the newest value of each key.

Every commit is announced once for the whole fleet. A dashboard of fifty devices out of ten thousand, or one on a slow
phone, gets only what it shows, merged, a few times a second. No I/O and no clock in here.
"""

from functools import cached_property, lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from devices import metrics
from devices.dashboard.device_list import DeviceList
from devices.fanout import KEYS_PER_ROW

Reading: TypeAlias = tuple[str, int, msgspec.Raw]
"""Key, device time in ms, and the JSON of the whole reading, whose value nobody here has to understand."""


class DeviceReadings(msgspec.Struct):
    """The readings of one device in a commit."""

    name: str
    readings: list[msgspec.Raw]


class _Beginning(msgspec.Struct, array_like=True):
    """The key and the time of a reading, without its value."""

    key: str
    ts: int


_device_readings = msgspec.json.Decoder(DeviceReadings).decode
_beginning = msgspec.json.Decoder(_Beginning).decode


class ReadingsCommitted(msgspec.Struct, tag_field="type", tag="readings", dict=True):
    """A commit, as devices.fanout announces it: by the id of a device, the JSON of its readings.

    Only the readings of devices that somebody looks at are decoded, so unreadable ones end no other stream; and they
    are decoded once, however many look.
    """

    devices: dict[int, msgspec.Raw]

    def readings_of(self, device_id: int) -> tuple[str, list[Reading]]:
        """The name of a device and its readings. Raises ValueError or RecursionError for what cannot be read."""
        read = self._read.get(device_id)
        if read is None:
            found = _device_readings(self.devices[device_id])
            beginnings = [(_beginning(raw), raw) for raw in found.readings]
            read = found.name, [(beginning.key, beginning.ts, raw) for beginning, raw in beginnings]
            self._read[device_id] = read
        return read

    @cached_property
    def _read(self) -> dict[int, tuple[str, list[Reading]]]:
        return {}


class ConnectionChanged(msgspec.Struct, tag_field="type", tag="connection"):
    """A device has connected, or has no connection left."""

    id: int
    connected: bool


_announcement = msgspec.json.Decoder(ReadingsCommitted | ConnectionChanged).decode


@lru_cache(maxsize=1)
def decode(text: str) -> ReadingsCommitted | ConnectionChanged | None:
    """The message in `text`, not to be changed: others have it too. None, and counted, if it cannot be read. The last
    one is remembered, for many consumers get the same text."""
    try:
        message: ReadingsCommitted | ConnectionChanged = _announcement(text)
    except (ValueError, RecursionError):
        metrics.announcements_unreadable.inc()
        return None
    return message


class PageChanges:
    """The devices of one page, and their changes since the last message.

    Bounded: the devices of a page, with as many keys each as a row shows.
    """

    def __init__(self, device_list: DeviceList) -> None:
        self._keys: Final = {device["id"]: set(device["values"]) for device in device_list.devices}
        self._newest_id: Final = device_list.newest_id
        self._names: dict[int, str] = {}
        self._pending: dict[int, dict[str, Reading]] = {}
        self.outdated = False
        """Whether a device has come that the list may have to show: time for a new snapshot."""

    def take_readings(self, message: ReadingsCommitted) -> bool:
        """Merges a commit; returns whether there is anything to send."""
        for device_id in self._keys.keys() & message.devices.keys():
            try:
                self._merge(device_id, *message.readings_of(device_id))
            except (ValueError, RecursionError):
                metrics.announcements_unreadable.inc()
        if max(message.devices, default=0) > self._newest_id:
            self.outdated = True
        return bool(self._pending)

    def take_connection(self, message: ConnectionChanged) -> bool:
        """Whether the change of this device's connection is to be sent."""
        if message.id > self._newest_id:
            self.outdated = True
        return message.id in self._keys

    def drain(self) -> dict[str, Any] | None:
        """Returns the message for the changes so far, and forgets them; None if there are none."""
        if not self._pending:
            return None
        devices = {
            str(device_id): {"name": self._names[device_id], "readings": [raw for _, _, raw in readings.values()]}
            for device_id, readings in self._pending.items()
        }
        self._pending = {}
        return {"type": "readings", "devices": devices}

    def _merge(self, device_id: int, name: str, readings: list[Reading]) -> None:
        keys = self._keys[device_id]
        self._names[device_id] = name
        pending = self._pending.setdefault(device_id, {})
        for reading in readings:
            key, ts, _ = reading
            if key not in keys:
                if len(keys) >= KEYS_PER_ROW:
                    continue
                keys.add(key)
            known = pending.get(key)
            if known is None or ts >= known[1]:
                pending[key] = reading
