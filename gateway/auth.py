"""Django's users for ASGI scopes: `scope["user"]`, `get_user`, `login`, `logout`."""

from typing import Any, cast

from django.conf import settings
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
    user_logged_in,
    user_logged_out,
)
from django.contrib.sessions.backends.base import SessionBase
from django.utils.crypto import constant_time_compare
from django.utils.functional import LazyObject

from gateway.db import database_sync_to_async
from gateway.middleware import BaseMiddleware
from gateway.sessions import CookieMiddleware, SessionMiddleware
from protocols.asgi import Application, Receive, Scope, Send

NO_SESSION = "Cannot find session in scope. You should wrap your consumer in SessionMiddleware."


async def get_user(scope: Scope) -> Any:
    """The user of the session of `scope`, or AnonymousUser. Raises ValueError without a session."""
    from django.contrib.auth.models import AnonymousUser  # needs the app registry

    session = _session(scope, NO_SESSION)
    if isinstance(session, SessionBase) and session.is_empty():
        return AnonymousUser()  # no session cookie: no thread, no query
    return await _load_user(scope) or AnonymousUser()


@database_sync_to_async
def _load_user(scope: Scope) -> Any:
    session = scope["session"]
    try:
        user_id = _user_id(session)
        backend_path = session[BACKEND_SESSION_KEY]
    except KeyError:
        return None
    if backend_path not in settings.AUTHENTICATION_BACKENDS:
        return None
    user = cast(Any, load_backend(backend_path)).get_user(user_id)
    if hasattr(user, "get_session_auth_hash") and not _is_verified(scope, user):
        session.flush()
        return None
    return user


def _is_verified(scope: Scope, user: Any) -> bool:
    """Whether the session was made with the user's present password and with a secret key that is still valid."""
    session = scope["session"]
    session_hash = session.get(HASH_SESSION_KEY)
    if not session_hash:
        return False
    current_hash = user.get_session_auth_hash()
    if constant_time_compare(session_hash, current_hash):
        return True
    fallbacks = user.get_session_auth_fallback_hash() if hasattr(user, "get_session_auth_fallback_hash") else ()
    if not any(constant_time_compare(session_hash, fallback) for fallback in fallbacks):
        return False
    if scope.get("type") == "http":
        # The session moves to the present key, and the response carries its cookie. An accepted WebSocket cannot send
        # the browser a cookie, so there the next request moves the session.
        session.cycle_key()
        session[HASH_SESSION_KEY] = current_hash
    return True


@database_sync_to_async
def login(scope: Scope, user: Any, backend: str | None = None) -> None:
    """Makes `user`, or the user of the scope when None, the user of the session.

    What an anonymous session held is kept; the session of another user is emptied. On a WebSocket call
    `session.save()` afterwards. ValueError without a session, a user, or one backend to choose.
    """
    session = _session(scope, NO_SESSION)
    if user is None:
        user = scope.get("user")
    if user is None:
        raise ValueError("User must be passed as an argument or must be present in the scope.")
    session_hash = user.get_session_auth_hash() if hasattr(user, "get_session_auth_hash") else ""
    if SESSION_KEY in session:
        known_hash = session.get(HASH_SESSION_KEY, "")
        if _user_id(session) != user.pk or (session_hash and not constant_time_compare(known_hash, session_hash)):
            session.flush()
    else:
        session.cycle_key()
    session[SESSION_KEY] = user._meta.pk.value_to_string(user)
    session[BACKEND_SESSION_KEY] = _backend_path(user, backend)
    session[HASH_SESSION_KEY] = session_hash
    scope["user"] = user
    user_logged_in.send(sender=user.__class__, request=None, user=user)


@database_sync_to_async
def logout(scope: Scope) -> None:
    """Ends the session; the user of the scope, if there is one, becomes AnonymousUser. ValueError without a session."""
    from django.contrib.auth.models import AnonymousUser  # needs the app registry

    session = _session(scope, "Login cannot find session in scope. You should wrap your consumer in SessionMiddleware.")
    user = scope.get("user")
    if user is not None and getattr(user, "is_authenticated", True):
        # Before the flush, so that receivers can see the user.
        user_logged_out.send(sender=user.__class__, request=None, user=user)
    session.flush()
    if "user" in scope:
        scope["user"] = AnonymousUser()


def _session(scope: Scope, error: str) -> Any:
    if "session" not in scope:
        raise ValueError(error)
    return scope["session"]


def _user_id(session: Any) -> Any:
    # A session holds text; the primary key may be a number or a UUID.
    return cast(Any, get_user_model()._meta.pk).to_python(session[SESSION_KEY])


def _backend_path(user: Any, backend: str | None) -> str:
    path: str | None = backend or getattr(user, "backend", None)
    if path:
        return path
    if len(settings.AUTHENTICATION_BACKENDS) != 1:
        raise ValueError(
            "You have multiple authentication backends configured and therefore must provide the `backend` "
            "argument or set the `backend` attribute on the user."
        )
    return settings.AUTHENTICATION_BACKENDS[0]


class UserLazyObject(LazyObject):  # type: ignore[type-arg]  # generic to the type checker only
    """Placeholder of the user until AuthMiddleware has found it; to use it before raises ValueError."""

    def _setup(self) -> None:
        raise ValueError("Accessing scope user before it is ready.")


class AuthMiddleware(BaseMiddleware):
    """Puts the user of the Django session into `scope["user"]`; runs inside SessionMiddleware."""

    def populate_scope(self, scope: Scope) -> None:
        """Puts the placeholder into the scope, unless an outer middleware has put a user there."""
        if "session" not in scope:
            raise ValueError("AuthMiddleware cannot find session in scope. SessionMiddleware must be above it.")
        if "user" not in scope:
            scope["user"] = UserLazyObject()

    async def resolve_scope(self, scope: Scope) -> None:
        """Finds the user, without a query when the client sent no session cookie."""
        scope["user"]._wrapped = await get_user(scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Calls `inner` with the user in the scope."""
        scope = dict(scope)
        self.populate_scope(scope)
        await self.resolve_scope(scope)
        return await super().__call__(scope, receive, send)


def AuthMiddlewareStack(inner: Application) -> CookieMiddleware:  # noqa: N802
    """AuthMiddleware with the session and cookie middleware that it needs."""
    return CookieMiddleware(SessionMiddleware(AuthMiddleware(inner)))
