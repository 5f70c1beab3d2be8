"""The keys that devices have, and the bounds on how many they may have.

The database decides: a device has the keys that it has readings of (a row of `LatestValue` each), and a key is known if
it has a row of `Key`. What is known is never refused. A message with a key that its device does not have yet is looked
at in the thread that commits, before anything of it is stored: it is refused as a whole if the device would have more
keys than one device may have, or all devices more than all may have. Several gateways that look at the same moment may
exceed a bound by what each of them takes in one commit.

In the event loop, `KnownKeys` remembers what has been looked up, so that messages as they usually are ask nobody.
"""

import asyncio
import logging
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from devices import metrics
from devices.credentials import Identity
from devices.limits import DeviceOptions
from devices.refusals import MessageRefusal, RefusedError
from devices.writers import Row, Writer
from protocols.log_lines import PeerLog, RateLimitedLog

logger = logging.getLogger("gateway.ingest")
peer_log = PeerLog("gateway.ingest")

MAX_DEVICES: Final = 200_000
"""How many devices' keys are remembered."""
MAX_NUMBERS: Final = 1_000_000
"""How many numbers of keys are remembered; devices with the same keys share them."""
WARN_AT: Final = 0.8
"""The part of a bound from which on warnings are logged."""
WARNING_INTERVAL_S: Final = 3_600.0

UnnumberedRow: TypeAlias = "tuple[int, str, int, int, int, float | None, str | None]"
"""A row with the name of its key instead of the number."""


class _Numbers(dict[str, int]):
    """The numbers of keys by their names: a dict that devices share, and that goes with the last of them."""

    __slots__ = ("__weakref__",)


NO_KEYS: Final[Mapping[str, int]] = MappingProxyType({})


class KnownKeys:
    """A cache of the keys that devices have, with their numbers.

    Devices of one kind have the same keys, which are kept once. When it is full, it forgets everything: of devices that
    send in turn, to forget the oldest would be to forget the one that comes next.
    """

    def __init__(self, *, max_devices: int = MAX_DEVICES, max_numbers: int = MAX_NUMBERS) -> None:
        self._max_devices = max_devices
        self._max_numbers = max_numbers
        self.of_device: dict[int, _Numbers] = {}
        """The cache itself, for callers that have no time for a call; `NO_KEYS` is for devices that are not in it."""
        self._shared: WeakValueDictionary[bytes, _Numbers] = WeakValueDictionary()
        self._numbers = 0

    def of(self, device_id: int) -> Mapping[str, int]:
        """The known keys of a device."""
        return self.of_device.get(device_id, NO_KEYS)

    def add(self, device_id: int, numbers: Mapping[str, int]) -> None:
        """Adds keys that a device has."""
        known = self.of(device_id)
        if not numbers.items() <= known.items():
            self.of_device[device_id] = self._share(_Numbers({**known, **numbers}))
            if len(self.of_device) > self._max_devices or self._numbers > self._max_numbers:
                self.clear()

    def forget(self, device_id: int) -> None:
        """Forgets the keys of a device."""
        self.of_device.pop(device_id, None)

    def clear(self) -> None:
        """Forgets everything."""
        self.of_device.clear()
        self._numbers = 0

    def _share(self, numbers: _Numbers) -> _Numbers:
        """The equal dict that another device has already, if there is one."""
        content = array("q", sorted(numbers.values())).tobytes()
        shared = self._shared.setdefault(content, numbers)
        if shared is numbers:
            self._numbers += len(numbers)
            if self._numbers > self._max_numbers:  # some of which may be gone: what does not count twice here
                self._numbers = sum(map(len, self._shared.values()))
        return shared


class NewKeysMessage:
    """A message of a device that is not known to have all of its keys."""

    __slots__ = ("device", "future", "numbers", "place", "refusal", "rows", "unnumbered")

    def __init__(
        self,
        device: Identity,
        rows: list[Row],
        unnumbered: list[UnnumberedRow],
        place: int,
        future: "asyncio.Future[None]",
    ) -> None:
        """`place` is how many rows the batch had when it came. `future` is that of its own commit."""
        self.device = device
        self.rows = rows
        self.unnumbered = unnumbered
        self.place = place
        self.future = future
        self.numbers: dict[str, int] = {}
        """The numbers of the keys that the device was not known to have, once they are looked up."""
        self.refusal: RefusedError | None = None
        """Why it is refused, once that is known."""

    def size(self) -> int:
        """The number of its readings."""
        return len(self.rows) + len(self.unnumbered)

    def numbered(self) -> list[Row]:
        """All of its rows, once its keys have numbers."""
        rows = list(self.rows)
        for device_id, name, *rest in self.unnumbered:
            rows.append((device_id, self.numbers[name], *rest))  # type: ignore[arg-type]
        return rows


