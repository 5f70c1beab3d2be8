"""Middleware around ASGI applications: its base, and a limit to the duration of an HTTP request."""

import asyncio
from typing import Any

from protocols.asgi import Application, Event, Receive, Scope, Send
from protocols.runner import ClientDisconnectedError


class BaseMiddleware:
    """Calls the application inside with a copy of the scope, so that what a subclass puts there stays inside.

    `inner` is that application. Routers look through it: a middleware between two URLRouters needs nothing special.
    """

    def __init__(self, inner: Application) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Calls `inner`; a subclass changes `scope` on the way, or wraps `receive` and `send`."""
        return await self.inner(dict(scope), receive, send)


class HttpTimeout(BaseMiddleware):
    """Cancels an HTTP application that has not sent its whole response in time.

    A response that has not begun is a 503; one that has raises TimeoutError, by which the server cuts it off.
    """

    def __init__(self, inner: Application, seconds: float) -> None:
        super().__init__(inner)
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        if scope["type"] != "http":
            return await self.inner(scope, receive, send)
        begun = late = False

        async def send_in_time(event: Event) -> None:
            nonlocal begun
            if late:
                raise ClientDisconnectedError
            begun = True
            await send(event)

        # A task of its own: synchronous code would hold up an answer that waits until it has been cancelled.
        work = asyncio.ensure_future(self.inner(scope, receive, send_in_time))
        try:
            await asyncio.wait({work}, timeout=self.seconds)
            if work.done():
                return work.result()
            late = True
            why = f"the response was not complete within {self.seconds:g} s"
            if begun:
                raise TimeoutError(why)
            headers = [(b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 503, "headers": headers, "log_reason": why})
            await send({"type": "http.response.body", "body": b""})
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
