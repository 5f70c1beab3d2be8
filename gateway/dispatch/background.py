"""Work beside the handlers of one consumer, and repeated work; none of it outlives the connection.

- `spawn` starts a task, which runs side by side with the handlers;
- `every` is a timer that puts a call into the consumer's inbox: it is made in turn with the handlers, so that the two
  never meet, and it costs no task.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from gateway.dispatch.threads import Lane
from gateway.exceptions import StopConsumer
from gateway.metrics import consumer_background_failures
from protocols.asgi import Event
from protocols.inbox import Inbox
from protocols.log_lines import PeerLog

peer_log = PeerLog("gateway.consumer")

END_TIMEOUT_S = 5.0


class Periodic:
    """One function called every so many seconds, in the turn of its consumer."""

    def __init__(self, background: "Background", seconds: float, function: Callable[[], Any]) -> None:
        self.function = function
        self._background = background
        self._seconds = seconds
        self._due_at = background.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._cancelled = False

    def schedule(self) -> None:
        """Sets the timer for the next call; called once more when each call has returned, so that none pile up."""
        if self._cancelled:
            return
        # In step with the first call, but never more often: a call that took too long leaves out those that it missed.
        self._due_at = max(self._due_at, self._background.loop.time() - self._seconds) + self._seconds
        self._timer = self._background.loop.call_at(self._due_at, self._background.take_turn, self)

    @property
    def cancelled(self) -> bool:
        """Whether it is over."""
        return self._cancelled

    def cancel(self) -> None:
        """Ends it: after the call that is being made, if there is one. Any thread may."""
        self._cancelled = True
        self._background.loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._background.periodics.discard(self)


class Background:
    """The tasks and timers of one consumer."""

    def __init__(
        self,
        owner: str,
        limit: int,
        *,
        loop: asyncio.AbstractEventLoop,
        interject: Callable[[Periodic], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """At most `limit` at a time. `interject` and `failed` put a call, and what a task raised, into the inbox."""
        self.loop = loop
        self.periodics: set[Periodic] = set()
        self._owner = owner
        self._limit = limit
        self._interject = interject
        self._failed = failed
        self._tasks: dict[asyncio.Task[Any], bool] = {}
        self._ended = False

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, interruptible: bool = True) -> "asyncio.Task[Any]":
        """Runs `coroutine` in a task; one that is not `interruptible` waits for a thread.

        Raises RuntimeError when the consumer ends, or has as many as it may.
        """
        try:
            self._require_room()
        except RuntimeError:
            coroutine.close()
            raise
        task = self.loop.create_task(_in_own_lane(coroutine))
        self._tasks[task] = interruptible
        task.add_done_callback(self._done)
        return task

    def every(self, seconds: float, function: Callable[[], Any]) -> Periodic:
        """Calls `function` every `seconds`, for the first time when they are over. Raises as `spawn`, or ValueError."""
        if seconds <= 0:
            raise ValueError(f"the interval of every() is more than 0 seconds, not {seconds!r}")
        self._require_room()
        periodic = Periodic(self, seconds, function)
        self.periodics.add(periodic)
        self.loop.call_soon_threadsafe(periodic.schedule)
        return periodic

    def take_turn(self, periodic: Periodic) -> None:
        """The time of `periodic` has come."""
        if not periodic.cancelled:
            self._interject(periodic)

    def report(self, error: BaseException, what: object) -> None:
        """Logs and counts what `what` raised."""
        consumer_background_failures.inc()
        peer_log.error(self._owner, "%s: background work failed: %r", self._owner, what, exc_info=error)

    async def end(self) -> None:
        """Cancels everything and waits: for threads as long as they take, for the rest a bounded time.

        Nothing can be begun any more.
        """
        self._ended = True
        for periodic in list(self.periodics):
            periodic.cancel()
        tasks = [task for task, interruptible in self._tasks.items() if interruptible]
        for task in tasks:
            task.cancel()
        if tasks:
            _, running = await asyncio.wait(tasks, timeout=END_TIMEOUT_S)
            for task in running:
                message = "%s: background work goes on though it was cancelled: %r"
                peer_log.error(self._owner, message, self._owner, task.get_coro())
        threads = [task for task, interruptible in self._tasks.items() if not interruptible]
        if threads:
            await asyncio.wait(threads)

    def _require_room(self) -> None:
        if self._ended:
            raise RuntimeError(f"{self._owner} has ended: it can begin no background work")
        if len(self._tasks) + len(self.periodics) >= self._limit:
            raise RuntimeError(f"{self._owner} has {self._limit} pieces of background work, as many as it may")

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if not isinstance(error, StopConsumer):
            self.report(error, task.get_coro())
        if not self._ended:
            self._failed(error)


class BackgroundWork:
    """The part of a consumer that is for work beside its handlers."""

    max_background: ClassVar[int] = 100
    """How many tasks of `spawn` and repetitions of `every` a consumer may have at a time."""

    _gateway_events: ClassVar[tuple[str, ...] | None] = ("background.turn", "background.failed")

    __loop: asyncio.AbstractEventLoop
    __inbox: Inbox
    __background: Background | None

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Runs `coroutine` beside the handlers, in a task that is cancelled and awaited before the disconnect handler.

        What it raises is logged and given to `background_failed`; StopConsumer ends the consumer. Raises RuntimeError
        when there are `max_background` already, or the connection has ended.
        """
        return self._gateway_background().spawn(coroutine)

    def every(self, seconds: float, function: Callable[[], Any]) -> Periodic:
        """Calls `function` (a coroutine function, of no argument) every `seconds`, in turn with the handlers.

        It is first called when `seconds` are over, and not any more when the connection has ended, or after `cancel()`
        of what is returned. Calls that a slow handler holds up do not pile up. What it raises is logged and given to
        `background_failed`, and it is called again; StopConsumer ends the consumer. Raises as `spawn`.
        """
        return self._gateway_background().every(seconds, function)

    async def background_failed(self, event: Event) -> None:
        """Called with event["error"], which background work raised; does nothing, unless overridden."""

    async def background_turn(self, event: Event) -> None:
        """Makes the next call of `every`, or tells of a task that failed."""
        await self._gateway_turn(event, _as_it_is)

    async def _gateway_turn(self, event: Event, run: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """`run` makes what is called awaitable."""
        periodic: Periodic | None = event.get("periodic")
        error = event.get("error")
        if periodic is not None and not (periodic.cancelled or self.__inbox.disconnected):
            try:
                await run(periodic.function)()
            except StopConsumer:
                raise
            except Exception as failure:
                self._gateway_background().report(failure, periodic.function)
                error = failure
            periodic.schedule()
        if isinstance(error, StopConsumer):
            raise error
        if error is not None:
            await run(self.background_failed)({"type": "background.failed", "error": error})

    def _gateway_begin_background(self, inbox: Inbox) -> None:
        """A connection begins; `inbox` is where its consumer takes what it handles."""
        self.__loop = asyncio.get_running_loop()
        self.__inbox = inbox
        self.__background = None

    def _gateway_background(self) -> Background:
        if self.__background is None:
            inbox = self.__inbox
            self.__background = Background(
                type(self).__qualname__,
                self.max_background,
                loop=self.__loop,
                interject=lambda periodic: inbox.post({"type": "background.turn", "periodic": periodic}),
                failed=lambda error: inbox.post({"type": "background.turn", "error": error}),
            )
        return self.__background

    async def _gateway_end_background(self) -> None:
        if self.__background is not None:
            await self.__background.end()


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


async def _in_own_lane(work: Coroutine[Any, Any, Any]) -> Any:
    # The lane of the consumer, which the task was born into, is for one handler at a time.
    lane = Lane()
    lane.enter()
    try:
        return await work
    finally:
        lane.exit()