class KeyBounds:
    """Looks up keys, adds new ones, and refuses those that are too many. Its calls are made in one thread."""

    def __init__(self, writer: Writer, options: DeviceOptions) -> None:
        self._writer = writer
        self._max_keys = options.max_keys
        self._max_per_device = options.max_keys_per_device
        self._limited_log = RateLimitedLog(logger, WARNING_INTERVAL_S)

    def look_at(self, messages: Sequence[NewKeysMessage]) -> None:
        """Gives each of `messages` the numbers of its keys, or a refusal. Raises what the writer raises."""
        writer = self._writer
        named = {(row[0], row[1]) for message in messages for row in message.unnumbered}
        numbers = writer.find_keys(sorted({name for _, name in named}))
        has = self._held(named, numbers)
        held = Counter(writer.count_held(sorted({device_id for device_id, _ in named - has})))
        in_all = self._count() if any(name not in numbers for _, name in named - has) else 0
        added: set[str] = set()
        for message in messages:
            device_id = message.device.device_id
            wanted = {row[1] for row in message.unnumbered if (device_id, row[1]) not in has}
            unknown = wanted - numbers.keys() - added
            message.refusal = self._refusal_of(held[device_id], len(wanted), in_all + len(added), len(unknown))
            if message.refusal is None:
                self._warn(message.device, held[device_id], len(wanted))
                held[device_id] += len(wanted)
                added |= unknown
                has.update((device_id, name) for name in wanted)
        if added:
            numbers |= writer.key_ids(sorted(added))
            self._count()
        for message in messages:
            if message.refusal is None:
                message.numbers = {row[1]: numbers[row[1]] for row in message.unnumbered}

    def _held(self, named: set[tuple[int, str]], numbers: Mapping[str, int]) -> set[tuple[int, str]]:
        """Those of `named`, devices and keys, whose device has the key."""
        held = self._writer.held_pairs([(device_id, numbers[name]) for device_id, name in named if name in numbers])
        return {(device_id, name) for device_id, name in named if (device_id, numbers.get(name)) in held}

    def _refusal_of(self, held: int, wanted: int, in_all: int, unknown: int) -> RefusedError | None:
        """Why a device that has `held` keys may not have as many more as it wants, of which so many are unknown to a
        database that has `in_all`. None if it may."""
        if self._max_per_device and wanted and held + wanted > self._max_per_device:
            return _refusal(MessageRefusal.KEYS_OF_DEVICE, "of one device", "max_keys_per_device", self._max_per_device)
        if self._max_keys and unknown and in_all + unknown > self._max_keys:
            return _refusal(MessageRefusal.KEYS, "of all devices", "max_keys", self._max_keys)
        return None

    def _count(self) -> int:
        in_all = self._writer.count_keys()
        metrics.keys.set(in_all)
        if self._max_keys and in_all >= WARN_AT * self._max_keys:
            text = "%d of %d different keys are there (max_keys); more will be refused"
            self._limited_log.warning(text, in_all, self._max_keys)
        return in_all

    def _warn(self, device: Identity, before: int, more: int) -> None:
        if before < WARN_AT * self._max_per_device <= before + more:
            text = "%s (%d) has %d of %d different keys (max_keys_per_device); more will be refused"
            peer = f"device/{device.device_id}"
            peer_log.warning(peer, text, device.name, device.device_id, before + more, self._max_per_device)


def _refusal(refusal: MessageRefusal, whose: str, option: str, bound: int) -> RefusedError:
    """The consumer logs it, as it knows the connection."""
    metrics.keys_refused.labels(option).inc()
    return RefusedError(refusal, f"more than {bound} different keys {whose} ({option})")
