"""What one dashboard needs of the fleet's stream: only the devices of its page, and only the newest value of each key.

Every commit is announced once for the whole fleet. A dashboard of fifty devices out of ten thousand, or one on a slow
phone, gets of it what it shows, merged, a few times a second. No I/O and no clock in here.
"""

from typing import Any, Final, TypeAlias, TypedDict

import msgspec

from devices.pages.board import KEYS_PER_ROW, Board

Message: TypeAlias = dict[str, Any]


class Pending(TypedDict):
    """What is to be told of one device: its name, and the newest [key, ts, value] of each key."""

    name: str
    readings: dict[str, list[Any]]


class Decoder:
    """Decodes a text that many consumers get as one object once, by remembering the last one."""

    def __init__(self) -> None:
        self._text = ""
        self._message: Message = {}

    def decode(self, text: str) -> Message:
        """The message in `text`, not to be changed: others have it too."""
        if text is not self._text:
            self._message = msgspec.json.decode(text)
            self._text = text
        return self._message


class Watch:
    """The devices of one page and what has happened to them since it was last told.

    Bounded: the devices of a page, with as many keys each as a row shows.
    """

    def __init__(self, board: Board) -> None:
        self._keys: Final = {device["id"]: set(device["values"]) for device in board.devices}
        self._newest_id: Final = board.newest_id
        self._pending: dict[int, Pending] = {}
        self.outdated = False
        """Whether a device has come that the board may have to show: time for a new snapshot."""

    def take_readings(self, devices: dict[str, Any]) -> bool:
        """Merges the "devices" of a readings message; returns whether there is anything new to tell."""
        device_ids = {int(device_id) for device_id in devices}
        for device_id in self._keys.keys() & device_ids:
            self._merge(device_id, devices[str(device_id)])
        if max(device_ids, default=0) > self._newest_id:
            self.outdated = True
        return bool(self._pending)

    def take_connection(self, device_id: int) -> bool:
        """Whether a change of this device's connection is to be told."""
        if device_id > self._newest_id:
            self.outdated = True
        return device_id in self._keys

    def drain(self, now_ms: int) -> Message | None:
        """The readings message for what is pending, which is then forgotten; None if nothing is."""
        if not self._pending:
            return None
        devices = {
            str(device_id): {"name": pending["name"], "readings": list(pending["readings"].values())}
            for device_id, pending in self._pending.items()
        }
        self._pending = {}
        return {"type": "readings", "now": now_ms, "devices": devices}

    def _merge(self, device_id: int, news: dict[str, Any]) -> None:
        keys = self._keys[device_id]
        pending = self._pending.setdefault(device_id, {"name": news["name"], "readings": {}})
        for reading in news["readings"]:
            key, ts, _ = reading
            if key not in keys:
                if len(keys) >= KEYS_PER_ROW:
                    continue
                keys.add(key)
            known = pending["readings"].get(key)
            if known is None or ts >= known[1]:
                pending["readings"][key] = reading
