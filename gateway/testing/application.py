"""The communicator for any kind of scope."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections
from django.test import AsyncClient

from gateway.dispatch.foreign_receive import is_disconnect, size_bytes
from protocols.asgi import Application, Event, Receive, Scope, Send
from protocols.inbox import Inbox


class ApplicationCommunicator:
    """Runs one application instance, sends it events and receives what it sends.

    The application is fed as our servers feed it, through an `Inbox`. It starts with the first event, or with
    `async with`, at the end of which it is stopped and what it raised is raised. A time-out of a method raises
    TimeoutError and leaves the application running, so a test may go on. It is cancelled when the test forgets this
    communicator.
    """

    _task: "asyncio.Task[None] | None" = None

    def __init__(self, application: Application, scope: Scope) -> None:
        self.application = application
        self.scope = scope
        self.inbox = Inbox()
        self.output_queue: asyncio.Queue[Event] = asyncio.Queue()
        self._news = asyncio.Event()
        self._raised = False

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop(exceptions=error is None)

    def __del__(self) -> None:
        if self._task is not None and not self._task.done():
            with contextlib.suppress(RuntimeError):  # its loop is closed
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    @property
    def future(self) -> "asyncio.Future[None]":
        """The task that the application runs in."""
        return self._start()

    async def login(self, user: Any, backend: str | None = None) -> None:
        """Connects as `user` without asking for a password, as `Client.force_login`; to be called before all else.

        The request gets the cookie of a new session, which the application reads by AuthMiddlewareStack as it reads a
        browser's. A scope without headers (MQTT knows no cookies) gets the user as `scope["user"]`.
        """
        if self._task is not None:
            raise RuntimeError("the application runs already: call login() before the first event")
        if "headers" not in self.scope:
            self.scope["user"] = user
            return
        client = AsyncClient()
        await client.aforce_login(user, backend)
        others = [(name, value) for name, value in self.scope["headers"] if name != b"cookie"]
        cookies = [value.decode("latin-1") for name, value in self.scope["headers"] if name == b"cookie"]
        cookies += [f"{name}={morsel.value}" for name, morsel in client.cookies.items()]
        self.scope["headers"] = [*others, (b"cookie", "; ".join(cookies).encode("latin-1"))]

    async def send_input(self, message: Event) -> None:
        """Gives the application an event. Raises what the application raised, if it has ended by that."""
        if self._start().done():
            self._raise()
        if is_disconnect(message):
            self.inbox.disconnect(message)
        else:
            self.inbox.feed(message, size_bytes(message))

    async def receive_output(self, timeout: float = 1) -> Event:
        """The next event that the application sends.

        Raises TimeoutError if there is none in time; at once, if the application has ended, or what it raised.
        """
        if not await self._has_output(timeout):
            if self._start().done():
                self._raise()
                raise TimeoutError("the application has ended and sent nothing more")
            raise TimeoutError(f"the application sent nothing within {timeout:g} s")
        return self.output_queue.get_nowait()

    async def receive_nothing(self, timeout: float = 0.1, interval: float = 0.01) -> bool:
        """Whether the application sends nothing for `timeout` seconds. `interval` is not used: nothing is polled."""
        return not await self._has_output(timeout)

    async def wait(self, timeout: float = 1) -> None:
        """Waits until the application has ended. Raises what it raised, or TimeoutError."""
        done, _ = await asyncio.wait([self._start()], timeout=timeout)
        if not done:
            raise TimeoutError(f"the application did not end within {timeout:g} s")
        self._raise()

    def stop(self, exceptions: bool = True) -> Awaitable[None]:
        """Cancels the application if it runs; to be awaited by a test that wants it to have ended.

        Raises what the application raised, unless told not to, or another method has raised it.
        """
        if self._task is not None:
            self._task.cancel()
            if exceptions and self._task.done() and not self._raised:
                self._raise()
        return _Stop(self._stopped, exceptions)

    async def _stopped(self, exceptions: bool) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])
            if exceptions and not self._raised:
                self._raise()

    def _start(self) -> "asyncio.Task[None]":
        if self._task is None:
            output, news = self.output_queue, self._news  # not self, which the application is not to keep alive

            async def send(event: Event) -> None:
                output.put_nowait(event)
                news.set()

            self._task = asyncio.create_task(_run(self.application, self.scope, self.inbox.receive, send))
            self._task.add_done_callback(lambda _task: news.set())
            _running.add(self._task)
            self._task.add_done_callback(_running.discard)
        return self._task

    async def _has_output(self, timeout: float) -> bool:
        """Whether there is an event to take, waiting for one while the application runs."""
        task = self._start()
        try:
            async with asyncio.timeout(timeout):
                while self.output_queue.empty() and not task.done():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return not self.output_queue.empty()

    def _raise(self) -> None:
        self._raised = True
        if self._task is not None and not self._task.cancelled():
            self._task.result()


# asyncio keeps no task alive that nobody refers to: one that waits would be destroyed, and not cancelled.
_running: set[asyncio.Task[None]] = set()


async def _run(application: Application, scope: Scope, receive: Receive, send: Send) -> None:
    if _may_use_database_in_memory():
        _share_thread()
    await application(scope, receive, send)


class _Stop:
    """What may be awaited, or not: Channels' `stop` is no coroutine."""

    def __init__(self, stopped: Callable[[bool], Coroutine[Any, Any, None]], exceptions: bool) -> None:
        self._stopped = stopped
        self._exceptions = exceptions

    def __await__(self) -> Generator[Any, Any, None]:
        return self._stopped(self._exceptions).__await__()


def _may_use_database_in_memory() -> bool:
    """Whether this test may use a database that all threads share in memory; to be asked in an event loop."""
    for alias, config in connections.settings.items():
        if "mode=memory" in str(config["NAME"]):
            try:
                connections[alias].ensure_connection()
            except SynchronousOnlyOperation:  # so it is only the event loop that may not
                return True
            except RuntimeError:  # pytest-django forbids it to a test that is not marked
                continue
            return True
    return False


def _share_thread() -> None:
    """Has synchronous code run in the thread that the test's own `database_sync_to_async` takes, in the current task.

    Two connections to a database in memory cannot even read one table while it is written to: SQLite does not wait
    then, but raises "database table is locked".
    """
    context = ThreadSensitiveContext()
    SyncToAsync.context_to_thread_executor[context] = SyncToAsync.single_thread_executor
    SyncToAsync.thread_sensitive_context.set(context)


def split_path(path: str) -> dict[str, Any]:
    """The keys of an http or websocket scope for a path that may have a query string."""
    parts = urlsplit(path)
    return {"path": unquote(parts.path), "raw_path": parts.path.encode(), "query_string": parts.query.encode()}
