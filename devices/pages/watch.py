"""What one dashboard needs of the fleet's stream: only the devices of its page, and only the newest value of each key.

Every commit is announced once for the whole fleet. A dashboard of fifty devices out of ten thousand, or one on a slow
phone, gets of it what it shows, merged, a few times a second. No I/O and no clock in here.
"""

from typing import Any, Final, TypeAlias

import msgspec

from devices.pages.board import KEYS_PER_ROW, Board

Reading: TypeAlias = tuple[str, int, msgspec.Raw]
"""Key, device time in ms, and the value as JSON, which nobody here has to understand."""


class DeviceNews(msgspec.Struct):
    """What a commit holds of one device."""

    name: str
    readings: list[Reading]


class ReadingsCommitted(msgspec.Struct, tag_field="type", tag="readings"):
    """A commit, as devices.fanout announces it."""

    devices: dict[int, DeviceNews]


class ConnectionChanged(msgspec.Struct, tag_field="type", tag="connection"):
    """A device has connected, or has no connection left."""

    id: int
    connected: bool


class Decoder:
    """Decodes a text that many consumers get as one object once, by remembering the last one."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(ReadingsCommitted | ConnectionChanged)
        self._text = ""
        self._message: ReadingsCommitted | ConnectionChanged | None = None

    def decode(self, text: str) -> ReadingsCommitted | ConnectionChanged:
        """The message in `text`, not to be changed: others have it too."""
        if self._message is None or text is not self._text:
            self._message = self._decoder.decode(text)
            self._text = text
        return self._message


class Watch:
    """The devices of one page and what has happened to them since it was last told.

    Bounded: the devices of a page, with as many keys each as a row shows.
    """

    def __init__(self, board: Board) -> None:
        self._keys: Final = {device["id"]: set(device["values"]) for device in board.devices}
        self._newest_id: Final = board.newest_id
        self._names: dict[int, str] = {}
        self._pending: dict[int, dict[str, Reading]] = {}
        self.outdated = False
        """Whether a device has come that the board may have to show: time for a new snapshot."""

    def take_readings(self, message: ReadingsCommitted) -> bool:
        """Merges a commit; returns whether there is anything to tell."""
        for device_id in self._keys.keys() & message.devices.keys():
            self._merge(device_id, message.devices[device_id])
        if max(message.devices, default=0) > self._newest_id:
            self.outdated = True
        return bool(self._pending)

    def take_connection(self, message: ConnectionChanged) -> bool:
        """Whether a change of this device's connection is to be told."""
        if message.id > self._newest_id:
            self.outdated = True
        return message.id in self._keys

    def drain(self) -> dict[str, Any] | None:
        """The readings message for what is pending, which is then forgotten; None if nothing is."""
        if not self._pending:
            return None
        devices = {
            str(device_id): {"name": self._names[device_id], "readings": list(readings.values())}
            for device_id, readings in self._pending.items()
        }
        self._pending = {}
        return {"type": "readings", "devices": devices}

    def _merge(self, device_id: int, news: DeviceNews) -> None:
        keys = self._keys[device_id]
        self._names[device_id] = news.name
        pending = self._pending.setdefault(device_id, {})
        for reading in news.readings:
            key, ts, _ = reading
            if key not in keys:
                if len(keys) >= KEYS_PER_ROW:
                    continue
                keys.add(key)
            known = pending.get(key)
            if known is None or ts >= known[1]:
                pending[key] = reading
