"""Payload profiles: how the payloads of a type of device are read. A profile is a set of pure functions.

`PROFILES` maps the name in `DeviceType.profile` to the profile.
"""

from collections.abc import Mapping
from typing import Final

from devices.profiles.base import MAX_DEPTH, MAX_PAYLOAD_BYTES, NotJsonError, PayloadError, Point, Profile, is_too_deep
from devices.profiles.thingsboard import ThingsBoard

__all__ = [
    "MAX_DEPTH",
    "MAX_PAYLOAD_BYTES",
    "PROFILES",
    "NotJsonError",
    "PayloadError",
    "Point",
    "Profile",
    "is_too_deep",
]

PROFILES: Final[Mapping[str, Profile]] = {"thingsboard": ThingsBoard()}
