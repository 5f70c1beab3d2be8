"""The interface of a writer, and which reading becomes the latest value.

Wall time is no order: clocks are wrong and are put right. A reading becomes the latest value of its device and key if

- its time is not before that of the latest value, or
- the gateway has stamped the latest value (`ts` is `received`) with a time that is still to come: then its clock has
  been put back since, and what is committed later is later, or
- the time of the latest value is too far ahead, by more than the greatest skew that is allowed, of the gateway's clock
  as it was when that value was received, or as it is now.

"Now" is when the batch is written, or when the reading was received if that is later.

A reading whose own time is too far ahead is the latest value only as long as there has been no other, so that each
device and key that has readings has a row there; `devices.models.LatestValue.objects` leaves those out.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

Row: TypeAlias = "tuple[int, int, int, int, int, float | None, str | None]"
"""A row of the table of readings: device_id, key_id, ts, seq, received, number, text."""

READINGS: Final = "gateway_devices_reading"
LATEST: Final = "gateway_devices_latestvalue"
KEYS: Final = "gateway_devices_key"
DEVICES: Final = "gateway_devices_device"
ROW_COLUMNS: Final = "device_id, key_id, ts, seq, received, number, text"
LATEST_COLUMNS: Final = "device_id, key_id, ts, received, number, text"


class UnknownKeyError(Exception):
    """Raised when a batch has the number of a key that was deleted, because no readings had it any more."""


class DatabaseReplacedError(Exception):
    """Raised when another database has taken the place of the one before, so that the known numbers of devices and keys
    are not valid in it. Nothing was written; the next batch will be."""


class Seen(NamedTuple):
    """When a device was last heard from, and by how much its clock is ahead, if that is more than is allowed; in ms."""

    device_id: int
    at_ms: int
    clock_skew_ms: int | None = None


class Batch(Protocol):
    """Readings that are committed together."""

    @property
    def rows(self) -> Sequence[Row]:
        """The readings."""

    @property
    def latest(self) -> Sequence[Sequence[Row]]:
        """What is to become the latest value, if it is later than what is stored: one step after the other, each with
        at most one row of each device and key."""

    @property
    def ahead(self) -> Sequence[Row]:
        """One row, too far ahead, of each device and key which may have no other."""

    @property
    def seen(self) -> Sequence[Seen]:
        """The devices heard from. A time is stored if it is newer than the stored one, or if that one is ahead of
        `now_ms`."""

    @property
    def now_ms(self) -> int:
        """The gateway's clock while this is written."""


class Writer(Protocol):
    """Writes batches. It is called from one thread at a time, not always the same."""

    data_errors: tuple[type[Exception], ...]
    """Exceptions that say that something in the batch can never be written. After any other, of a database that is
    away, locked, read-only, full or without its tables, the same batch may be written later."""

    def find_keys(self, names: Sequence[str]) -> dict[str, int]:
        """The numbers of those keys that exist."""

    def held_pairs(self, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of the pairs of device and key of which there are readings."""

    def count_held(self, device_ids: Sequence[int]) -> dict[int, int]:
        """How many keys each device has; devices without keys are left out."""

    def count_keys(self) -> int:
        """How many keys exist."""

    def key_ids(self, names: Sequence[str]) -> dict[str, int]:
        """The number of each key; adds those that are new, in a transaction of its own."""

    def write(self, batch: Batch) -> None:
        """Writes and commits all of `batch` or nothing. A reading that is stored already stays as it is. Raises
        UnknownKeyError if a key has been deleted, and what the driver raises."""

    def abort(self) -> None:
        """Makes the call that another thread is in fail, as far as that is possible. Does not block, raises nothing."""

    def close(self) -> None:
        """Closes the connection; the next call opens a new one. Raises nothing."""
