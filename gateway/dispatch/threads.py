"""The bounded pool of threads in which consumers run synchronous code.

asgiref runs thread-sensitive code either in one thread for the whole process, so that all consumers wait for each
other, or in a new thread per context, so that threads are as many as connections. Here each consumer has a
`HandlerThread`, which asgiref takes for the thread of its context: the first call in a handler picks the least busy
thread of the pool and all further calls of that handler use the same one, as thread-sensitive code must; the next
handler may get another. Several consumers may share a thread, so a handler that waits holds no thread back from the
others.

Each thread may hold one database connection per alias: ASGI_THREADS is the upper bound, for consumers and for Django's
views (gateway.dispatch.django_handler) each. `close_connections` closes them, which is for whoever ends a server.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, Token
from itertools import chain
from threading import Lock
from typing import Any, Final, ParamSpec, TypeVar
from weakref import WeakSet

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync
from django.db import connections

from gateway.db import close_old_connections

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("gateway.consumer")


def default_pool_size() -> int:
    """ASGI_THREADS, as Daphne reads it, or what the standard library gives an executor."""
    return int(os.environ.get("ASGI_THREADS") or min(32, (os.cpu_count() or 1) + 4))


class _PoolThread:
    """One thread of the pool, and how many calls it has before it."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._lock = Lock()
        self.calls = 0

    def submit(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        with self._lock:
            self.calls += 1
        future = self._executor.submit(call, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, _future: Future[Any]) -> None:
        with self._lock:
            self.calls -= 1


class ThreadPool:
    """At most `size` threads, started when they are needed."""

    def __init__(
        self, size: int | None = None, *, name: str = "consumers", closes_old_connections: bool = True
    ) -> None:
        """Without `closes_old_connections` that is left to what runs in the threads, as Django's signals have it."""
        self.size = size or default_pool_size()
        self.name = name
        self.closes_old_connections = closes_old_connections
        self._threads: list[_PoolThread] = []
        _pools.add(self)

    def least_busy(self) -> _PoolThread:
        """An idle thread, a new one while there may be more, or the one with the fewest calls before it."""
        best = min(self._threads, key=lambda thread: thread.calls, default=None)
        if best is None or (best.calls and len(self._threads) < self.size):
            best = _PoolThread(f"{self.name}-{len(self._threads)}")
            self._threads.append(best)
        return best

    @property
    def threads(self) -> Sequence[_PoolThread]:
        """Those that have been started."""
        return self._threads


_pools: WeakSet[ThreadPool] = WeakSet()
_pool = ThreadPool()


async def close_connections(*, timeout_s: float = 2.0) -> None:
    """Closes the database connections of every thread that runs synchronous code for a server: when it has ended, or
    they would stay open until the process ends. Threads that still wait for a database are waited for `timeout_s`.
    """
    threads: list[_PoolThread | ThreadPoolExecutor] = [*chain.from_iterable(pool.threads for pool in _pools)]
    threads.append(SyncToAsync.single_thread_executor)
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for thread in threads:  # one by one: of two that close a file of SQLite at once none empties its log
                await asyncio.wrap_future(thread.submit(_close_connections))


def _close_connections() -> None:
    """All of this thread's, but for one to a database in memory, which Django never closes."""
    try:
        connections.close_all()
    except Exception:
        logger.exception("a database connection could not be closed")


class HandlerThread:
    """Where one consumer, or one request, runs synchronous code."""

    __slots__ = ("_around", "_pool", "_thread", "_token")

    def __init__(self, pool: ThreadPool | None = None) -> None:
        """`pool` is whose threads it uses; by default that of all consumers."""
        self._pool = pool
        self._thread: _PoolThread | None = None
        self._token: Token[ThreadSensitiveContext] | None = None
        self._around: HandlerThread | None = None

    def acquire(self) -> None:
        """Makes this the thread of the current context, unless it has a thread-sensitive context of another's."""
        if SyncToAsync.thread_sensitive_context.get(_WITH_HANDLER_THREAD) is _WITH_HANDLER_THREAD:
            self._token = SyncToAsync.thread_sensitive_context.set(_WITH_HANDLER_THREAD)
            self._around = _current.get(None)
            _current.set(self)

    def release(self) -> None:
        """Ends what `acquire` began."""
        self.change()
        if self._token is not None:
            SyncToAsync.thread_sensitive_context.reset(self._token)
            self._token = None
            _current.set(self._around)

    @property
    def used(self) -> bool:
        """Whether a thread of the pool was picked since the last `change`."""
        return self._thread is not None

    def submit(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        if self._thread is None:
            pool = self._pool or _pool
            self._thread = pool.least_busy()
            if pool.closes_old_connections:
                self._thread.submit(_close_old_connections)
        return self._thread.submit(call, *args, **kwargs)

    def change(self) -> None:
        """Has the next call pick a thread; that of now closes old connections when it has done what is before that."""
        if self._thread is not None:
            if (self._pool or _pool).closes_old_connections:
                self._thread.submit(_close_old_connections)
            self._thread = None


class _ThreadOfContext(Executor):
    """What asgiref takes for the thread of every context that has a HandlerThread."""

    def submit(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        thread = _current.get()
        assert thread is not None
        return thread.submit(call, *args, **kwargs)


_current: ContextVar[HandlerThread | None] = ContextVar("handler_thread")
# One for all: asgiref's own way, an object per context and a weak reference to it, is 300 bytes of each connection.
_WITH_HANDLER_THREAD: Final = ThreadSensitiveContext()
SyncToAsync.context_to_thread_executor[_WITH_HANDLER_THREAD] = _ThreadOfContext()


def from_threads(function: Callable[P, Awaitable[R]]) -> Callable[P, R]:
    """`function` for synchronous code that a handler runs, also in threads of its own; to be made in the event loop.

    From a thread that asgiref knows nothing of, async_to_sync would run it in an event loop of its own there, with
    nobody to wake the one that the connection is in.
    """
    loop = asyncio.get_running_loop()
    from_handler = async_to_sync(function)

    async def awaited(*args: P.args, **kwargs: P.kwargs) -> R:
        return await function(*args, **kwargs)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        is_known = getattr(SyncToAsync.threadlocal, "main_event_loop", None) is loop
        if is_known or asyncio._get_running_loop() is not None:
            return from_handler(*args, **kwargs)
        running = awaited(*args, **kwargs)
        try:
            future = asyncio.run_coroutine_threadsafe(running, loop)
        except RuntimeError:  # the loop is closed
            running.close()
            raise
        return future.result()

    return call


def _close_old_connections() -> None:
    try:
        close_old_connections()
    except Exception:
        logger.exception("a database connection could not be closed")
