"""Cookies and sessions in scopes: gateway.sessions."""

from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from typing import Any

import pytest
from django.conf import settings
from django.contrib.sessions.backends.cache import SessionStore
from django.core.exceptions import SuspiciousOperation

from gateway.sessions import CookieMiddleware, SessionMiddlewareStack
from protocols.asgi import Event, Receive, Scope, Send


@pytest.fixture(autouse=True)
def _sessions_in_the_cache(settings: Any) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


async def call(application: Any, scope: Scope) -> list[Event]:
    """What `application` sends for `scope`."""
    sent: list[Event] = []

    async def receive() -> Event:
        raise AssertionError("nothing to receive")

    async def send(event: Event) -> None:
        sent.append(event)

    await application(scope, receive, send)
    return sent


def session_cookie(key: str | None) -> tuple[bytes, bytes]:
    return (b"cookie", f"{settings.SESSION_COOKIE_NAME}={key}".encode())


def cookies_of(event: Event) -> SimpleCookie:
    cookies = SimpleCookie()
    for name, value in event["headers"]:
        assert name == b"set-cookie"
        cookies.load(value.decode())
    return cookies


class TestCookieMiddleware:
    @pytest.mark.parametrize(
        ("headers", "cookies"),
        [
            ([], {}),
            ([(b"cookie", b"a=1; b=2")], {"a": "1", "b": "2"}),
            ([(b"cookie", b"a=1"), (b"accept", b"*/*"), (b"cookie", b"b=2")], {"a": "1", "b": "2"}),
            ([(b"cookie", 'name="caf\xe9"'.encode("latin1"))], {"name": "caf\xe9"}),
        ],
    )
    async def test_cookies_of_all_headers_are_in_the_scope(
        self, headers: list[tuple[bytes, bytes]], cookies: dict[str, str]
    ) -> None:
        scope: Scope = {"type": "http", "headers": headers}
        seen: list[Any] = []

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["cookies"])

        await call(CookieMiddleware(inner), scope)

        assert seen == [cookies]
        assert "cookies" not in scope

    async def test_a_scope_without_headers_is_refused(self) -> None:
        with pytest.raises(ValueError, match="did not have a headers key"):
            await call(CookieMiddleware(call), {"type": "lifespan"})  # type: ignore[arg-type]

    def test_a_cookie_is_set_by_a_header_in_lower_case(self) -> None:
        event: Event = {"type": "http.response.start", "headers": [(b"a", b"b")]}

        CookieMiddleware.set_cookie(event, "key", "value", max_age=10, domain="x.org", secure=True, httponly=True)

        (_, header) = event["headers"]
        assert header[0] == b"set-cookie"
        morsel = SimpleCookie(header[1].decode())["key"]
        assert (morsel.value, morsel["max-age"], morsel["domain"], morsel["path"]) == ("value", "10", "x.org", "/")
        assert (morsel["secure"], morsel["httponly"], morsel["samesite"]) == (True, True, "lax")
        assert morsel["expires"].endswith("GMT")

    def test_an_expiry_given_as_datetime_becomes_a_maximum_age(self) -> None:
        event: Event = {"type": "http.response.start"}

        CookieMiddleware.set_cookie(event, "key", expires=datetime.now(UTC) + timedelta(seconds=30))

        assert int(cookies_of(event)["key"]["max-age"]) in (30, 31)

    def test_a_wrong_samesite_is_refused(self) -> None:
        with pytest.raises(AssertionError, match="samesite must be either 'strict', 'lax' or 'none'"):
            CookieMiddleware.set_cookie({}, "key", samesite="loose")

    def test_a_deleted_cookie_expires_at_once(self) -> None:
        event: Event = {"type": "http.response.start"}

        CookieMiddleware.delete_cookie(event, "key", path="/p", domain="x.org")

        morsel = cookies_of(event)["key"]
        assert (morsel.value, morsel["max-age"], morsel["path"], morsel["domain"]) == ("", "0", "/p", "x.org")
        assert "1970" in morsel["expires"]


@pytest.mark.django_db  # a save closes old connections, whatever the session engine
class TestSessionMiddleware:
    async def respond(self, scope: Scope, receive: Receive, send: Send, status: int = 200) -> None:
        scope["session"]["visits"] = scope["session"].get("visits", 0) + 1
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def test_a_changed_session_is_saved_with_the_response_and_found_again(self) -> None:
        start, _ = await call(SessionMiddlewareStack(self.respond), {"type": "http", "headers": []})
        key = cookies_of(start)[settings.SESSION_COOKIE_NAME].value

        again, _ = await call(
            SessionMiddlewareStack(self.respond),
            {"type": "http", "headers": [session_cookie(key)]},
        )

        assert SessionStore(key)["visits"] == 2
        assert cookies_of(again)[settings.SESSION_COOKIE_NAME].value == key

    async def test_the_session_cookie_follows_the_settings(self, settings: Any) -> None:
        settings.SESSION_COOKIE_NAME = "mysession"
        settings.SESSION_COOKIE_PATH = "/app"
        settings.SESSION_COOKIE_DOMAIN = "x.org"
        settings.SESSION_COOKIE_SECURE = True
        settings.SESSION_COOKIE_SAMESITE = "Strict"
        settings.SESSION_EXPIRE_AT_BROWSER_CLOSE = True

        start, _ = await call(SessionMiddlewareStack(self.respond), {"type": "http", "headers": []})

        morsel = cookies_of(start)["mysession"]
        assert (morsel["path"], morsel["domain"], morsel["samesite"]) == ("/app", "x.org", "Strict")
        assert (morsel["secure"], morsel["httponly"], morsel["max-age"]) == (True, True, "")

    async def test_a_session_that_was_only_read_is_not_saved(self) -> None:
        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["session"].get("visits") is None
            await send({"type": "http.response.start", "status": 200, "headers": []})

        (start,) = await call(SessionMiddlewareStack(inner), {"type": "http", "headers": []})

        assert start["headers"] == []

    async def test_a_500_saves_nothing(self) -> None:
        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            await self.respond(scope, receive, send, status=500)

        start, _ = await call(SessionMiddlewareStack(inner), {"type": "http", "headers": []})

        assert start["headers"] == []

    async def test_an_emptied_session_takes_its_cookie_away(self) -> None:
        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"].flush()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        (start,) = await call(
            SessionMiddlewareStack(inner),
            {"type": "http", "headers": [session_cookie("abcdefgh1234")]},
        )

        assert cookies_of(start)[settings.SESSION_COOKIE_NAME].value == ""

    async def test_a_session_deleted_meanwhile_is_a_suspicious_operation(self) -> None:
        session = SessionStore()
        session["a"] = 1
        session.save()

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 2
            SessionStore(session.session_key).delete()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        with pytest.raises(SuspiciousOperation, match="session was deleted before the request completed"):
            await call(
                SessionMiddlewareStack(inner),
                {
                    "type": "http",
                    "headers": [session_cookie(session.session_key)],
                },
            )

    async def test_websocket_events_do_not_save(self) -> None:
        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 1
            await send({"type": "websocket.accept"})

        assert await call(SessionMiddlewareStack(inner), {"type": "websocket", "headers": []}) == [
            {"type": "websocket.accept"}
        ]

    async def test_a_session_that_is_there_already_is_kept(self) -> None:
        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["session"] == {"mine": True}
            await send({"type": "http.response.start", "status": 200})

        scope: Scope = {"type": "http", "headers": [], "session": {"mine": True}}

        assert await call(SessionMiddlewareStack(inner), scope) == [{"type": "http.response.start", "status": 200}]
