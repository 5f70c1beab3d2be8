"""The middleware: finds the user of a connection by its token, and ends the connection when the token expires."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.apps import apps

from gateway.metrics import token_refusals
from gateway.token_auth.senders import HttpResponse, WebSocket, note_expiry, refuse_http
from gateway.token_auth.sources import FIRST_MESSAGE, SOURCES, SUBPROTOCOL, Found, find, without_parameter
from protocols.asgi import Application, Event, Receive, Scope, Send
from protocols.inbox import Inbox
from protocols.mqtt import ReasonCode, events

_LONGEST_TIMER_S: Final = 3600.0  # so that a clock that was set, or a machine that slept, is noticed


@dataclass(frozen=True, slots=True)
class TokenUser:
    """The user of a token, and when it expires: seconds since 1970 or an aware datetime; None: never."""

    user: Any
    expires_at: float | datetime | None = None

    @property
    def expires_s(self) -> float:
        """`expires_at` in seconds since 1970."""
        if self.expires_at is None:
            return float("inf")
        return self.expires_at.timestamp() if isinstance(self.expires_at, datetime) else float(self.expires_at)


GetTokenUser = Callable[[str], Awaitable[Any]]


class Authentication:
    """`scope["auth"]`: the user of the connection's token, and when it expires."""

    def __init__(self, get_token_user: GetTokenUser, token_user: TokenUser) -> None:
        self._get_token_user = get_token_user
        self._token_user = token_user
        self._timer: asyncio.TimerHandle | None = None
        self._cutting: asyncio.Task[None] | None = None
        self._cut: Callable[[], Awaitable[None]] | None = None

    @property
    def user(self) -> Any:
        """The user."""
        return self._token_user.user

    @property
    def expires_at(self) -> float | datetime | None:
        """When the connection will end, as `get_token_user` returned it."""
        return self._token_user.expires_at

    async def renew(self, token: str) -> bool:
        """Lets the connection go on until `token` expires. False, and nothing changes, if it is not the user's."""
        token_user = await identify(self._get_token_user, token)
        if token_user is None or token_user.user != self.user:
            return False
        self._token_user = token_user
        self._watch()
        return True

    @asynccontextmanager
    async def ending_by(self, cut: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """While entered, calls `cut` when the token has expired."""
        self._cut = cut
        self._watch()
        try:
            yield
        finally:
            self._cut = None
            if self._timer is not None:
                self._timer.cancel()
            if self._cutting is not None:
                self._cutting.cancel()

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._cut is None or self._cutting is not None:
            return
        left_s = self._token_user.expires_s - time.time()
        loop = asyncio.get_running_loop()
        if left_s <= 0:
            self._cutting = loop.create_task(_quietly(self._cut))
        elif left_s != float("inf"):
            self._timer = loop.call_later(min(left_s, _LONGEST_TIMER_S), self._watch)


async def _quietly(cut: Callable[[], Awaitable[None]]) -> None:
    with suppress(OSError):  # the client has gone by itself
        await cut()


async def identify(get_token_user: GetTokenUser, token: str) -> TokenUser | None:
    """The result of `get_token_user` for `token`; None also for one that has expired."""
    if not token:
        return None
    found = await get_token_user(token)
    if found is None:
        return None
    token_user = found if isinstance(found, TokenUser) else TokenUser(found)
    return token_user if token_user.expires_s > time.time() else None


class TokenAuthMiddleware:
    """Lets in the users that `get_token_user` returns, and ends connections whose token expires: gateway.token_auth."""

    def __init__(
        self,
        inner: Application,
        get_token_user: GetTokenUser,
        *,
        sources: Iterable[str] = ("header", "subprotocol", "mqtt"),
        query_parameter: str | None = None,
        required: bool = True,
        first_message_timeout_s: float = 10.0,
    ) -> None:
        """`get_token_user` is a coroutine function: token -> a user, a TokenUser, or None for a token it does not know.

        `query_parameter` names a parameter of the query string that may hold the token; it is taken out of the scope
        that `inner` gets, so that nothing there can log it. Without `required` a connection that has no token goes on
        with the user that an outer middleware found, or AnonymousUser; a wrong token is refused all the same.
        """
        self.inner = inner
        self.get_token_user = get_token_user
        self.sources = frozenset(sources)
        unknown = self.sources - SOURCES
        if unknown:
            raise ValueError(f"sources are of {', '.join(sorted(SOURCES))}, not {', '.join(sorted(unknown))}")
        self.query_parameter = query_parameter
        self.required = required
        self.first_message_timeout_s = first_message_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Calls `inner`, or refuses. Scopes of other types, such as "lifespan", go through."""
        match scope["type"]:
            case "http":
                return await self._http(scope, receive, send)
            case "websocket":
                return await self._websocket(scope, receive, send)
            case "mqtt":
                return await self._mqtt(scope, receive, send)
            case _:
                return await self.inner(scope, receive, send)

    # HTTP

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> Any:
        found = find(scope, self.sources, self.query_parameter)
        scope = without_parameter(scope, self.query_parameter)
        authentication = await self._authenticate(found)
        if authentication is None and (found or self.required):
            why = self._count_refusal(scope, found)
            return await refuse_http(send, "http.response", bad_token=found is not None, log_reason=why)
        scope = _with_user(scope, authentication)
        if authentication is None:
            return await self.inner(scope, receive, send)
        response = HttpResponse(scope, send)
        async with authentication.ending_by(response.expire):
            return await self.inner(scope, receive, response.send)

    # WebSocket

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> Any:
        found = find(scope, self.sources, self.query_parameter)
        scope = without_parameter(scope, self.query_parameter)
        socket = WebSocket(scope, send)
        if found is not None and found.source == SUBPROTOCOL:
            scope["subprotocols"] = scope["subprotocols"][2:]
            socket.subprotocol = "bearer"
        if found is None and FIRST_MESSAGE in self.sources:
            first = await self._first_message(receive, send)
            if first is None:
                return None
            connect, found = first
            receive = _again(connect, receive)
            socket.accepted = True
            scope["extensions"] = {
                name: value
                for name, value in (scope.get("extensions") or {}).items()
                if name != "websocket.http.response"  # it has had its response
            }
        authentication = await self._authenticate(found)
        if authentication is None and (found or self.required):
            return await socket.refuse(receive, found, self._count_refusal(scope, found))
        scope = _with_user(scope, authentication)
        if authentication is None:
            return await self.inner(scope, receive, socket.send)
        async with authentication.ending_by(socket.expire):
            return await self.inner(scope, receive, socket.send)

    async def _first_message(self, receive: Receive, send: Send) -> tuple[Event, Found] | None:
        """The connect event and the token of the first message; None if the client leaves before."""
        connect = await receive()
        if connect["type"] != "websocket.connect":
            return None
        await send({"type": "websocket.accept", "subprotocol": None})
        try:
            async with asyncio.timeout(self.first_message_timeout_s):
                message = await receive()
        except TimeoutError:
            return connect, Found(FIRST_MESSAGE, "")
        if message["type"] != "websocket.receive":
            return None
        return connect, Found(FIRST_MESSAGE, _token_of(message))

    # MQTT

    async def _mqtt(self, scope: Scope, receive: Receive, send: Send) -> Any:
        connect = await receive()
        if connect["type"] != "mqtt.connect":
            return None
        found = find(scope, self.sources, None, password=connect["password"])
        authentication = await self._authenticate(found)
        if authentication is None and (found or self.required):
            code = ReasonCode.BAD_USER_NAME_OR_PASSWORD if found else ReasonCode.NOT_AUTHORIZED
            why = self._count_refusal(scope, found)
            await send(events.reject(reason_code=code, log_reason=why))
            return None
        scope = _with_user(dict(scope), authentication)
        if authentication is None:
            return await self.inner(scope, _again(connect, receive), send)
        # The credentials were the token: a consumer must not take them for a user name and a password.
        if connect["password"] is None:
            scope["username"] = None
        connect = {**connect, "password": None, "allow_anonymous": False}

        async def expire() -> None:
            note_expiry(scope)
            await send(events.close(reason_code=ReasonCode.NOT_AUTHORIZED, reason_string="the token has expired"))

        async with authentication.ending_by(expire):
            return await self.inner(scope, _again(connect, receive), send)

    async def _authenticate(self, found: Found | None) -> Authentication | None:
        if found is None:
            return None
        token_user = await identify(self.get_token_user, found.token)
        return Authentication(self.get_token_user, token_user) if token_user is not None else None

    def _count_refusal(self, scope: Scope, found: Found | None) -> str:
        """Returns the reason, for the server's log."""
        token_refusals.labels(scope["type"], "missing" if found is None else "invalid").inc()
        return "no token" if found is None else f"a token that is not valid ({found.source})"


def _with_user(scope: Scope, authentication: Authentication | None) -> Scope:
    if authentication is not None:
        scope["user"] = authentication.user
        scope["auth"] = authentication
    elif "user" not in scope and apps.is_installed("django.contrib.auth"):
        from django.contrib.auth.models import AnonymousUser  # needs the app registry

        scope["user"] = AnonymousUser()
    return scope


def _again(event: Event, receive: Receive) -> Receive:
    """A `receive` that returns `event` first: that of our servers if it can, which consumers use more directly."""
    inbox = getattr(receive, "__self__", None)
    if isinstance(inbox, Inbox):
        inbox.unread(event)
        return receive
    first = [event]

    async def receive_again() -> Event:
        return first.pop() if first else await receive()

    return receive_again


def _token_of(message: Event) -> str:
    try:
        token = json.loads(message.get("text") or "")["token"]
    except (ValueError, KeyError, TypeError):
        return ""
    return token if isinstance(token, str) else ""
