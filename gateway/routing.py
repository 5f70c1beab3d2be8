"""Routers: ASGI applications that choose another one by the scope.

application = ProtocolTypeRouter({
    "http": django_application,
    "websocket": AuthMiddlewareStack(URLRouter([path("chat/<str:room>/", ChatConsumer.as_asgi())])),
    "mqtt": DeviceConsumer.as_asgi(),
})
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from types import FunctionType
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, URLResolver
from django.urls.exceptions import Resolver404
from django.urls.resolvers import RegexPattern, RoutePattern

from gateway.lifespan import LifespanApplication
from protocols.asgi import Application, Receive, Scope, Send

APPLICATION_GROUP: Final = "gateway.applications"


def get_default_application() -> Application:
    """The application that the ASGI_APPLICATION setting names. Raises ImproperlyConfigured if it cannot be had."""
    setting = getattr(settings, "ASGI_APPLICATION", None)
    if not setting:
        raise ImproperlyConfigured("Cannot find ASGI_APPLICATION setting.")
    path, _, name = setting.rpartition(".")
    try:
        module = import_module(path)
    except (ImportError, ValueError) as error:
        raise ImproperlyConfigured(f"Cannot import ASGI_APPLICATION module {path!r}") from error
    try:
        application: Application = getattr(module, name)
    except AttributeError:
        raise ImproperlyConfigured(f"Cannot find {name!r} in ASGI_APPLICATION module {path}") from None
    return application


def installed_applications() -> dict[str, Application]:
    """What installed distributions serve scopes with, by the scopes' type: entry points of "gateway.applications".

    For scopes of protocol servers that are plug-ins. Raises what the import of one raises.
    """
    return {entry.name: entry.load() for entry in entry_points(group=APPLICATION_GROUP)}


class ProtocolTypeRouter:
    """Chooses by the scope's type: "http", "websocket", "mqtt", "lifespan", "channel", or that of a plug-in.

    Without one for "lifespan" it answers the server itself: that the application can start if its channel layers can be
    used.
    """

    def __init__(self, application_mapping: Mapping[str, Application]) -> None:
        self.application_mapping = application_mapping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Raises ValueError for a type that has no application."""
        application = self.application_mapping.get(scope["type"])
        if application is None and scope["type"] == "lifespan":
            application = LifespanApplication(lambda state: nullcontext())
        if application is None:
            raise ValueError(f"No application configured for scope type {scope['type']!r}")
        return await application(scope, receive, send)


class NoRouteError(Resolver404):
    """Raised by a URLRouter inside another one when it has no route for what is left of the path.

    A class of its own: a Resolver404 that an application raises must not make the outer router try the next route.
    """


@dataclass(frozen=True, slots=True)
class _Route:
    pattern: RoutePattern | RegexPattern
    application: Application
    default_args: Mapping[str, Any]


class URLRouter:
    """Chooses by the path of the scope, with routes made by django.urls.path and re_path; the first match wins.

    A route to another URLRouter, through middleware or not, matches the beginning of the path and leaves the rest to
    it; if that has no route for it, the next route is tried. Middleware is seen through if it keeps what it wraps as
    `inner`, `app` or `application`, or in the closure of a function.

    The application gets a copy of the scope with `url_route`: `args` and `kwargs` that were captured, those of the
    outer routers included, and `path_remaining`.
    """

    def __init__(self, routes: Iterable[URLPattern | URLResolver]) -> None:
        self.routes = list(routes)
        self._routes = [_compile(route) for route in self.routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Raises ValueError when there is no route."""
        nested = "path_remaining" in scope
        full_path = scope.get("path_remaining", scope.get("path"))
        if full_path is None:
            raise ValueError("No 'path' key in connection scope, cannot route URLs")
        path = full_path if nested else _without_root(full_path, scope.get("root_path") or "")
        path = path.lstrip("/")
        outer = scope.get("url_route", {"args": (), "kwargs": {}})
        for route in self._routes:
            match = route.pattern.match(path)
            if match is None:
                continue
            remaining, args, kwargs = match
            inner_scope = dict(scope)
            inner_scope["path_remaining"] = remaining
            inner_scope["url_route"] = {
                "args": outer["args"] + args,
                "kwargs": {**outer["kwargs"], **kwargs, **route.default_args},
            }
            try:
                return await route.application(inner_scope, receive, send)
            except NoRouteError:
                continue
        raise (NoRouteError if nested else ValueError)(f"No route found for path {path!r}.")


class ChannelNameRouter:
    """Chooses by the name of the channel that a worker reads."""

    def __init__(self, application_mapping: Mapping[str, Application]) -> None:
        self.application_mapping = application_mapping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Raises ValueError for a scope without channel, and for a channel that has no application."""
        if "channel" not in scope:
            raise ValueError(
                "ChannelNameRouter got a scope without a 'channel' key. "
                "Did you make sure it's only being used for 'channel' type messages?"
            )
        if scope["channel"] not in self.application_mapping:
            raise ValueError(f"No application configured for channel name {scope['channel']!r}")
        return await self.application_mapping[scope["channel"]](scope, receive, send)


def _compile(route: URLPattern | URLResolver) -> _Route:
    if isinstance(route, URLResolver):
        raise ImproperlyConfigured(
            f"{route}: include() is not supported in URLRouter. Use nested URLRouter instances instead."
        )
    application: Any = route.callback
    pattern: Any = route.pattern
    if leads_to_router(application):
        pattern = _as_prefix(pattern)
    return _Route(pattern, application, route.default_args or {})


def _as_prefix(pattern: Any) -> RoutePattern | RegexPattern:
    """The pattern, for the beginning of a path. A new one: the route may be in use elsewhere."""
    if isinstance(pattern, RegexPattern):
        return RegexPattern(
            str(pattern),
            pattern.name,
            is_endpoint=False,
        )
    if isinstance(pattern, RoutePattern):
        return RoutePattern(
            str(pattern),
            pattern.name,
            is_endpoint=False,
        )
    raise ValueError(f"Unsupported pattern type: {type(pattern)}")


def _without_root(path: str, root_path: str) -> str:
    """`path` without the prefix at which the server has mounted the application. Raises ValueError if it lacks it."""
    root = root_path.rstrip("/")
    if not root:
        return path  # which need not begin with "/": servers send one that does, tests often do not
    if path != root and not path.startswith(root + "/"):
        raise ValueError(f"No route found for path {path!r}.")
    return path.removeprefix(root)


def leads_to_router(application: object) -> bool:
    """Whether `application` is a URLRouter or wraps one.

    It understands `_path_routing = True`, too, with which middleware of Channels is marked.
    """
    seen: set[int] = set()
    waiting: list[object] = [application]
    while waiting:
        candidate = waiting.pop()
        if isinstance(candidate, URLRouter) or getattr(candidate, "_path_routing", False) is True:
            return True
        if id(candidate) not in seen:
            seen.add(id(candidate))
            waiting += _wrapped_by(candidate)
    return False


def _wrapped_by(application: object) -> Iterator[object]:
    """The applications that `application` may call, as far as they can be found."""
    if isinstance(application, ProtocolTypeRouter):
        yield from application.application_mapping.values()
    elif isinstance(application, functools.partial):
        yield from (application.func, *application.args, *application.keywords.values())
    elif isinstance(application, FunctionType):
        yield from _callables_in_closure(application)
    elif not isinstance(application, type):
        yield from (getattr(application, name, None) for name in ("inner", "app", "application"))


def _callables_in_closure(function: FunctionType) -> Sequence[object]:
    found = []
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if callable(content) and not isinstance(content, type):
            found.append(content)
    return found
