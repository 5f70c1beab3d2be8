"""Connections of one event loop to one Redis: remade with jittered back-off when lost, pipelined while up.

No user of a `RedisConnection` touches the socket: a command is appended to a buffer, and all that one loop iteration
appended leaves in one write; one task, which lives as long as the connection, reads the replies. So cancelling a
caller, at any moment, disturbs no other.

The sockets have no read timeout of their own (redis-py 8 would give them 5 s, which a quiet subscription exceeds);
instead a watchdog sends PING on a quiet connection and ends one that leaves a request unanswered for `reply_timeout_s`.
"""

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha1
from typing import Any, TypeAlias

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from gateway.layers.base import LayerUnavailableError
from gateway.layers.redis.hosts import Host, async_pool, describe_host, leave_sentinels
from gateway.metrics import layer_reconnects

logger = logging.getLogger("gateway.layer")

Argument: TypeAlias = bytes | str | int | float
Locate: TypeAlias = Callable[[], Awaitable[Host]]

REPLY_TIMEOUT_S = 2.0
QUIET_S = 5.0
WATCH_INTERVAL_S = 0.5
MIN_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
STABLE_S = 5.0
MAX_UNWRITTEN_BYTES = 64 * 1024 * 1024


CLUSTER_ERRORS: dict[str, Callable[[str], ResponseError]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "MOVED": MovedError,
    "TRYAGAIN": TryAgainError,
}


