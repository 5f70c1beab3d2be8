"""Writes what the journal records: one thread, one commit at a time, each of whatever came while the last one ran.

Output that tells a client that something is kept waits for the commit that keeps it (commit_gate.py). While the store
is away, locked or full, the same group is tried again until it is stored, and connections that wait for it are not
read. A store that does not answer within SLOW_S has failed, too, as far as others are told, while it is waited for.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from protocols import metrics
from protocols.log_lines import RateLimitedLog
from protocols.mqtt.storage.journal import Journal
from protocols.mqtt.storage.rows import Changes, Row, RowKind, Store, StoreError, StoreTakenError, changes_of

logger = logging.getLogger("gateway.mqtt")

RETRY_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0)
LOG_INTERVAL_S: Final = 60.0
SLOW_S: Final = 4.0
"""How long a store may take before it counts as failing: /readyz and the log say so."""


class Waiter(Protocol):
    """Who has output that waits for a commit."""

    def committed(self) -> None:
        """A group has been committed; others may be needed still."""


class Committer:
    """Takes groups from the journal and hands them to the store, in a thread of its own."""

    def __init__(self, store: Store, journal: Journal, *, on_taken: Callable[[], None], slow_s: float = SLOW_S) -> None:
        """`on_taken` is called in the event loop if another process takes the store over."""
        self._store = store
        self._journal = journal
        self._on_taken = on_taken
        self._slow_s = slow_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mqtt-store")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: dict[Waiter, None] = {}
        self._is_busy = False
        self._is_closed = False
        self._idle: asyncio.Future[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._limited_log = RateLimitedLog(logger, LOG_INTERVAL_S)
        self._attempts = 0

    async def open(self) -> Mapping[RowKind, Iterable[Row]]:
        """Opens the store, and returns what it has. Raises StoreError."""
        self._loop = asyncio.get_running_loop()
        return await self._loop.run_in_executor(self._thread, self._open)

    def _open(self) -> Mapping[RowKind, Iterable[Row]]:
        self._store.open()
        return self._store.load()

    @property
    def journal(self) -> Journal:
        """Whose groups it writes."""
        return self._journal

    @property
    def is_closed(self) -> bool:
        """Whether nothing is written any more: it was told to close, or another process has the store."""
        return self._is_closed

    def call_when_committed(self, waiter: Waiter) -> None:
        """Calls `waiter.committed` once, after the next commit, which begins when this pass of the loop is through."""
        if not self._waiters and not self._is_busy:
            assert self._loop is not None
            self._loop.call_soon(self._poke)
        self._waiters[waiter] = None

    def forget(self, waiter: Waiter) -> None:
        """The waiter needs no call."""
        self._waiters.pop(waiter, None)

    def _poke(self) -> None:
        """Begins a commit if something waits for one and none is under way."""
        if self._journal.wanted and not self._is_busy:
            self._begin()

    def tick(self) -> None:
        """To be called about once a second: commits what nothing waits for, too."""
        if self._is_busy:
            return
        if self._journal.is_dirty:
            self._begin()
        else:
            self._run(self._store.keep, self._kept)

    async def flush(self) -> None:
        """Returns when all that has been recorded so far is committed, however long that takes."""
        while (self._is_busy or self._journal.is_dirty) and not self._is_closed:
            if not self._is_busy:
                self._begin()
            if self._is_busy:
                assert self._loop is not None
                self._idle = self._loop.create_future()
                await self._idle

    def close(self) -> None:
        """Closes the store, whatever is not committed; see `flush`. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._thread.submit(self._store.close)
        self._thread.shutdown(wait=False)

    # One commit

    def _begin(self) -> None:
        if self._is_closed:
            return
        assert self._loop is not None
        number, change_set = self._journal.close_group()
        changes = changes_of(change_set, to_wall=time.time() - self._loop.time())
        if changes:
            self._write(number, changes)
        else:  # all of it came and went
            self._committed(number)

    def _write(self, number: int, changes: Changes) -> None:
        started = time.perf_counter()

        def written(error: BaseException | None) -> None:
            if error is None:
                metrics.mqtt_commit_seconds.observe(time.perf_counter() - started)
                metrics.mqtt_committed_rows.inc(len(changes))
                self._note_success()
                self._committed(number)
            elif self._failed(error):
                assert self._loop is not None
                delay_s = RETRY_S[min(self._attempts, len(RETRY_S)) - 1]
                self._retry = self._loop.call_later(delay_s, self._write, number, changes)

        self._run(lambda: self._store.write(changes), written)

    def _committed(self, number: int) -> None:
        self._is_busy = False
        self._journal.committed = number
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter.committed()
        self._poke()
        self._wake()

    def _kept(self, error: BaseException | None) -> None:
        self._is_busy = False
        if error is None:
            self._note_success()
        else:
            self._failed(error)
        self._poke()
        self._wake()

    def _run(self, call: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        self._is_busy = True
        assert self._loop is not None
        if self._is_closed:
            return

        slow = self._loop.call_later(self._slow_s, self._note_slow)

        def finished(future: "asyncio.Future[Any]") -> None:
            slow.cancel()
            if not future.cancelled():
                done(future.exception())

        self._loop.run_in_executor(self._thread, call).add_done_callback(finished)

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    # Failures

    def _note_slow(self) -> None:
        self._journal.failure = f"no answer from the store for {self._slow_s:g} s"
        metrics.mqtt_commit_failures.labels("slow").inc()
        self._tell_failure()

    def _failed(self, error: BaseException) -> bool:
        """Notes that the store did not do it. Returns whether to try again."""
        self._attempts += 1
        self._journal.failure = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        metrics.mqtt_commit_failures.labels(type(error.__cause__ or error).__name__).inc()
        if isinstance(error, StoreTakenError):
            logger.critical("%s: those of this process are not kept any more, and their clients are cut off", error)
            self.close()
            self._wake()
            self._on_taken()
            return False
        self._tell_failure()
        return True

    def _tell_failure(self) -> None:
        self._limited_log.error(
            "MQTT sessions cannot be kept, clients wait; trying again until it works: %s", self._journal.failure
        )

    def _note_success(self) -> None:
        if self._journal.failure is not None:
            logger.warning("MQTT sessions are kept again, after %d failed attempts", self._attempts)
            self._journal.failure = None
        self._attempts = 0
