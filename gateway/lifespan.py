"""The two sides of ASGI's lifespan protocol: an application made of a context manager, and the server's side of it."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from django.db import Error as DatabaseFault

from gateway.db import describe_failure
from gateway.layers.manager import check_layers
from protocols.asgi import ASGI_VERSION, LIFESPAN_SPEC_VERSION, Application, Event, Receive, Scope, Send
from protocols.inbox import Inbox
from protocols.runner import ApplicationRun

logger = logging.getLogger("gateway.lifespan")


class LifespanError(Exception):
    """Raised when the application says that it could not start or could not stop."""


class LifespanApplication:
    """An application for scopes of type "lifespan" that runs a context manager around the life of the server.

    It does not start while a channel layer cannot be used, whatever server asks.

    `running(state)` is entered on startup and left on shutdown; what it puts into `state` is in every scope.
    """

    def __init__(self, running: Callable[[dict[str, Any]], AbstractAsyncContextManager[None]]) -> None:
        self.running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        stage = "startup"
        try:
            await check_layers()
            async with self.running(scope.get("state", {})):
                await send({"type": "lifespan.startup.complete"})
                stage = "serving"
                await receive()
                stage = "shutdown"
        except Exception as error:
            if stage == "serving":
                raise
            if isinstance(error, DatabaseFault):  # which is no fault of the program's: one line, by the server
                message = f"the database cannot be used: {describe_failure(error)}"
            else:
                logger.exception("application %s failed", stage)
                message = "".join(traceback.format_exception_only(error))
            await send({"type": f"lifespan.{stage}.failed", "message": message})
        else:
            await send({"type": "lifespan.shutdown.complete"})


@asynccontextmanager
async def relying_on(*tasks: "asyncio.Task[Any]") -> AsyncIterator[None]:
    """Breaks off the block when one of `tasks` ends, with what it raised: a server without its background work would
    go on accepting what nobody processes. For use in `running`."""
    async with asyncio.TaskGroup() as group:
        watches = [group.create_task(_expect_no_end(task)) for task in tasks]
        yield
        for watch in watches:
            watch.cancel()


async def _expect_no_end(task: "asyncio.Task[Any]") -> None:
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
    raise RuntimeError(f"the task {task.get_name()} has ended")


class Lifespan:
    """The server's side: starts the application, keeps its lifespan scope open, and shuts it down."""

    def __init__(self, application: Application, *, on_failure: Callable[[], None]) -> None:
        """`on_failure` is called if the application's lifespan ends by an exception between startup and shutdown."""
        self.state: dict[str, Any] = {}
        self._application = application
        self._on_failure = on_failure
        self._inbox = Inbox()
        self._answers: asyncio.Queue[Event | None] = asyncio.Queue()
        self._run: ApplicationRun | None = None
        self._is_up = False
        self._has_answered = False
        self._failed = False

    async def startup(self) -> None:
        """Returns when the application is ready, or does not do lifespans at all. Raises LifespanError."""
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": ASGI_VERSION, "spec_version": LIFESPAN_SPEC_VERSION},
            "state": self.state,
        }
        self._inbox.feed({"type": "lifespan.startup"}, 0)
        self._run = ApplicationRun(
            self._with_or_without, scope, self._take_answer, inbox=self._inbox, on_finished=self._finished
        )
        self._is_up = await self._answer("startup")
        self._report_failure()  # one that came right behind the answer

    async def shutdown(self) -> None:
        """Returns when the application has cleaned up. Raises LifespanError."""
        if not self._is_up:
            return
        self._is_up = False
        self._inbox.feed({"type": "lifespan.shutdown"}, 0)
        await self._answer("shutdown")

    async def _with_or_without(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application; it is no error if it has nothing for lifespans."""
        try:
            await self._application(scope, receive, send)
        except Exception as error:
            if self._has_answered:
                raise
            logger.debug("the application does without a lifespan: %r", error)

    async def _take_answer(self, event: Event) -> None:
        self._has_answered = True
        self._answers.put_nowait(event)

    async def _answer(self, stage: str) -> bool:
        """Whether the application answered at all; one that raises at once does without (ASGI lifespan, "Scope")."""
        answer = await self._answers.get()
        match answer:
            case None:
                return False
            case {"type": kind} if kind == f"lifespan.{stage}.complete":
                return True
            case _:
                raise LifespanError(str(answer.get("message") or f"unexpected {answer['type']}"))

    def _finished(self, exception: BaseException | None) -> None:
        self._answers.put_nowait(None)
        self._failed = exception is not None
        self._report_failure()

    def _report_failure(self) -> None:
        if self._is_up and self._failed:
            self._is_up = False
            self._on_failure()