class Script:
    """A Lua script with one key. EVALSHA names it by its digest."""

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisConnection:
    """What the kinds of connection share: `CommandConnection`, `SubscriberConnection`, `QueueReader`.

    A kind calls `start` when it has something to do on the connection.
    """

    purpose: str
    """What the connection is for, in the log."""

    def __init__(self, host: Host, locate: Locate | None = None) -> None:
        """`host` is one entry of `decode_hosts`; its socket_timeout, if any, is used as the reply timeout.

        `locate`, for a server that moves about, is called before each attempt to connect.
        """
        self._locate = locate
        self._use_host(host)
        self.patience_s = 0.0
        self.up = False
        self.ever_up = False
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._writable: asyncio.Future[None] | None = None
        self._settled: list[asyncio.Future[None]] = []
        self._asked_at: float | None = None
        self._heard_at = 0.0

    def _use_host(self, host: Host) -> None:
        """Makes the next attempt connect to `host`."""
        self.where = describe_host(host)
        # RESP 2: a connection that subscribes gets its messages as replies in every version of Redis and redis-py.
        self._pool = async_pool({**host, "protocol": 2}, socket_timeout=None, socket_connect_timeout=REPLY_TIMEOUT_S)
        options: Any = self._pool.connection_kwargs  # where a timeout given in the URL ends up, too
        self.reply_timeout_s: float = options.get("socket_timeout") or REPLY_TIMEOUT_S
        options["socket_timeout"] = None
        self._transport: Any = self._pool.make_connection()

    @property
    def down(self) -> bool:
        """Whether the connection failed and is not back yet."""
        return not self.up and self.error is not None

    def start(self) -> None:
        """Connects, unless it did so before."""
        if self._task is None:
            self._task = self._loop.create_task(self._run(), name=f"redis {self.purpose} {self.where}")

    async def wait_settled(self) -> bool:
        """Starts, waits while an attempt is under way, and returns whether the connection is up."""
        self.start()
        if not self.up and not self.down:
            settled = self._loop.create_future()
            self._settled.append(settled)
            await settled
        return self.up

    def _settle(self) -> None:
        for settled in self._settled:
            if not settled.done():
                settled.set_result(None)
        self._settled.clear()

    async def close(self) -> None:
        """Ends the connection. `start` may be called again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.error = None

    def unavailable(self) -> LayerUnavailableError:
        """The exception for what cannot be done now."""
        reason = self.error or ("it takes no more data" if self.up else "connection closed")
        return LayerUnavailableError(f"Redis at {self.where} is not available: {reason}")

    def _write(self, *arguments: Argument) -> None:
        """Appends a command to what leaves at the end of this loop iteration."""
        chunks: list[bytes] = self._transport.pack_command(*arguments)
        self._unwritten += chunks
        self._unwritten_bytes += sum(map(len, chunks))
        if self._asked_at is None:
            self._asked_at = self._loop.time()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # What a kind of connection does at these moments

    def _on_up(self) -> None:
        """Called when connected; commands may be written."""

    def _on_reply(self, reply: Any) -> bool:
        """Handles a reply, which may be a ResponseError; returns whether replies to earlier commands are missing."""
        raise NotImplementedError

    def _on_lost(self, was_up: bool) -> None:
        """Called when the connection is lost, or an attempt failed."""

    def _ping(self) -> None:
        """Sends PING."""
        raise NotImplementedError

    # Life

    async def _run(self) -> None:
        failures = 0
        flapping = False  # it connects, but the first commands fail
        lost_at = self._loop.time()
        try:
            while True:
                up_at: float | None = None
                try:
                    await self._connect()
                    up_at = self._loop.time()
                    if failures and not flapping:
                        logger.info("Redis at %s is back (%s) after %.1f s", self.where, self.purpose, up_at - lost_at)
                        failures = 0
                    await self._serve()
                except* Exception as group:
                    self.error = _first(group)
                    if not isinstance(self.error, RedisError | OSError):
                        logger.exception("a reply of Redis at %s could not be handled", self.where)
                now = self._loop.time()
                flapping = up_at is not None and now - up_at < STABLE_S
                if up_at is not None and not flapping:
                    failures = 0
                if not failures:
                    lost_at = now
                    logger.warning("no connection to Redis at %s (%s): %s", self.where, self.purpose, self.error)
                failures += 1
                await self._lose()
                # Jittered, so that the processes that lost one server do not come back to it in step.
                backoff_s = min(MIN_BACKOFF_S * 2 ** min(failures, 10), MAX_BACKOFF_S)
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311
        finally:
            self.up = False  # ended by us, so no loss is reported
            self.error = None
            await self._lose()

    async def _connect(self) -> None:
        timeout_s = self.reply_timeout_s * 2  # an attempt may ask a Sentinel first
        try:
            async with asyncio.timeout(timeout_s):
                if self._locate is not None:
                    self._use_host(await self._locate())
                await self._transport.connect()
        except TimeoutError:
            raise TimeoutError(f"no connection within {timeout_s:g} s") from None
        finally:
            await leave_sentinels(self._pool)

    async def _serve(self) -> None:
        self._asked_at = None
        self._heard_at = self._loop.time()
        if self.ever_up:
            layer_reconnects.inc()
        self.up = self.ever_up = True
        self.error = None
        self._settle()
        self._on_up()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_all())
            tasks.create_task(self._read_all())
            tasks.create_task(self._watch())

    async def _lose(self) -> None:
        was_up, self.up = self.up, False
        self._unwritten.clear()
        self._unwritten_bytes = 0
        with contextlib.suppress(RedisError, OSError):
            await self._transport.disconnect(nowait=True)
        self._settle()
        self._on_lost(was_up)

    async def _write_all(self) -> None:
        while True:
            if not self._unwritten:
                self._writable = self._loop.create_future()
                await self._writable
            chunks, self._unwritten, self._unwritten_bytes = self._unwritten, [], 0
            await self._transport.send_packed_command(chunks, check_health=False)

    async def _read_all(self) -> None:
        read_response = self._transport.read_response
        while True:
            try:
                reply = await read_response(disable_decoding=True)
            except ResponseError as error:
                reply = _specific(error)
            self._heard_at = self._loop.time()
            self._asked_at = self._heard_at if self._on_reply(reply) else None

    async def _watch(self) -> None:
        while True:
            slept_at = self._loop.time()
            await asyncio.sleep(WATCH_INTERVAL_S)
            now = self._loop.time()
            # While the loop was blocked nobody could read the answer, which may be here by now.
            late_s = now - slept_at - WATCH_INTERVAL_S
            if self._asked_at is not None:
                self._asked_at = min(self._asked_at + late_s, now)
                if now - self._asked_at > self.reply_timeout_s + self.patience_s:
                    raise TimeoutError(f"no answer for {self.reply_timeout_s:g} s")
            elif now - self._heard_at > QUIET_S:
                self._ping()


class CommandConnection(RedisConnection):
    """Commands and their replies, pipelined: any number may be in flight."""

    purpose = "commands"

    def __init__(
        self, host: Host, scripts: Sequence[Script] = (), on_failure: Callable[[], None] | None = None
    ) -> None:
        """Loads `scripts` whenever it has connected; calls `on_failure` whenever the connection fails."""
        super().__init__(host)
        self._scripts = scripts
        self._on_failure = on_failure
        self._inflight: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[tuple[Argument, ...]] = []

    def execute(self, *arguments: Argument) -> "asyncio.Future[Any]":
        """Sends a command. The future has its reply; or LayerUnavailableError, or Redis's own ResponseError.

        Raises LayerUnavailableError at once while the connection is down, or when MAX_UNWRITTEN_BYTES wait.
        """
        self.start()
        if self.down or self._unwritten_bytes > MAX_UNWRITTEN_BYTES:
            raise self.unavailable()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._inflight.append(future)
        if self.up:
            self._write(*arguments)
        else:
            self._unsent.append(arguments)
        return future

    def execute_quietly(self, *arguments: Argument) -> None:
        """Sends a command and ignores the reply."""
        try:
            self.execute(*arguments).add_done_callback(_ignore)
        except LayerUnavailableError:
            pass

    def _on_up(self) -> None:
        # Before all else, so that no script is missing for one command and there for the next.
        for script in self._scripts:
            future: asyncio.Future[Any] = self._loop.create_future()
            future.add_done_callback(_ignore)
            self._inflight.appendleft(future)
            self._write("SCRIPT", "LOAD", script.text)
        for arguments in self._unsent:
            self._write(*arguments)
        self._unsent.clear()

    def _on_reply(self, reply: Any) -> bool:
        future = self._inflight.popleft()
        if not future.done():
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)
        return bool(self._inflight)

    def _on_lost(self, was_up: bool) -> None:
        self._unsent.clear()
        for future in self._inflight:
            if not future.done():
                future.set_exception(self.unavailable())
        self._inflight.clear()
        if self._on_failure is not None and self.error is not None:
            self._on_failure()

    def _ping(self) -> None:
        self.execute_quietly("PING")


def _specific(error: ResponseError) -> ResponseError:
    """`error` as the class of an error of a cluster's node; redis-py 5 makes those in its own cluster client only."""
    word, _, rest = str(error).partition(" ")
    specific = CLUSTER_ERRORS.get(word) if type(error) is ResponseError else None
    return specific(rest) if specific is not None else error


def _ignore(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()


def _first(group: "BaseExceptionGroup[Any]") -> BaseException:
    exceptions: Iterable[Any] = group.exceptions
    for exception in exceptions:
        return _first(exception) if isinstance(exception, BaseExceptionGroup) else exception
    return group
