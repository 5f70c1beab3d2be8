"""The only writer of readings: collects them from all connections and commits them in batches.

A batch is whatever came while the last commit ran, so there is no interval to tune: an idle gateway commits each
reading at once, a busy one thousands together. The acknowledgement of everything that a device has in a batch waits for
one future, which is resolved when the commit has returned; dashboards are told after that.

While the database is away, locked or read-only, the same batch is tried again until it is stored. An attempt that takes
longer than SLOW_S is reported as a failure while it goes on; one that takes longer than ATTEMPT_S is ended, and the
batch is retried: whatever became of the attempt, nothing is stored twice. Meanwhile at most MAX_WAITING further
readings are taken, then `ready` blocks, consumers stop taking events, and sockets wait. Nothing is dropped. Should the
database refuse a value as data, which profiles are there to prevent, the devices of the batch are written one by one,
and only the one at fault is refused.

A message with a key that its device is not known to have is checked in the thread, before anything is written, and
has a future of its own: see devices.keys.

`seq` distinguishes two readings of one key and one time. If the device gave the time, it is a hash of the value: a
message sent again is stored once, and two different values are both kept. If the server did, it is a count: equal
values in one millisecond are both kept.
"""

import asyncio
import logging
import random
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar
from zlib import crc32

from django.db import connections

from devices import metrics
from devices.credentials import Identity
from devices.keys import NO_KEYS, KeyBounds, KnownKeys, NewKeysMessage, UnnumberedRow
from devices.limits import DeviceOptions
from devices.models import now_ms
from devices.profiles import Point
from devices.reading_batch import ReadingBatch, Submission
from devices.refusals import MessageRefusal, RefusedError
from devices.values import duration_text
from devices.writers import DatabaseReplacedError, Row, Seen, UnknownKeyError, Writer
from protocols.log_lines import PeerLog, RateLimitedLog

logger = logging.getLogger("gateway.ingest")
peer_log = PeerLog("gateway.ingest")

MAX_WAITING: Final = 50_000
RETRY_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0)
SLOW_S: Final = 4.0
"""How long an attempt may take before /readyz and the log say that readings are not committed."""
ATTEMPT_S: Final = 40.0
"""How long an attempt may take. More than `tcp_user_timeout` and `statement_timeout`, whose errors say what is
wrong."""
MAX_DOUBLINGS: Final = 4
"""How often the time of an attempt doubles after one that was ended: a database that is only slow gets through."""
SEEN_INTERVAL_S: Final = 1.0
BYTES_PER_READING: Final = 64
"""What a reading with text counts for one reading of; long texts count for many."""
EARLIEST_PLAUSIBLE_TS: Final = 100_000_000_000
"""1973, as milliseconds; as seconds it is the year 5138."""


_MASK: Final = 0x7FFF_FFFF
_pack_double = struct.Struct("<d").pack


T = TypeVar("T")


