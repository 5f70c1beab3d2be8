"""Users in scopes: gateway.auth."""

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user_model, user_logged_in, user_logged_out
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.cache import SessionStore

from gateway.auth import AuthMiddleware, AuthMiddlewareStack, UserLazyObject, get_user, login, logout
from protocols.asgi import Event, Receive, Scope, Send

with_database = pytest.mark.django_db(transaction=True)

BACKEND = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture(autouse=True)
def _settings(settings: Any) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.AUTHENTICATION_BACKENDS = [BACKEND]


@pytest.fixture
async def bob() -> Any:
    return await make_user("bob")


@sync_to_async
def make_user(name: str) -> Any:
    return get_user_model().objects.create_user(name, password="secret")


@pytest.fixture
def scope() -> Scope:
    return {"type": "websocket", "session": SessionStore()}


@with_database
class TestLogin:
    async def test_who_logged_in_is_the_user_of_the_session(self, scope: Scope, bob: Any) -> None:
        assert isinstance(await get_user(scope), AnonymousUser)
        signalled: list[Any] = []

        def receive(sender: Any, user: Any, request: Any, **kwargs: Any) -> None:
            signalled.append((user, request))

        user_logged_in.connect(receive)
        await login(scope, bob)
        user_logged_in.disconnect(receive)

        assert scope["user"] == bob
        assert await get_user(scope) == bob
        assert signalled == [(bob, None)]

    async def test_the_key_of_an_anonymous_session_changes_and_its_content_stays(self, scope: Scope, bob: Any) -> None:
        scope["session"]["basket"] = [1]
        scope["session"].save()
        before = scope["session"].session_key

        await login(scope, bob)

        assert scope["session"].session_key != before
        assert scope["session"]["basket"] == [1]

    async def test_the_session_of_another_user_is_emptied(self, scope: Scope, bob: Any) -> None:
        await login(scope, await make_user("ann"))
        scope["session"]["basket"] = [1]

        await login(scope, bob)

        assert "basket" not in scope["session"]
        assert await get_user(scope) == bob

    async def test_the_session_of_an_old_password_is_emptied(self, scope: Scope, bob: Any) -> None:
        await login(scope, bob)
        scope["session"]["basket"] = [1]
        bob.set_password("new")

        await login(scope, bob)

        assert "basket" not in scope["session"]

    async def test_without_a_user_that_of_the_scope_is_taken(self, scope: Scope, bob: Any) -> None:
        scope["user"] = bob

        await login(scope, None)

        assert await get_user(scope) == bob

    async def test_what_is_missing_is_named(self, scope: Scope, bob: Any, settings: Any) -> None:
        with pytest.raises(ValueError, match="Cannot find session in scope"):
            await login({"type": "websocket"}, bob)
        with pytest.raises(ValueError, match="User must be passed as an argument or must be present in the scope"):
            await login(scope, None)
        settings.AUTHENTICATION_BACKENDS = [BACKEND, BACKEND]
        with pytest.raises(ValueError, match="You have multiple authentication backends"):
            await login(scope, bob)
        await login(scope, bob, backend=BACKEND)
        assert await get_user(scope) == bob


@with_database
class TestGetUser:
    async def test_a_scope_without_session_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="Cannot find session in scope"):
            await get_user({"type": "websocket"})

    async def test_a_changed_password_ends_the_session(self, scope: Scope, bob: Any) -> None:
        await login(scope, bob)
        bob.set_password("new")
        await bob.asave()

        assert isinstance(await get_user(scope), AnonymousUser)
        assert SESSION_KEY not in scope["session"]

    async def test_a_backend_no_longer_configured_gives_nobody(self, scope: Scope, bob: Any, settings: Any) -> None:
        await login(scope, bob)
        settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.RemoteUserBackend"]

        assert isinstance(await get_user(scope), AnonymousUser)

    async def test_a_deleted_user_is_nobody(self, scope: Scope, bob: Any) -> None:
        await login(scope, bob)
        await bob.adelete()

        assert isinstance(await get_user(scope), AnonymousUser)

    @pytest.mark.parametrize("kind", ["http", "websocket"])
    async def test_a_session_of_a_former_secret_key_stays_valid(
        self, scope: Scope, bob: Any, settings: Any, kind: str
    ) -> None:
        await login(scope, bob)
        before = scope["session"].session_key
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "another key, which is long enough for its purpose"
        scope["type"] = kind

        assert await get_user(scope) == bob

        moved = scope["session"][HASH_SESSION_KEY] == bob.get_session_auth_hash()
        # A WebSocket could not tell the browser of the new session key.
        assert moved is (kind == "http")
        assert (scope["session"].session_key != before) is (kind == "http")


@with_database
class TestLogout:
    async def test_the_session_ends_and_the_user_is_nobody(self, scope: Scope, bob: Any) -> None:
        signalled: list[Any] = []

        def receive(sender: Any, user: Any, request: Any, **kwargs: Any) -> None:
            signalled.append(user)

        user_logged_out.connect(receive)
        await login(scope, bob)
        scope["session"]["basket"] = [1]
        await logout(scope)
        await logout(scope)
        user_logged_out.disconnect(receive)

        assert isinstance(scope["user"], AnonymousUser)
        assert scope["session"].is_empty()
        assert signalled == [bob]

    async def test_a_logout_without_session_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="Login cannot find session in scope"):
            await logout({"type": "websocket"})


async def user_of(middleware: Any, scope: Scope) -> Any:
    """The user whom the application inside `middleware` sees."""
    seen: list[Any] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["user"])

    async def nothing(event: Event | None = None) -> Event:
        raise AssertionError

    await middleware(inner)(scope, nothing, nothing)
    return seen[0]


async def test_who_sends_no_session_cookie_is_nobody_without_asking_the_database() -> None:
    # No database mark: a query would fail.
    assert (await user_of(AuthMiddlewareStack, {"type": "websocket", "headers": []})).is_anonymous


@with_database
class TestAuthMiddleware:
    async def test_the_stack_finds_the_user_of_the_session_cookie(self, scope: Scope, bob: Any) -> None:
        await login(scope, bob)
        scope["session"].save()
        cookie = f"{settings.SESSION_COOKIE_NAME}={scope['session'].session_key}".encode()

        assert await user_of(AuthMiddlewareStack, {"type": "websocket", "headers": [(b"cookie", cookie)]}) == bob

    async def test_the_auth_middleware_needs_a_session(self) -> None:
        with pytest.raises(ValueError, match="AuthMiddleware cannot find session in scope"):
            await user_of(AuthMiddleware, {"type": "websocket"})

    def test_the_user_before_it_is_ready_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"Accessing scope user before it is ready\."):
            _ = UserLazyObject().username
