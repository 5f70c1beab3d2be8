"""Asks the database in groups: the questions that come while one group is read are the next group.

A fleet that comes back after a restart asks thousands of questions within a second. One by one each would hop into a
thread and be a query of its own; together they are a few queries.

Sources (addresses, say) take turns: a question waits behind those of its own source, not behind those of another.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any, Final, Generic, TypeVar

from django.db import DEFAULT_DB_ALIAS, DataError, connections

from devices import metrics
from gateway.databases.abortable import AbortableConnection
from gateway.db import close_old_connections

K = TypeVar("K", bound=Hashable)
Q = TypeVar("Q")
A = TypeVar("A")

GROUP_SIZE: Final = 100
"""Questions of one group at most. All who asked go on at once when it is read: other connections wait for them."""

MAX_WAITING: Final = 50_000
"""Questions that wait at most; beyond it, the newest question of the source that has most is refused. Each connection
has one at a time, so the default bounds of connections are reached first."""

GROUP_TIMEOUT_S: Final = 10.0
"""How long one group may take. A database that takes longer is away, and the attempt is ended."""


class LookUpError(Exception):
    """Raised when a question cannot be answered now: the database is away, slow, or refuses it."""


class TooManyLookUpsError(LookUpError):
    """Raised for a question when too many wait already."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} credentials wait to be looked up already")


class LookUps(Generic[K, Q, A]):
    """Answers questions. Those with the same key are asked once at a time."""

    def __init__(
        self,
        read: Callable[[dict[K, Q]], Mapping[K, A]],
        *,
        stamp: Callable[[], int],
        abort: Callable[[], None] = lambda: None,
        measured: metrics.LookUpMetrics = metrics.credential_look_ups,
        max_waiting: int | None = None,
        group_size: int | None = None,
        thread_name: str = "look-ups",
        initializer: Callable[[], None] | None = None,
    ) -> None:
        """`read` is called in a thread of its own with the questions of a group by their keys, and answers each. The
        result of `stamp`, called in the event loop just before, comes with the answers. `abort` is called in the event
        loop if `read` takes too long. `max_waiting` and `group_size` take the place of MAX_WAITING and GROUP_SIZE; the
        thread calls `initializer` first."""
        self._read = read
        self._abort = abort
        self._stamp = stamp
        self._measured = measured
        self._max_waiting = MAX_WAITING if max_waiting is None else max_waiting
        self._group_size = GROUP_SIZE if group_size is None else group_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=thread_name, initializer=initializer)
        self._sources: OrderedDict[Hashable, dict[K, Q]] = OrderedDict()
        self._waiting: dict[K, asyncio.Future[tuple[A, int]]] = {}
        self._task: asyncio.Task[None] | None = None
        measured.waiting.set_function(lambda: len(self._waiting))

    async def ask(self, key: K, question: Q, *, source: Hashable) -> tuple[A, int]:
        """The answer, and the stamp of its group. Raises LookUpError."""
        future = self._waiting.get(key)
        if future is None:
            if len(self._waiting) >= self._max_waiting:
                self._refuse_one(source)
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            self._sources.setdefault(source, {})[key] = question
            if self._task is None:
                # In a context of its own: not in that of the connection which happens to be the first to ask.
                self._task = asyncio.get_running_loop().create_task(
                    self._read_groups(), name="look-ups", context=Context()
                )
        return await asyncio.shield(future)  # whoever gives up waiting does not end it for the others

    async def close(self) -> None:
        """Ends the thread and its connections to databases."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(self._thread, connections.close_all)
        self._thread.shutdown(wait=False)

    def _refuse_one(self, source: Hashable) -> None:
        """Makes room for a question of `source`. Raises TooManyLookUpsError if none has more questions than it."""
        crowd = max(self._sources, key=lambda each: len(self._sources[each]))
        self._measured.refused.inc()
        if len(self._sources[crowd]) <= len(self._sources.get(source, ())) + 1:
            raise TooManyLookUpsError(self._max_waiting)
        key, _ = self._sources[crowd].popitem()
        self._waiting.pop(key).set_exception(TooManyLookUpsError(self._max_waiting))

    async def _read_groups(self) -> None:
        try:
            while self._sources:
                questions, futures = self._take()
                await self._answer(questions, futures)
        finally:
            self._task = None
            for future in self._waiting.values():  # there are none unless this was cancelled
                future.cancel()

    def _take(self) -> tuple[dict[K, Q], dict[K, "asyncio.Future[tuple[A, int]]"]]:
        """The questions of the next group, one of each source in turn."""
        questions: dict[K, Q] = {}
        while self._sources and len(questions) < self._group_size:
            source, waiting = self._sources.popitem(last=False)
            key = next(iter(waiting))
            questions[key] = waiting.pop(key)
            if waiting:
                self._sources[source] = waiting
        return questions, {key: self._waiting.pop(key) for key in questions}

    async def _answer(self, questions: dict[K, Q], futures: dict[K, "asyncio.Future[tuple[A, int]]"]) -> None:
        stamp = self._stamp()
        self._measured.groups.inc()
        self._measured.asked.inc(len(questions))
        try:
            async with asyncio.timeout(GROUP_TIMEOUT_S):
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._read, questions)
        except asyncio.CancelledError:
            for future in futures.values():
                future.cancel()
            raise
        except (DataError, ValueError) as error:  # what cannot be put into a query must not spoil those of the others
            if len(questions) == 1:
                _fail(futures, error)
            else:
                for key, question in questions.items():
                    await self._answer({key: question}, {key: futures[key]})
        except TimeoutError:
            _fail(futures, TimeoutError(f"no answer within {GROUP_TIMEOUT_S:g} s"))
            self._abort()
        except Exception as error:  # whatever a driver raises, or the start of a thread
            _fail(futures, error)
        else:
            for key, future in futures.items():
                future.set_result((answers[key], stamp))


class DatabaseReading(Generic[K, Q, A]):
    """The reading side of `LookUps`: calls a function that uses Django's default database; `abort` ends the call."""

    def __init__(self, function: Callable[[dict[K, Q]], dict[K, A]]) -> None:
        self._function = function
        self._abortable = AbortableConnection()
        self.abort = self._abortable.abort
        """Ends what the thread waits for, so that the next group can have a connection that works."""

    def read(self, questions: dict[K, Q]) -> dict[K, A]:
        """Calls the function. For the thread of `LookUps`."""
        close_old_connections()
        try:
            with self._abortable.using(connections[DEFAULT_DB_ALIAS]):
                return self._function(questions)
        finally:
            close_old_connections()


def _fail(futures: dict[Any, "asyncio.Future[Any]"], error: Exception) -> None:
    for future in futures.values():
        future.set_exception(LookUpError(f"{type(error).__name__}: {error}".removesuffix(": ")))
