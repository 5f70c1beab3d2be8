"""The base of middleware around ASGI applications."""

from typing import Any

from protocols.asgi import Application, Receive, Scope, Send


class BaseMiddleware:
    """Calls the application inside with a copy of the scope, so that what a subclass puts there stays inside.

    `inner` is that application. Routers look through it: a middleware between two URLRouters needs nothing special.
    """

    def __init__(self, inner: Application) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Calls `inner`; a subclass changes `scope` on the way, or wraps `receive` and `send`."""
        return await self.inner(dict(scope), receive, send)
