"""What bounds devices and those who would like to be one: guessed tokens, connections, and coming and going."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from gateway.config import current
from protocols.addresses import network_of

REMEMBERED: Final = 10_000
"""How many addresses or devices have an account; of more, the one heard of least recently is forgotten."""

FAILED_LOGIN_PAUSE_S: Final = 1.0


ANY_SKEW_MS: Final = 10**15
"""More than any time that is taken is ahead of any clock, in ms."""


def _option(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """`[devices]`. Raises ValueError for values out of range."""

    max_failed_logins: int = _option(
        20, "failed logins of one address in a minute before those that fail are answered late; 0: any number"
    )
    max_connections: int = _option(32, "connections of one device at a time, MQTT and WebSocket; 0: any number")
    max_lost_connections: int = _option(
        30, "MQTT connections of one device in a minute that may end without DISCONNECT; 0: any number"
    )
    lost_connections_pause_s: float = _option(60.0, "how long a device that flaps is kept out")
    max_keys_per_device: int = _option(
        1_000, "different keys of one device; a message with one more is refused; 0: any number"
    )
    max_keys: int = _option(100_000, "different keys of all devices; a message with one more is refused; 0: any number")
    max_clock_skew_s: float = _option(
        86_400.0,
        "how far the time of a reading may be ahead of the gateway's clock; beyond it the reading is stored, but does"
        " not become the latest value; 0: any time",
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            if getattr(self, option.name) < 0:
                raise ValueError(f"{option.name} must be at least 0, not {getattr(self, option.name)!r}")

    @property
    def max_clock_skew_ms(self) -> int:
        """`max_clock_skew_s` in milliseconds, and no more than what never is exceeded."""
        return round(min(self.max_clock_skew_s * 1000, ANY_SKEW_MS)) or ANY_SKEW_MS


def configured() -> DeviceOptions:
    """What is in force in this process."""
    options: DeviceOptions = current().sections.get("devices", DeviceOptions())
    return options


class Accounts:
    """An account for each key: it is full with `most` at first, is drawn upon, and fills again within a minute."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`most` 0 means that nothing is counted. `clock` gives seconds."""
        self._most = most
        self._clock = clock
        self._accounts: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def draw(self, key: Hashable) -> None:
        """Takes one out."""
        if not self._most:
            return
        self._accounts[key] = (max(0.0, self._left(key) - 1), self._clock())
        self._accounts.move_to_end(key)
        if len(self._accounts) > REMEMBERED:
            self._accounts.popitem(last=False)

    def give_back(self, key: Hashable) -> None:
        """Puts one back."""
        if self._most:
            self._accounts[key] = (min(float(self._most), self._left(key) + 1), self._clock())

    def wait_s(self, key: Hashable) -> float:
        """How long it is until there is one to take out; 0 if there is."""
        return max(0.0, 1 - self._left(key)) * 60 / self._most if self._most else 0.0

    def is_empty(self, key: Hashable) -> bool:
        """Whether less than one is left."""
        return bool(self._most) and self._left(key) < 1

    def _left(self, key: Hashable) -> float:
        left, as_of = self._accounts.get(key, (float(self._most), 0.0))
        return min(float(self._most), left + (self._clock() - as_of) * self._most / 60)


class FailedLogins:
    """The failed logins of each address. Of one that has had too many, the next that fail are answered late.

    A valid token is let in all the same, at once: devices behind one router share its address, and one of them that has
    a wrong token must not keep out the others.
    """

    def __init__(
        self, most: int, *, pause_s: float = FAILED_LOGIN_PAUSE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`most` in a minute."""
        self._accounts = Accounts(most, clock=clock)
        self.pause_s = pause_s
        """How late those beyond it are answered."""

    def note(self, client: tuple[str, int] | None) -> bool:
        """A login from this address has failed. Returns whether that is one of those which are answered at once."""
        network = network_of(client)
        is_one = not self._accounts.is_empty(network)
        self._accounts.draw(network)
        return is_one


class Flapping:
    """Which devices come and go: connect, are lost, connect again, faster than anybody needs to."""

    def __init__(self, most: int, pause_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`most` lost connections in a minute; one more, and the device is kept out for `pause_s`."""
        self._accounts = Accounts(most, clock=clock)
        self._pause_s = pause_s
        self._clock = clock
        self._out_until: OrderedDict[int, float] = OrderedDict()

    def lost(self, device_id: int) -> None:
        """A connection of the device has ended without a DISCONNECT."""
        self._accounts.draw(device_id)
        if self._accounts.is_empty(device_id):
            self._out_until[device_id] = self._clock() + self._pause_s
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
    """What is counted for `DeviceOptions`, in one process."""

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
