"""Begins handlers in place of a task that waits for something to handle.

Waking a task takes a pass of the loop, a future, and the resumption of every coroutine between the task and its wait:
more than most handlers do. So while the task of a consumer waits in its inbox, its handlers are begun here, in a
callback of the loop. Most of them never wait, and end here; one that does is handed over to the task, which goes on
with it, and handles by itself whatever comes before it waits in the inbox again.

A handler cannot tell the difference. It runs in the context of the task (`contextvars`) and with it as
`asyncio.current_task()`; what it raises is raised in the task; and what cancels the task cancels the handler, also
between the beginning and the rest.
"""

import asyncio
import types
from asyncio.tasks import _enter_task, _leave_task  # "Extending asyncio": for those who step coroutines themselves
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from protocols.asgi import Event

if TYPE_CHECKING:
    from protocols.runner import Inbox

LONGEST_TURN: Final = 100
"""How many events are handled before others have their turn."""


class StandIn:
    """Stands in for one task while that waits in one inbox."""

    __slots__ = ("_after", "_begin", "_context", "_due", "_inbox", "_loop", "_task")

    def __init__(
        self,
        inbox: "Inbox",
        task: "asyncio.Task[Any]",
        context: Context,
        begin: Callable[[Event], Awaitable[Any]],
        after: Callable[[], None],
    ) -> None:
        """`begin(event)` is the handling of an event, and `after()` is called when it has come to a good end."""
        self._inbox = inbox
        self._task = task
        self._loop = task.get_loop()
        self._context = context
        self._begin = begin
        self._after = after
        self._due = False

    def call_soon(self) -> None:
        """There is something in the inbox."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self._take_turn, context=self._context)

    def _take_turn(self) -> None:
        self._due = False
        if not self._inbox.task_is_idle:
            return
        _enter_task(self._loop, self._task)
        try:
            self._handle_what_is_there()
        finally:
            _leave_task(self._loop, self._task)

    def _handle_what_is_there(self) -> None:
        inbox = self._inbox
        for _ in range(LONGEST_TURN):
            event = inbox.take()
            if event is None:
                return
            try:
                handling = self._begin(event)
                coroutine = handling if type(handling) is types.CoroutineType else _as_coroutine(handling)
                awaited = coroutine.send(None)
            except StopIteration:
                self._after()
            except (Exception, asyncio.CancelledError) as error:
                inbox.hand_over(_raise(error))
            else:
                inbox.hand_over(_go_on(coroutine, _let_go(awaited), self._after))
            if not inbox.task_is_idle:
                return
        self.call_soon()


async def _as_coroutine(awaitable: Awaitable[Any]) -> None:
    await awaitable


async def _raise(error: BaseException) -> None:
    raise error


def _let_go(awaited: Any) -> Any:
    """Marks a future that a coroutine has yielded as awaited by no task yet, so that others may await it, too."""
    if asyncio.isfuture(awaited):
        awaited._asyncio_future_blocking = False
    return awaited


@types.coroutine
def _go_on(coroutine: Coroutine[Any, Any, Any], awaited: Any, after: Callable[[], None]) -> Generator[Any, Any, None]:
    """Goes on with a coroutine that was begun elsewhere and now waits for `awaited`."""
    if asyncio.isfuture(awaited):
        awaited._asyncio_future_blocking = True  # as `await` does for the task, which takes it back
    try:
        while True:
            try:
                yield awaited
            except BaseException as error:
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(None)
    except StopIteration:
        after()
