"""Cookies and Django sessions for ASGI scopes: `scope["cookies"]` and `scope["session"]`."""

from datetime import datetime
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.core.exceptions import SuspiciousOperation
from django.http import HttpResponse, parse_cookie
from django.utils.functional import LazyObject

from gateway.db import database_sync_to_async
from protocols.asgi import Application, Event, Receive, Scope, Send


class CookieMiddleware:
    """Puts the cookies of a connection into `scope["cookies"]`, a dict as Django's `request.COOKIES`."""

    def __init__(self, inner: Application) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Calls `inner`; ValueError when the scope has no headers."""
        if "headers" not in scope:
            raise ValueError(
                "CookieMiddleware was passed a scope that did not have a headers key "
                "(make sure it is only passed HTTP or WebSocket connections)"
            )
        # HTTP/2 may split one Cookie header into several, to be joined with "; " (RFC 9113 §8.2.3).
        header = "; ".join(value.decode("latin1") for name, value in scope["headers"] if name == b"cookie")
        return await self.inner({**scope, "cookies": parse_cookie(header)}, receive, send)

    @classmethod
    def set_cookie(
        cls,
        message: Event,
        key: str,
        value: str = "",
        max_age: float | None = None,
        expires: str | datetime | None = None,
        path: str = "/",
        domain: str | None = None,
        secure: bool | None = False,
        httponly: bool | None = False,
        samesite: str | None = "lax",
    ) -> None:
        """Adds a cookie to `message`, an `http.response.start` or `websocket.accept` event.

        `expires` is text in the form of the header, or a datetime, in UTC when naive, from which max-age follows.
        """
        assert samesite is None or samesite.lower() in ("strict", "lax", "none"), (
            "samesite must be either 'strict', 'lax' or 'none'"
        )
        response = HttpResponse()
        response.set_cookie(
            key,
            value,
            max_age=None if max_age is None else int(max_age),
            expires=expires,
            path=path,
            domain=domain,
            secure=bool(secure),
            httponly=bool(httponly),
        )
        if samesite is not None:
            response.cookies[key]["samesite"] = samesite
        # Header names in lower case, as ASGI has them.
        headers = [(b"set-cookie", morsel.OutputString().encode()) for morsel in response.cookies.values()]
        message["headers"] = [*message.get("headers", ()), *headers]

    @classmethod
    def delete_cookie(cls, message: Event, key: str, path: str = "/", domain: str | None = None) -> None:
        """Adds a header to `message` that makes the browser delete a cookie."""
        cls.set_cookie(message, key, max_age=0, path=path, domain=domain, expires="Thu, 01 Jan 1970 00:00:00 GMT")


class InstanceSessionWrapper:
    """The session of one connection: in its scope, and saved by the events that its `send` passes on."""

    save_message_types = ["http.response.start"]
    """Types of events before which a session that has changed is saved."""

    cookie_response_message_types = ["http.response.start"]
    """Types of events that carry the session cookie to the client."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.cookie_name: str = settings.SESSION_COOKIE_NAME
        self.session_store: type[SessionBase] = import_module(settings.SESSION_ENGINE).SessionStore
        self.scope = dict(scope)
        self.real_send = send
        # False when an outer session middleware has put one there, and saves it.
        self.activated = "session" not in self.scope
        if self.activated:
            if "cookies" not in self.scope:
                raise ValueError("No cookies in scope - SessionMiddleware needs to run inside of CookieMiddleware.")
            self.scope["session"] = LazyObject()

    async def resolve_session(self) -> None:
        """Makes the session, which is loaded when first used."""
        if self.activated:
            self.scope["session"]._wrapped = self.session_store(self.scope["cookies"].get(self.cookie_name))

    async def send(self, message: Event) -> None:
        """Passes `message` on; saves a session that has changed, unless the response is a 500."""
        if self.activated and message["type"] in self.save_message_types and message.get("status", 200) != 500:
            session = self.scope["session"]
            if session.modified or settings.SESSION_SAVE_EVERY_REQUEST:
                # Read before the save, which gives an empty session a key.
                empty = session.is_empty()
                await self.save_session()
                if message["type"] in self.cookie_response_message_types:
                    self._set_cookie(message, session, empty=empty)
        await self.real_send(message)

    async def save_session(self) -> None:
        """Saves the session. SuspiciousOperation when it was deleted meanwhile, as by a logout elsewhere."""
        try:
            await database_sync_to_async(self.scope["session"].save)()
        except UpdateError:
            raise SuspiciousOperation(
                "The request's session was deleted before the request completed. "
                "The user may have logged out in a concurrent request, for example."
            ) from None

    def _set_cookie(self, message: Event, session: SessionBase, *, empty: bool) -> None:
        path, domain = settings.SESSION_COOKIE_PATH, settings.SESSION_COOKIE_DOMAIN
        if empty:
            if self.cookie_name in self.scope["cookies"]:
                CookieMiddleware.delete_cookie(message, self.cookie_name, path=path, domain=domain)
            return
        CookieMiddleware.set_cookie(
            message,
            self.cookie_name,
            session.session_key or "",
            max_age=None if session.get_expire_at_browser_close() else session.get_expiry_age(),
            path=path,
            domain=domain,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=settings.SESSION_COOKIE_HTTPONLY,
            samesite=settings.SESSION_COOKIE_SAMESITE or None,
        )


class SessionMiddleware:
    """Puts the Django session into `scope["session"]`; runs inside CookieMiddleware.

    On HTTP the session is saved, and its cookie set, with the response. On a WebSocket call `session.save()`.
    """

    def __init__(self, inner: Application) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Calls `inner` with a session in the scope."""
        wrapper = InstanceSessionWrapper(scope, send)
        await wrapper.resolve_session()
        return await self.inner(wrapper.scope, receive, wrapper.send)


def SessionMiddlewareStack(inner: Application) -> CookieMiddleware:  # noqa: N802
    """SessionMiddleware with the CookieMiddleware that it needs."""
    return CookieMiddleware(SessionMiddleware(inner))
