"""Readings that are committed together, and what the writers and the dashboards need to know of them."""

import asyncio
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Final

from devices.keys import NewKeysMessage
from devices.writers import Row, Seen

NEWEST_PER_DEVICE: Final = 200
"""How many of its readings in a commit are told to those who watch a device."""

_time = itemgetter(2)


class Submission:
    """The part of one device in a batch: its name, the future of the commit, and a function from the name of a key to
    its number, of the keys known when the batch began: one look-up less for each message."""

    __slots__ = ("future", "known_key", "name")

    def __init__(self, name: str, future: "asyncio.Future[None]", known_key: Callable[[str], int | None]) -> None:
        self.name = name
        self.future = future
        self.known_key = known_key


class ReadingBatch:
    """Readings that are committed together."""

    __slots__ = (
        "_max_clock_skew_ms",
        "ahead",
        "clock_went_back",
        "is_numbered",
        "key_names",
        "latest",
        "new_keys",
        "now_ms",
        "received_ms",
        "rows",
        "seen",
        "skews_ms",
        "submissions",
    )

    def __init__(self, max_clock_skew_ms: int, key_names: Mapping[int, str]) -> None:
        """`max_clock_skew_ms` is how far the time of a reading may be ahead of when it was received."""
        self._max_clock_skew_ms = max_clock_skew_ms
        self.key_names = key_names
        """The names of keys by their numbers; once the batch is committed, all that its rows have."""
        self.rows: list[Row] = []
        self.new_keys: list[NewKeysMessage] = []
        """Messages with keys that their device is not known to have."""
        self.is_numbered = False
        """Whether those messages have been checked, and the rows of those that are not refused are among `rows`."""
        self.submissions: dict[int, Submission] = {}
        """The devices in it, by their id."""
        self.received_ms = 0
        self.now_ms = 0
        self.clock_went_back = False
        """Whether a row was received, by the gateway's clock, before one that had come before it."""
        self.skews_ms: dict[int, int] = {}
        """By how much the clock of a device is ahead at most, for devices with rows too far ahead."""
        self.seen: Sequence[Seen] = ()
        """The devices to mark as heard from, each with the time."""
        self.latest: Sequence[Sequence[Row]] = ()
        """The rows with the greatest time of each device and key, which `summarize` finds: in one step, and one more
        for each time that the clock was put back."""
        self.ahead: Sequence[Row] = ()
        """Of each device and key with rows too far ahead, one such row."""

    def part_of(self, device_id: int) -> "ReadingBatch":
        """What one device has in it, as a batch of its own."""
        part = ReadingBatch(self._max_clock_skew_ms, self.key_names)
        part.rows = [row for row in self.rows if row[0] == device_id]
        part.new_keys = [message for message in self.new_keys if message.device.device_id == device_id]
        part.is_numbered = self.is_numbered
        part.submissions = {device_id: self.submissions[device_id]}
        part.received_ms = self.received_ms
        part.clock_went_back = self.clock_went_back
        part.skews_ms = {device: skew_ms for device, skew_ms in self.skews_ms.items() if device == device_id}
        part.seen = [entry for entry in self.seen if entry.device_id == device_id]
        return part

    def size(self) -> int:
        """How many readings it has."""
        looked_at = 0 if self.is_numbered else sum(message.size() for message in self.new_keys)
        return len(self.rows) + looked_at

    def number(self) -> None:
        """Moves the rows of messages that were checked, and not refused, among `rows`, in the order of arrival."""
        rows: list[Row] = []
        place = 0
        refused: set[int] = set()
        for message in self.new_keys:
            if message.refusal is not None:
                refused.add(message.device.device_id)
                continue
            # `place` counts rows of before, and those of a part are fewer: what is beyond them comes at the end.
            rows += self.rows[place : message.place]
            rows += message.numbered()
            place = max(place, message.place)
        rows += self.rows[place:]
        self.rows = rows
        self.is_numbered = True
        if refused:
            refused -= {row[0] for row in rows}
            self.seen = [entry for entry in self.seen if entry.device_id not in refused]

    def renumber(self, numbers: dict[int, int]) -> None:
        """Gives keys other numbers."""
        self.rows = [(row[0], numbers[row[1]], *row[2:]) for row in self.rows]

    def summarize(self) -> None:
        """Finds `latest` and `ahead`; of rows with the same time, the last to arrive."""
        rows = self.rows
        if self.skews_ms:
            self.ahead = list({row[:2]: row for row in rows if self._is_ahead(row)}.values())
            rows = [row for row in rows if not self._is_ahead(row)]
        # The sort keeps the order of arrival among equals, and the dict the last of them. Most rows come in the order
        # of their times, which sorting makes use of: it all takes half of the time of a loop that compares.
        steps = _steps(rows) if self.clock_went_back else [rows]
        self.latest = [list({row[:2]: row for row in sorted(step, key=_time)}.values()) for step in steps if step]

    def newest_of(self, device_ids: Container[int]) -> dict[int, deque[Row]]:
        """The newest rows of these devices, NEWEST_PER_DEVICE of each at most, in the order of arrival; none that is
        too far ahead."""
        newest: dict[int, deque[Row]] = {}
        for row in self.rows:
            device_id = row[0]
            if device_id in device_ids and not (self.skews_ms and self._is_ahead(row)):
                if device_id not in newest:
                    newest[device_id] = deque(maxlen=NEWEST_PER_DEVICE)
                newest[device_id].append(row)
        return newest

    def _is_ahead(self, row: Row) -> bool:
        return row[2] - self._max_clock_skew_ms > row[4]


def _steps(rows: list[Row]) -> list[list[Row]]:
    """The rows, in their order, in parts: of each, no row was received before the one before it."""
    starts = [place for place in range(1, len(rows)) if rows[place][4] < rows[place - 1][4]]
    return [rows[start:end] for start, end in pairwise([0, *starts, len(rows)])]
