"""What a writer is given and what it does.

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
    """Raised when a key is written of which there are no readings any more, so that its number was given up."""


class DatabaseReplacedError(Exception):
    """Raised when the database that is there is another than before, so that the numbers of devices and keys that are
    known are not those of this one. Nothing was written; what comes next is."""


class Seen(NamedTuple):
    """When a device was heard of, and by how much its clock is ahead, if that is more than is allowed; in ms."""

    device_id: int
    at_ms: int
    clock_skew_ms: int | None = None


class Batch(Protocol):
    """What is committed together."""

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
        """The devices heard of. Stored is what is newer than what is there, and where that is ahead of `now_ms`."""

    @property
    def now_ms(self) -> int:
        """The gateway's clock while this is written."""


class Writer(Protocol):
    """Writes batches. It is called from one thread at a time, not always the same."""

    data_errors: tuple[type[Exception], ...]
    """What is raised when something in the batch can never be written. After any other exception, of a database that is
    away, locked, read-only, full or without its tables, the same batch may be written later."""

    def find_keys(self, names: Sequence[str]) -> dict[str, int]:
        """The number of each key that there is."""

    def held_pairs(self, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of the pairs of device and key of which there are readings."""

    def count_held(self, device_ids: Sequence[int]) -> dict[int, int]:
        """How many keys devices have; without those that have none."""

    def count_keys(self) -> int:
        """How many keys there are."""

    def key_ids(self, names: Sequence[str]) -> dict[str, int]:
        """The number of each key, in a transaction of its own; new ones are added."""

    def write(self, batch: Batch) -> None:
        """Writes and commits all of `batch` or nothing. A reading that is stored already stays as it is. Raises
        UnknownKeyError if a key is there no more, and what its driver raises."""

    def abort(self) -> None:
        """Makes a call that another thread waits for fail, as far as that is possible. Blocks not, raises nothing."""

    def close(self) -> None:
        """Closes the connection; the next call opens a new one. Raises nothing."""
