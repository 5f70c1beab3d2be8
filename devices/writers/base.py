"""What a writer is given and what it does."""

from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

Row: TypeAlias = "tuple[int, int, int, int, int, float | None, str | None]"
"""A row of the table of readings: device_id, key_id, ts, seq, received, number, text."""

READINGS: Final = "gateway_devices_reading"
LATEST: Final = "gateway_devices_latestvalue"
KEYS: Final = "gateway_devices_key"
DEVICES: Final = "gateway_devices_device"
ROW_COLUMNS: Final = "device_id, key_id, ts, seq, received, number, text"
LATEST_COLUMNS: Final = "device_id, key_id, ts, received, number, text"


class Batch(Protocol):
    """What is committed together."""

    @property
    def rows(self) -> Sequence[Row]:
        """The readings."""

    @property
    def latest(self) -> Sequence[Row]:
        """The row with the greatest `ts` of each device and key in `rows`."""

    @property
    def seen(self) -> Sequence[tuple[int, int]]:
        """When devices were last heard of: (ms, device_id)."""


class Writer(Protocol):
    """Writes batches. It is called from one thread at a time, not always the same."""

    data_errors: tuple[type[Exception], ...]
    """What is raised when something in the batch can never be written. After any other exception, of a database that is
    away, locked, read-only, full or without its tables, the same batch may be written later."""

    def key_ids(self, names: Sequence[str]) -> dict[str, int]:
        """The number of each key, in a transaction of its own; new ones are added."""

    def write(self, batch: Batch) -> None:
        """Writes and commits all of `batch` or nothing. A reading that is stored already stays as it is."""

    def abort(self) -> None:
        """Makes a call that another thread waits for fail, as far as that is possible. Blocks not, raises nothing."""

    def close(self) -> None:
        """Closes the connection; the next call opens a new one. Raises nothing."""
