"""Work beside the handlers of one consumer, and work at a later time; none of it outlives the connection.

- `spawn` starts a task, which runs side by side with the handlers;
- `every` and `later` are timers that put a call into the consumer's inbox: it is made in turn with the handlers, so
  that the two never meet, and it costs no task.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from gateway.dispatch.threads import HandlerThread
from gateway.exceptions import StopConsumer
from gateway.metrics import consumer_background_failures
from protocols.asgi import Event
from protocols.inbox import Inbox
from protocols.log_lines import PeerLog

peer_log = PeerLog("gateway.consumer")

END_TIMEOUT_S = 5.0


class Timer:
    """One function called after so many seconds, once or again and again, in the turn of its consumer."""

    def __init__(self, background: "Background", seconds: float, function: Callable[[], Any], *, repeats: bool) -> None:
        self.function = function
        self._background = background
        self._seconds = seconds
        self._repeats = repeats
        self._due_at = background.loop.time()
        self._handle: asyncio.TimerHandle | None = None
        self._cancelled = False

    def schedule(self) -> None:
        """Sets the time of the next call; called once more when each call has returned, so that none pile up."""
        if self._cancelled:
            return
        # In step with the first call, but never more often: a call that took too long leaves out those that it missed.
        self._due_at = max(self._due_at, self._background.loop.time() - self._seconds) + self._seconds
        self._handle = self._background.loop.call_at(self._due_at, self._background.timer_due, self)

    @property
    def cancelled(self) -> bool:
        """Whether it is over."""
        return self._cancelled

    @property
    def repeats(self) -> bool:
        """Whether it calls again and again."""
        return self._repeats

    def cancel(self) -> None:
        """Ends it: after the call that is being made, if there is one. Any thread may."""
        self._cancelled = True
        self._background.loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._background.timers.discard(self)


class Background:
    """The tasks and timers of one consumer."""

    def __init__(self, owner: str, limit: int, inbox: Inbox, loop: asyncio.AbstractEventLoop) -> None:
        """At most `limit` at a time; `inbox` gets a "background.turn" for each call that is due, and each failure."""
        self.loop = loop
        self.timers: set[Timer] = set()
        self._owner = owner
        self._limit = limit
        self._inbox = inbox
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
        task = self.loop.create_task(_in_thread_of_its_own(coroutine))
        self._tasks[task] = interruptible
        task.add_done_callback(self._done)
        return task

    def every(self, seconds: float, function: Callable[[], Any]) -> Timer:
        """Calls `function` every `seconds`, for the first time when they are over. Raises as `spawn`, or ValueError."""
        if seconds <= 0:
            raise ValueError(f"the interval of every() is more than 0 seconds, not {seconds!r}")
        return self._start(Timer(self, seconds, function, repeats=True))

    def later(self, seconds: float, function: Callable[[], Any]) -> Timer:
        """Calls `function` once, when `seconds` are over. Raises as `spawn`."""
        return self._start(Timer(self, max(seconds, 0), function, repeats=False))

    def timer_due(self, timer: Timer) -> None:
        """The time of `timer` has come."""
        if not timer.cancelled:
            self._inbox.post({"type": "background.turn", "timer": timer})

    async def take_turn(
        self, event: Event, call: Callable[[Callable[..., Any]], Awaitable[Any]]
    ) -> BaseException | None:
        """Makes the call that `event` is for by `call`; returns what that, or the task in `event`, has raised.

        Logs and counts what a timer's function raises. Raises its StopConsumer.
        """
        timer: Timer | None = event.get("timer")
        error: BaseException | None = event.get("error")
        if timer is None or timer.cancelled or self._inbox.disconnected:
            return error
        if not timer.repeats:
            self.timers.discard(timer)
        try:
            await call(timer.function)
        except StopConsumer:
            raise
        except Exception as failure:
            self._report(failure, timer.function)
            error = failure
        if timer.repeats:
            timer.schedule()
        return error

    async def end(self) -> None:
        """Cancels everything and waits: for threads as long as they take, for the rest a bounded time.

        Nothing can be begun any more.
        """
        self._ended = True
        for timer in list(self.timers):
            timer.cancel()
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

    def _start(self, timer: Timer) -> Timer:
        self._require_room()
        self.timers.add(timer)
        self.loop.call_soon_threadsafe(timer.schedule)  # from a thread, too
        return timer

    def _require_room(self) -> None:
        if self._ended:
            raise RuntimeError(f"{self._owner} has ended: it can begin no background work")
        if len(self._tasks) + len(self.timers) >= self._limit:
            raise RuntimeError(f"{self._owner} has {self._limit} pieces of background work, as many as it may")

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if not isinstance(error, StopConsumer):
            self._report(error, task.get_coro())
        if not self._ended:
            self._inbox.post({"type": "background.turn", "error": error})

    def _report(self, error: BaseException, what: object) -> None:
        consumer_background_failures.inc()
        peer_log.error(self._owner, "%s: background work failed: %r", self._owner, what, exc_info=error)


async def _in_thread_of_its_own(work: Coroutine[Any, Any, Any]) -> Any:
    # The thread of the consumer, which the task was born into, is for one handler at a time.
    thread = HandlerThread()
    thread.acquire()
    try:
        return await work
    finally:
        thread.release()
