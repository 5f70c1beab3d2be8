"""Limits of devices and of clients that try to be one: failed logins, connections, and flapping."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.config import current
from protocols.addresses import network_of
from protocols.limits import REMEMBERED, TokenBuckets
from protocols.options import check_options, option

FAILED_LOGIN_PAUSE_S: Final = 1.0

ANY_SKEW_MS: Final = 10**15
"""More than any time that is taken is ahead of any clock, in ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """`[devices]`. Raises ValueError for values out of range."""

    max_failed_logins: int = option(
        20,
        "failed logins of one address in a minute before those that fail are answered late; 0: any number",
        at_least=0,
    )
    max_connections: int = option(
        32, "connections of one device at a time, MQTT and WebSocket; 0: any number", at_least=0
    )
    max_lost_connections: int = option(
        30, "MQTT connections of one device in a minute that may end without DISCONNECT; 0: any number", at_least=0
    )
    lost_connections_pause_s: float = option(60.0, "how long a device that flaps is kept out", at_least=0)
    max_keys_per_device: int = option(
        1_000, "different keys of one device; a message with one more is refused; 0: any number", at_least=0
    )
    max_keys: int = option(
        100_000, "different keys of all devices; a message with one more is refused; 0: any number", at_least=0
    )
    max_clock_skew_s: float = option(
        86_400.0,
        "how far the time of a reading may be ahead of the gateway's clock; beyond it the reading is stored, but does"
        " not become the latest value; 0: any time",
        at_least=0,
    )
    max_attributes_per_device: int = option(
        1_000, "attributes of one device in one scope; a change to more is refused; 0: any number", at_least=0
    )
    max_attribute_bytes_per_device: int = option(
        262_144,
        "bytes that the attributes of one device have in one scope, keys and values; a change to more is refused;"
        " 0: any number",
        at_least=0,
    )
    max_devices: int = option(
        100_000, "devices in all; beyond it none is made by provisioning; 0: any number", at_least=0
    )
    max_commands_per_device: int = option(
        100, "commands to one device that are not finished; one more is refused", at_least=1
    )

    max_devices_per_gateway: int = option(
        1_000, "devices behind one gateway; what would add one more is refused", at_least=1
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def max_clock_skew_ms(self) -> int:
        """`max_clock_skew_s` in milliseconds, and no more than what never is exceeded."""
        return round(min(self.max_clock_skew_s * 1000, ANY_SKEW_MS)) or ANY_SKEW_MS


def configured() -> DeviceOptions:
    """The options in force in this process."""
    options: DeviceOptions = current().sections.get("devices", DeviceOptions())
    return options


def per_minute(most: int) -> TokenBuckets:
    """Buckets of `most` tokens that fill within a minute."""
    return TokenBuckets(most, most / 60)


class FailedLogins:
    """Counts the failed logins of each address. After too many, the next ones that fail are answered late.

    A valid token is accepted at once all the same: devices behind one router share its address, and one with a wrong
    token must not keep out the others.
    """

    def __init__(
        self, most: int, *, pause_s: float = FAILED_LOGIN_PAUSE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`most` in a minute; 0 is any number. `clock` gives seconds."""
        self._most = most
        self._clock = clock
        self._buckets = per_minute(most)
        self.pause_s = pause_s
        """How late those beyond it are answered."""

    def note(self, client: tuple[str, int] | None) -> bool:
        """Counts a failed login of this address. Returns whether it is to be answered at once."""
        if not self._most:
            return True
        now = self._clock()
        bucket = self._buckets.of(network_of(client), now)
        left = bucket.left(now)
        bucket.take(min(1, left))
        return left >= 1


class Flapping:
    """Keeps out devices that flap: connect, are lost and connect again too often."""

    def __init__(self, most: int, pause_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`most` lost connections in a minute, 0 is any number; one more, and the device is kept out for `pause_s`."""
        self._most = most
        self._buckets = per_minute(most)
        self._pause_s = pause_s
        self._clock = clock
        self._out_until: OrderedDict[int, float] = OrderedDict()

    def lost(self, device_id: int) -> None:
        """A connection of the device has ended without a DISCONNECT."""
        if not self._most:
            return
        now = self._clock()
        bucket = self._buckets.of(device_id, now)
        bucket.take(min(1, bucket.left(now)))
        if bucket.left(now) < 1:
            self._out_until[device_id] = now + self._pause_s
            self._out_until.move_to_end(device_id)
            if len(self._out_until) > REMEMBERED:
                self._out_until.popitem(last=False)

    def pause_s(self, device_id: int) -> float:
        """How long the device is kept out from now; 0 if it may come."""
        until = self._out_until.get(device_id)
        if until is None:
            return 0.0
        left_s = until - self._clock()
        if left_s <= 0:
            del self._out_until[device_id]
        return max(0.0, left_s)


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """The counts that `DeviceOptions` bound, in one process."""

    options: DeviceOptions
    failed_logins: FailedLogins
    flapping: Flapping

    @classmethod
    def of(cls, options: DeviceOptions) -> "DeviceLimits":
        """Nothing counted yet."""
        return cls(
            options,
            FailedLogins(options.max_failed_logins),
            Flapping(options.max_lost_connections, options.lost_connections_pause_s),
        )
