"""The only writer of readings: collects them from all connections and commits them in groups.

A group is whatever came while the last commit ran, so there is no interval to tune: an idle gateway commits each
reading at once, a busy one thousands together. The acknowledgement of everything in a group waits for one future, which
is resolved when the commit has returned; dashboards are told after that.

While the database is away, locked or read-only, the same group is tried again until it is stored. Meanwhile at most
MAX_WAITING further readings are taken, then `ready` blocks, consumers stop taking events, and sockets wait. Nothing is
dropped.

Two readings of one key and one time are told apart by `seq`. If the device gave the time, it is a hash of the value: a
message sent again is stored once, and two different values are both kept. If the server did, it is a count: equal
values in one millisecond are both kept.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from zlib import crc32

from devices import metrics
from devices.credentials import Identity
from devices.models import now_ms
from devices.profiles import Point
from devices.writers import Row, Writer
from gateway.exceptions import Reject

logger = logging.getLogger("gateway.ingest")

MAX_WAITING: Final = 50_000
MAX_KNOWN_KEYS: Final = 100_000
NEWEST_PER_DEVICE: Final = 200
RETRY_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0)
LOG_INTERVAL_S: Final = 10.0
SEEN_INTERVAL_MS: Final = 1_000
_MASK: Final = 0x7FFF_FFFF
UNSTORABLE: Final = 0x83  # implementation specific error [MQTT5-2.4]


class Group:
    """Readings to be committed together, and the future that says when they are."""

    __slots__ = ("future", "latest", "names", "newest", "received_ms", "rows", "seen", "unnumbered")

    def __init__(self, future: "asyncio.Future[None]") -> None:
        self.future = future
        self.rows: list[Row] = []
        self.unnumbered: list[tuple[int, str, int, int, int, float | None, str | None]] = []
        """Rows with the name of a key whose number is not known yet."""
        self.names: dict[int, str] = {}
        """The devices in it: id -> name."""
        self.received_ms = 0
        # Set by `summarize`, once the rows are complete.
        self.latest: Sequence[Row] = ()
        self.newest: dict[int, deque[Row]] = {}
        self.seen: Sequence[tuple[int, int]] = ()

    def __len__(self) -> int:
        return len(self.rows) + len(self.unnumbered)

    def number(self, key_ids: dict[str, int]) -> None:
        """Completes the rows that had only the name of their key."""
        for device_id, name, *rest in self.unnumbered:
            self.rows.append((device_id, key_ids[name], *rest))  # type: ignore[arg-type]
        self.unnumbered.clear()

    def summarize(self) -> None:
        """Finds the latest row of each device and key, and the newest rows of each device, in order of arrival."""
        latest: dict[tuple[int, int], Row] = {}
        newest = {device_id: deque[Row](maxlen=NEWEST_PER_DEVICE) for device_id in self.names}
        for row in self.rows:
            newest[row[0]].append(row)
            key = row[:2]
            known = latest.get(key)
            if known is None or row[2] >= known[2]:
                latest[key] = row
        self.latest = list(latest.values())
        self.newest = newest


class Ingest:
    """Takes readings from the event loop and commits them in one thread."""

    def __init__(self, writer: Writer, *, on_commit: Callable[[Group], None]) -> None:
        """`on_commit` is called in the event loop with each group that is stored."""
        self._writer = writer
        self._on_commit = on_commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ingest")
        self._key_ids: dict[str, int] = {}
        self._key_names: dict[int, str] = {}
        self._seen: dict[int, int] = {}
        self._counter = random.getrandbits(31)
        self._uncommitted = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = False
        self._group = self._new_group()
        self._task: asyncio.Task[None] | None = None
        self._logged_at = -LOG_INTERVAL_S
        self.failure: str | None = None
        """Why nothing can be committed now; None while all is well."""
        metrics.readings_waiting.set_function(lambda: self._uncommitted)

    def start(self) -> None:
        """Begins to commit."""
        self._task = asyncio.get_running_loop().create_task(self._commit_groups(), name="ingest")

    async def close(self) -> None:
        """Commits what was submitted, however long that takes; cancelling it gives up, and nothing is acknowledged."""
        self._closing = True
        self._work.set()
        if self._task is not None:
            try:
                await self._task
            finally:
                self._task.cancel()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.close)
        self._thread.shutdown(wait=False)

    @property
    def has_room(self) -> bool:
        """Whether more readings may be submitted at once; else `ready` is to be awaited first."""
        return self._uncommitted < MAX_WAITING

    async def ready(self) -> None:
        """Returns when there is room: when the database has caught up."""
        while not self.has_room:
            self._room.clear()
            await self._room.wait()

    def submit(self, device: Identity, points: Sequence[Point], received_ms: int) -> "asyncio.Future[None]":
        """Takes what one message had, and returns the future of its commit, which many messages share.

        Do not await that future itself, since cancelling the waiter would cancel it for all; see `store`. It ends in
        `Reject` if the database can never take the readings.
        """
        group = self._group
        device_id = device.device_id
        group.names[device_id] = device.name
        group.received_ms = received_ms
        key_ids = self._key_ids
        rows = group.rows
        for key, ts, number, text in points:
            if ts is None:
                ts = received_ms
                seq = self._counter = (self._counter + 1) & _MASK
            else:
                seq = _stable_hash(number, text)
            key_id = key_ids.get(key)
            if key_id is not None:
                rows.append((device_id, key_id, ts, seq, received_ms, number, text))
            else:
                group.unnumbered.append((device_id, key, ts, seq, received_ms, number, text))
        self._uncommitted += len(points)
        self._work.set()
        return group.future

    async def store(self, device: Identity, points: Sequence[Point]) -> None:
        """Returns when `points` are committed. Raises Reject if the database can never take them."""
        await self.ready()
        await asyncio.shield(self.submit(device, points, now_ms()))

    def key_name(self, key_id: int) -> str:
        """The name of a key that was in a committed group."""
        return self._key_names[key_id]

    # Committing

    def _new_group(self) -> Group:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        return Group(future)

    async def _commit_groups(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            group = self._group
            if not group.names:
                if self._closing:
                    return
                continue
            self._group = self._new_group()
            group.seen = self._newly_seen(group)
            error = await self._commit(group)
            self._uncommitted -= len(group)
            self._room.set()
            if self._closing:
                self._work.set()
            if error is not None:
                group.future.set_exception(error)
                continue
            group.future.set_result(None)
            self._on_commit(group)

    async def _commit(self, group: Group) -> Reject | None:
        """Stores the group, trying again while the database is away; returns what to tell the devices if it cannot."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            started = time.perf_counter()
            try:
                key_ids = await loop.run_in_executor(self._thread, self._write, group)
            except self._writer.transient_errors as error:
                self._note_failure(error)
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1
            except Exception as error:
                logger.exception("the database refuses a reading among %d as data: writing them one by one", len(group))
                self.failure = None
                return await loop.run_in_executor(self._thread, self._salvage, group, error)
            else:
                if self.failure is not None:
                    logger.warning("readings are committed again, after %d attempts", attempt)
                    self.failure = None
                self._learn(key_ids)
                metrics.commit_seconds.observe(time.perf_counter() - started)
                metrics.commits.inc()
                metrics.readings_committed.inc(len(group))
                return None

    def _write(self, group: Group) -> dict[str, int]:
        """In the thread: stores the group and returns the numbers of the keys that were new to this process."""
        key_ids: dict[str, int] = {}
        try:
            if group.unnumbered:
                key_ids = self._writer.key_ids(sorted({row[1] for row in group.unnumbered}))
                self._key_names.update({key_id: name for name, key_id in key_ids.items()})
                group.number(key_ids)
            group.summarize()
            self._writer.write(group)
        except Exception:
            self._writer.close()
            raise
        return key_ids

    def _salvage(self, group: Group, error: Exception) -> Reject | None:
        """In the thread: stores row by row what the database takes of a group that it refused as a whole."""
        refused = 0
        for row in group.rows:
            single = Group(group.future)
            single.rows = single.latest = [row]
            try:
                self._writer.write(single)
            except Exception as fault:
                self._writer.close()
                refused += 1
                logger.error("cannot be stored: %r of device %d: %s", row, row[0], fault)  # noqa: TRY400
        metrics.readings_unstorable.inc(refused)
        if refused or group.unnumbered:
            return Reject(UNSTORABLE, f"the database refuses this: {type(error).__name__}", disconnect=True)
        return None

    def _learn(self, key_ids: dict[str, int]) -> None:
        if len(self._key_ids) + len(key_ids) > MAX_KNOWN_KEYS:
            self._key_ids.clear()
        self._key_ids.update(key_ids)

    def _newly_seen(self, group: Group) -> list[tuple[int, int]]:
        """Devices to be marked as heard of: each once a second at most, which is as fine as people look at it."""
        at = group.received_ms
        seen = self._seen
        due = [device_id for device_id in group.names if at - seen.get(device_id, 0) >= SEEN_INTERVAL_MS]
        seen.update(dict.fromkeys(due, at))
        return [(at, device_id) for device_id in due]

    def _note_failure(self, error: Exception) -> None:
        self.failure = f"{type(error).__name__}: {error}".strip()
        metrics.commit_failures.labels(type(error).__name__).inc()
        now = time.monotonic()
        if now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            logger.error(
                "cannot commit %d readings, devices wait; trying again until it works: %s",
                self._uncommitted,
                self.failure,
            )


def _stable_hash(number: float | None, text: str | None) -> int:
    """The same for the same value in every process, unlike the hash of a string."""
    if text is None:
        return hash(number) & _MASK  # that of a number does not depend on the process
    return crc32(text.encode()) & _MASK


def _retrieve(future: "asyncio.Future[None]") -> None:
    """Keeps asyncio from logging an exception that no connection is left to be told of."""
    if not future.cancelled():
        future.exception()
