"""Django's views as an ASGI application: each request is one call in one of a few threads that stay.

Django's own handler starts a thread for each request, hops to it and back for each signal, middleware and view, and
ends it, with the thread's database connections. A request here goes to a thread once, is answered there as under WSGI,
and what is sent comes back. The threads are a pool of their own, so that a slow page keeps no consumer waiting.

    application = ProtocolTypeRouter({"http": get_django_application(), ...})
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import IO, Any, Final

import django
from asgiref.sync import sync_to_async
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.http import FileResponse, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from gateway.dispatch.threads import HandlerThread, ThreadPool
from gateway.metrics import django_requests_refused
from protocols.asgi import Scope

MAX_REQUESTS: Final = 200
"""How many requests may be with the threads or wait for one; of a page of 5 ms this is a wait of a second."""
TIMEOUT_S: Final = 30.0
"""How long a client waits for a thread and for its answer: a database that says nothing may have all of them."""


class DjangoHandler(ASGIHandler):
    """Answers scopes of type "http" by the project's middleware and views.

    Synchronous middleware and views, which nearly all are, run without a further hop. Asynchronous ones run in the
    event loop, while the request's thread waits. A view is not interrupted when its client leaves.

    With `max_requests` in hand one more is answered 503, with Retry-After, and so is one that has no answer after
    `timeout_s`. Its thread goes on, and it counts until that is done.
    """

    def __init__(
        self, *, pool: ThreadPool | None = None, max_requests: int = MAX_REQUESTS, timeout_s: float = TIMEOUT_S
    ) -> None:
        BaseHandler.__init__(self)
        self.load_middleware()
        self._pool = pool or ThreadPool(name="django", closes_old_connections=False)  # Django's signals do
        self._max_requests = max_requests
        self._timeout_s = timeout_s
        self._answers: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Raises ValueError for another type of scope."""
        if scope["type"] != "http":
            raise ValueError(f"Django can only handle ASGI/HTTP connections, not {scope['type']}.")
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        if len(self._answers) >= self._max_requests:
            body.close()
            await self._refuse("busy: too many pages are being made", send)
            return
        thread = HandlerThread(self._pool)
        thread.acquire()
        try:
            answer = asyncio.create_task(_in_thread(self._respond, scope, body))
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)
            # Not cancelled with whoever waits: a thread that has begun does not stop.
            await asyncio.wait([answer], timeout=self._timeout_s)
            if answer.done():
                await self._send(answer.result(), thread, send)
            else:
                answer.add_done_callback(_close_late)
                await self._refuse(f"no answer within {self._timeout_s:g} s", send)
        finally:
            thread.release()

    async def _refuse(self, why: str, send: Any) -> None:
        django_requests_refused.inc()
        await self.send_response(
            HttpResponse(
                f"{why}; come again in a moment\n",
                status=503,
                content_type="text/plain; charset=utf-8",
                headers={"Retry-After": "5", "Cache-Control": "no-store"},
            ),
            send,
        )

    async def _send(self, response: Any, thread: HandlerThread, send: Any) -> None:
        if not response.streaming:
            await self.send_response(response, send)
            return
        try:
            await self.send_response(_Stream(response), send)  # type: ignore[arg-type]
        finally:  # also if the server has cancelled us
            await asyncio.shield(asyncio.wrap_future(thread.submit(response.close)))

    # In a thread

    def _respond(self, scope: Scope, body: IO[bytes]) -> Any:
        """The response, closed unless it is a stream."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=type(self), scope=scope)
        try:
            request, refusal = self.create_request(scope, body)
            response: Any = refusal if request is None else self.get_response(request)
        except BaseException:
            body.close()
            raise
        response._handler_class = type(self)
        response._resource_closers.append(body.close)
        if isinstance(response, FileResponse):
            response.block_size = self.chunk_size
        if not response.streaming:
            response.close()
        return response


class _Stream:
    """A streaming response whose parts, if they are made by synchronous code, are made in the request's thread."""

    streaming = True

    def __init__(self, response: HttpResponseBase) -> None:
        self._response: Any = response
        self.status_code = response.status_code
        self.cookies = response.cookies
        self.items = response.items

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._response.is_async:
            async with aclosing(aiter(self._response)) as parts:
                async for part in parts:
                    yield part
            return
        parts = iter(self._response)
        while (part := await _in_thread(next, parts, None)) is not None:
            yield part


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await sync_to_async(function)(*args)


def _close_late(answer: "asyncio.Task[Any]") -> None:
    """Closes a stream that nobody waits for any more; other responses are closed by then."""
    if not answer.cancelled() and answer.exception() is None and answer.result().streaming:
        answer.result().close()


def get_django_application() -> DjangoHandler:
    """Sets Django up and gives a handler, as django.core.asgi.get_asgi_application does."""
    django.setup(set_prefix=False)
    return DjangoHandler()