class Ingest:
    """Takes readings from the event loop and commits them in one thread."""

    def __init__(
        self,
        writer: Writer,
        *,
        on_commit: Callable[[ReadingBatch], None],
        on_replaced: Callable[[], None] = lambda: None,
        options: DeviceOptions,
        slow_s: float = SLOW_S,
        attempt_s: float = ATTEMPT_S,
        now_ms: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_commit`, which must not raise, is called in the event loop with each batch that is stored; `on_replaced`
        when another database has taken the place of the one before, so that nothing that was read from it is true any
        more. `now_ms` and `monotonic` are the clocks, that of people and one in seconds that nobody puts right."""
        self._writer = writer
        self._slow_s = slow_s
        self._attempt_s = attempt_s
        self._on_commit = on_commit
        self._on_replaced = on_replaced
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._max_clock_skew_ms = options.max_clock_skew_ms
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ingest")
        self._known_keys = KnownKeys()
        self._keys_of_device = self._known_keys.of_device  # at hand: `submit` is called for each message
        self._key_bounds = KeyBounds(writer, options)
        self._key_names: dict[int, str] = {}
        self._seen: dict[int, float] = {}
        self._flagged: set[int] = set()
        self._counter = random.getrandbits(31)
        self._uncommitted = 0
        self._submitted = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = False
        self._batch = self._new_batch()
        self._task: asyncio.Task[None] | None = None
        self._limited_log = RateLimitedLog(logger)
        self.failure: str | None = None
        """Why nothing can be committed now; None while all is well."""
        metrics.readings_waiting.set_function(lambda: self._uncommitted)

    def start(self) -> "asyncio.Task[None]":
        """Starts committing. Returns the task, which only `close` ends."""
        self._task = asyncio.get_running_loop().create_task(self._commit_batches(), name="ingest")
        return self._task

    async def close(self) -> None:
        """Commits what was submitted, however long that takes; cancelling it gives up, and nothing is acknowledged."""
        self._closing = True
        self._work.set()
        if self._task is not None:
            try:
                await self._task
            finally:
                self._task.cancel()
        for close in (self._writer.close, connections.close_all):
            await asyncio.get_running_loop().run_in_executor(self._thread, close)
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
        """Adds the readings of one message to the batch. Returns the future of the commit, which the device's messages
        share.

        Do not await that future itself, since cancelling the waiter would cancel it for all; see `store`. It raises
        RefusedError if the database can never store the device's readings, or if there are too many new keys.
        """
        batch = self._batch
        device_id = device.device_id
        submission = batch.submissions.get(device_id)
        known_key: Callable[[str], int | None]
        if submission is None:
            known_key = self._keys_of_device.get(device_id, NO_KEYS).get
            submission = batch.submissions[device_id] = Submission(device.name, _new_future(), known_key)
            self._work.set()
        else:
            known_key = submission.known_key
        rows: list[Row] = []
        unnumbered: list[UnnumberedRow] = []
        size = len(points)
        odd: list[int] | None = None
        furthest = received_ms + self._max_clock_skew_ms
        for key, ts, number, text in points:
            if ts is None:
                ts = received_ms
                seq = self._counter = (self._counter + 1) & _MASK
            else:
                seq = _stable_hash(number, text)
                if not EARLIEST_PLAUSIBLE_TS <= ts <= furthest:
                    if odd is None:
                        odd = []
                    odd.append(ts)
            if text is not None:
                size += len(text) // BYTES_PER_READING
            key_id = known_key(key)
            if key_id is not None:
                rows.append((device_id, key_id, ts, seq, received_ms, number, text))
            else:
                unnumbered.append((device_id, key, ts, seq, received_ms, number, text))
        if odd:
            self._note_times(device, odd, received_ms)
        if received_ms < batch.received_ms:
            batch.clock_went_back = True
        batch.received_ms = received_ms
        self._uncommitted += size
        self._submitted += size
        if unnumbered:
            future = _new_future()
            batch.new_keys.append(NewKeysMessage(device, rows, unnumbered, len(batch.rows), future))
            return future
        batch.rows += rows
        return submission.future

    async def store(self, device: Identity, points: Sequence[Point]) -> None:
        """Returns when `points` are committed. Raises RefusedError if they are not to be stored, ever."""
        await self.ready()
        await asyncio.shield(self.submit(device, points, self._now_ms()))

    async def between_commits(self, function: Callable[[], T]) -> T:
        """Calls `function` in the thread that commits, between two commits."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def forget_keys(self, device_id: int) -> None:
        """Forgets which keys a device has, some of which may have been deleted."""
        self._known_keys.forget(device_id)

    # Committing

    def _new_batch(self) -> ReadingBatch:
        return ReadingBatch(self._max_clock_skew_ms, self._key_names)

    async def _commit_batches(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            batch = self._batch
            if not batch.submissions:
                if self._closing:
                    return
                continue
            self._batch = self._new_batch()
            size, self._submitted = self._submitted, 0
            batch.seen = self._newly_seen(batch)
            await self._commit(batch)
            self._uncommitted -= size
            self._room.set()
            if self._closing:
                self._work.set()

    async def _commit(self, batch: ReadingBatch) -> None:
        """Stores the batch and resolves its futures."""
        try:
            await self._store(batch)
        except DatabaseReplacedError as error:
            self._start_over(batch, error)
            return
        except self._writer.data_errors as error:
            if len(batch.submissions) > 1:
                text = "the database refuses a value among %d readings"
                peer_log.error("readings", text, batch.size(), exc_info=error)
                for device_id in batch.submissions:
                    await self._commit(batch.part_of(device_id))
                return
            ((device_id, submission),) = batch.submissions.items()
            metrics.readings_unstorable.inc(batch.size())
            text, peer = "the database refuses what %s (%d) sent: %s", f"device/{device_id}"
            peer_log.error(peer, text, submission.name, device_id, error)
            refusal = RefusedError(MessageRefusal.UNSTORABLE, f"cannot be stored: {error}")
            _resolve(submission.future, refusal)
            for message in batch.new_keys:
                _resolve(message.future, message.refusal or refusal)
            return
        for submission in batch.submissions.values():
            _resolve(submission.future)
        for message in batch.new_keys:
            _resolve(message.future, message.refusal)
        self._on_commit(batch)

    async def _store(self, batch: ReadingBatch) -> None:
        """Writes the batch; retries as long as the database is away. Raises the writer's data_errors."""
        loop = asyncio.get_running_loop()
        attempt = doublings = 0
        began = time.perf_counter()
        while True:
            started = time.perf_counter()
            limit_s = self._attempt_s * 2**doublings
            try:
                with self._limited(limit_s):
                    keys_are_known = await loop.run_in_executor(self._thread, self._write, batch)
            except DatabaseReplacedError:
                self.failure = None
                raise
            except self._writer.data_errors:
                self.failure = None
                raise
            except Exception as error:  # whatever a driver raises: the readings are here, and stay
                self._note_failure(error)
                if time.perf_counter() - started >= limit_s:
                    doublings = min(doublings + 1, MAX_DOUBLINGS)
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1
            else:
                break
        if self.failure is not None:
            waited_s = time.perf_counter() - began
            logger.warning("readings are committed again, after %.1f s and %d failed attempts", waited_s, attempt)
            self.failure = None
        if not keys_are_known:
            self._known_keys.clear()
        for message in batch.new_keys:
            if keys_are_known and message.refusal is None:
                self._known_keys.add(message.device.device_id, message.numbers)
        metrics.commit_seconds.observe(time.perf_counter() - started)
        metrics.commits.inc()
        metrics.readings_committed.inc(len(batch.rows))

    def _start_over(self, batch: ReadingBatch, error: DatabaseReplacedError) -> None:
        """Forgets what it knew of the database before, and refuses the readings that wait: in the database of now they
        may be another device's. A device that sends them again has been looked up in this one."""
        logger.error("%s: devices are cut off, and come back as they are known to this one", error)
        forming, self._batch = self._batch, self._new_batch()
        self._uncommitted -= self._submitted
        self._submitted = 0
        self._known_keys.clear()
        self._seen.clear()
        self._flagged.clear()
        self._on_replaced()  # first, so that connections end without an answer, and the readings are sent again
        refusal = RefusedError(MessageRefusal.REPLACED, "the database was replaced; send it again")
        for refused in (batch, forming):
            for submission in refused.submissions.values():
                _resolve(submission.future, refusal)
            for message in refused.new_keys:
                _resolve(message.future, refusal)

    @contextmanager
    def _limited(self, limit_s: float) -> Iterator[None]:
        """Around an attempt: reports when it is slow, and ends it after `limit_s`."""
        loop = asyncio.get_running_loop()
        slow = loop.call_later(self._slow_s, self._note_slow)
        end = loop.call_later(limit_s, self._writer.abort)
        try:
            yield
        finally:
            slow.cancel()
            end.cancel()

    def _write(self, batch: ReadingBatch) -> bool:
        """In the thread: stores the batch. False if a known key had been deleted meanwhile."""
        try:
            if batch.new_keys and not batch.is_numbered:
                self._key_bounds.look_at(batch.new_keys)
                for message in batch.new_keys:
                    self._key_names.update({key_id: name for name, key_id in message.numbers.items()})
                batch.number()
            batch.summarize()
            batch.now_ms = self._now_ms()
            try:
                self._writer.write(batch)
            except UnknownKeyError:
                self._renumber(batch)
                batch.summarize()
                self._writer.write(batch)
                return False
        except Exception:
            self._writer.close()
            raise
        return True

    def _renumber(self, batch: ReadingBatch) -> None:
        names = {row[1]: self._key_names[row[1]] for row in batch.rows}
        key_ids = self._writer.key_ids(sorted(set(names.values())))
        self._key_names.update({key_id: name for name, key_id in key_ids.items()})
        batch.renumber({number: key_ids[name] for number, name in names.items()})

    def _newly_seen(self, batch: ReadingBatch) -> list[Seen]:
        """The devices to mark as heard from: each once a second at most, which is fine enough for people; and at once
        when its clock is found to be ahead, or no longer is."""
        now = self._monotonic()
        not_since = now - SEEN_INTERVAL_S
        seen = self._seen
        due = [device_id for device_id in batch.submissions if seen.get(device_id, not_since) <= not_since]
        seen.update(dict.fromkeys(due, now))
        skews_ms = batch.skews_ms
        if skews_ms or self._flagged:
            changed = batch.submissions.keys() & (self._flagged | skews_ms.keys())
            due = [*changed.union(due)]
            self._flagged = self._flagged - changed | skews_ms.keys()
        return [Seen(device_id, batch.received_ms, skews_ms.get(device_id)) for device_id in due]

    def _note_slow(self) -> None:
        metrics.commits_slow.inc()
        self._tell_failure(f"no answer from the database for {self._slow_s:g} s")

    def _note_failure(self, error: Exception) -> None:
        metrics.commit_failures.labels(type(error).__name__).inc()
        self._tell_failure(f"{type(error).__name__}: {error}".strip())

    def _tell_failure(self, failure: str) -> None:
        self.failure = failure
        self._limited_log.error("cannot commit, devices wait; trying again until it works: %s", failure)

    def _note_times(self, device: Identity, odd: list[int], received_ms: int) -> None:
        """Counts and logs times that no correct clock has."""
        peer = f"device/{device.device_id}"
        early = [ts for ts in odd if ts < EARLIEST_PLAUSIBLE_TS]
        if early:
            metrics.timestamps_in_seconds.inc(len(early))
            text = "%s (%d) sends the time %d, which in milliseconds is 1970: is it in seconds?"
            peer_log.warning(peer, text, device.name, device.device_id, early[0])
        if len(early) < len(odd):
            metrics.timestamps_in_the_future.inc(len(odd) - len(early))
            skew_ms = max(odd) - received_ms
            skews_ms = self._batch.skews_ms
            skews_ms[device.device_id] = max(skew_ms, skews_ms.get(device.device_id, 0))
            text = "%s (%d) sends the time %d, %s ahead of the gateway's clock: it does not become the latest value"
            peer_log.warning(peer, text, device.name, device.device_id, max(odd), duration_text(skew_ms))


def _stable_hash(number: float | None, text: str | None) -> int:
    """The same for the same value in every process."""
    return crc32(_pack_double(number) if text is None and number is not None else (text or "").encode()) & _MASK


def _new_future() -> "asyncio.Future[None]":
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(_retrieve)
    return future


def _resolve(future: "asyncio.Future[None]", refusal: RefusedError | None = None) -> None:
    if future.done():  # it may have been cancelled, by who awaited it
        return
    if refusal is None:
        future.set_result(None)
    else:
        future.set_exception(refusal)


def _retrieve(future: "asyncio.Future[None]") -> None:
    """Keeps asyncio from logging an exception when no connection is left to report it to."""
    if not future.cancelled():
        future.exception()
