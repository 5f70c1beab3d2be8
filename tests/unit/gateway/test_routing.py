"""Routers: the behaviour of channels.routing, without flags on middleware."""

import functools
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.urls import Resolver404, include, path, re_path
from django.urls.converters import register_converter

from gateway.generic.websocket import AsyncWebsocketConsumer
from gateway.middleware import BaseMiddleware
from gateway.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter, get_default_application
from protocols.asgi import Application, Receive, Scope, Send


class Leaf:
    """Keeps the scope that it was called with."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.scope: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope

    @property
    def kwargs(self) -> Any:
        return self.scope and self.scope["url_route"]["kwargs"]


async def call(application: Application, scope_type: str = "websocket", **scope: Any) -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError("a router neither receives nor sends")

    await application({"type": scope_type, **scope}, nothing, nothing)


async def test_routers_return_what_the_application_does() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> Any:
        return "returned"

    router = ProtocolTypeRouter({"websocket": URLRouter([path("a/", URLRouter([path("", application)]))])})

    assert await router({"type": "websocket", "path": "/a/"}, None, None) == "returned"  # type: ignore[arg-type]
    assert await ChannelNameRouter({"a": application})({"channel": "a"}, None, None) == "returned"  # type: ignore[arg-type]


class TestProtocolTypeRouter:
    async def test_chooses_by_the_type_of_the_scope(self) -> None:
        http, mqtt = Leaf(), Leaf()
        await call(ProtocolTypeRouter({"http": http, "mqtt": mqtt}), "mqtt")

        assert mqtt.scope == {"type": "mqtt"}
        assert http.scope is None

    async def test_the_router_refuses_a_type_that_it_does_not_know(self) -> None:
        with pytest.raises(ValueError, match="No application configured for scope type 'http'"):
            await call(ProtocolTypeRouter({}), "http")


class TestChannelNameRouter:
    async def test_chooses_by_the_channel(self) -> None:
        leaf = Leaf()
        await call(ChannelNameRouter({"thumbnails": leaf}), "channel", channel="thumbnails")

        assert leaf.scope["channel"] == "thumbnails"

    async def test_the_router_refuses_a_channel_that_it_does_not_know(self) -> None:
        with pytest.raises(ValueError, match="No application configured for channel name 'other'"):
            await call(ChannelNameRouter({}), "channel", channel="other")

    async def test_the_router_refuses_a_scope_without_channel(self) -> None:
        with pytest.raises(ValueError, match="got a scope without a 'channel' key"):
            await call(ChannelNameRouter({}), "websocket")


class TestURLRouter:
    async def test_the_first_route_that_matches_wins(self) -> None:
        first, second, third = Leaf(), Leaf(), Leaf()
        router = URLRouter([path("a/", first), path("b/", second), re_path(r"", third)])
        await call(router, path="/b/")

        assert (first.scope, third.scope) == (None, None)
        assert second.scope == {
            "type": "websocket",
            "path": "/b/",
            "path_remaining": "",
            "url_route": {"args": (), "kwargs": {}},
        }

    async def test_the_scope_of_the_caller_stays_as_it_is(self) -> None:
        scope: dict[str, Any] = {"type": "websocket", "path": "/a/"}
        leaf = Leaf()
        await URLRouter([path("a/", leaf)])(scope, None, None)  # type: ignore[arg-type]

        assert scope == {"type": "websocket", "path": "/a/"}

    @pytest.mark.parametrize(
        ("make", "route", "extra", "path_", "args", "kwargs"),
        [
            (path, "room/<str:name>/", {}, "/room/blue/", (), {"name": "blue"}),
            (path, "room/<int:number>/", {}, "/room/7/", (), {"number": 7}),
            (path, "room/<int:number>/", {"x": 1}, "/room/7/", (), {"number": 7, "x": 1}),
            (path, "room/<int:number>/", {"number": 1}, "/room/7/", (), {"number": 1}),
            (path, "", {}, "/", (), {}),
            (path, "a", {}, "//a", (), {}),
            (re_path, r"^room/(\w+)/(\d+)/$", {}, "/room/blue/7/", ("blue", "7"), {}),
            (re_path, r"^room/(?P<name>\w+)/$", {}, "/room/blue/", (), {"name": "blue"}),
            (re_path, r"^room/(?:(?P<name>\w+)/)?$", {}, "/room/", (), {}),
        ],
    )
    async def test_captures_are_in_the_scope(
        self, make: Any, route: str, extra: Any, path_: str, args: Any, kwargs: Any
    ) -> None:
        leaf = Leaf()
        await call(URLRouter([make(route, leaf, kwargs=extra)]), path=path_)

        assert leaf.scope["url_route"] == {"args": args, "kwargs": kwargs}

    async def test_converters_of_the_project_are_known(self) -> None:
        class Upper:
            regex = "[A-Z]+"

            def to_python(self, value: str) -> str:
                return value.lower()

            def to_url(self, value: str) -> str:
                return value.upper()

        register_converter(Upper, "upper_in_a_router_test")
        leaf = Leaf()
        await call(URLRouter([path("<upper_in_a_router_test:name>/", leaf)]), path="/ABC/")

        assert leaf.kwargs == {"name": "abc"}

    @pytest.mark.parametrize("path_", ["/nowhere/", "/a/b/", "/a"])
    async def test_a_path_without_route_is_an_error(self, path_: str) -> None:
        with pytest.raises(ValueError, match=f"No route found for path '{path_[1:]}'"):
            await call(URLRouter([path("a/", Leaf())]), path=path_)

    async def test_a_scope_without_path_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="No 'path' key in connection scope, cannot route URLs"):
            await call(URLRouter([]), "mqtt")

    def test_include_is_refused(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"include\(\) is not supported in URLRouter. Use nested"):
            URLRouter([path("a/", include([path("b/", Leaf())]))])  # type: ignore[list-item,arg-type]

    @pytest.mark.parametrize(
        ("root_path", "path_"), [("/app", "/app/a/"), ("/app/", "/app/a/"), ("", "/a/"), ("", "a/"), ("/", "/a/")]
    )
    async def test_the_prefix_of_the_server_is_stripped(self, root_path: str, path_: str) -> None:
        leaf = Leaf()
        await call(URLRouter([path("a/", leaf)]), path=path_, root_path=root_path)

        assert leaf.scope is not None

    @pytest.mark.parametrize("path_", ["/a/", "/application/a/"])
    async def test_a_path_outside_that_prefix_is_an_error(self, path_: str) -> None:
        with pytest.raises(ValueError, match=f"No route found for path '{path_}'"):
            await call(URLRouter([re_path(r"", Leaf())]), path=path_, root_path="/app")


def closure_middleware(inner: Application) -> Application:
    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    return middleware


def partial_middleware(inner: Application) -> Application:
    async def middleware(wrapped: Application, scope: Scope, receive: Receive, send: Send) -> None:
        await wrapped(scope, receive, send)

    return functools.partial(middleware, inner)


class AppMiddleware:
    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class ApplicationMiddleware:
    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.application(scope, receive, send)


class FlaggedMiddleware:
    """As one had to write it for Channels, with what it wraps out of sight."""

    _path_routing = True

    def __init__(self, hidden: Application) -> None:
        self._hidden = hidden

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._hidden(scope, receive, send)


def nothing(inner: Application) -> Application:
    return inner


class TestNestedRouters:
    @pytest.mark.parametrize(
        "middleware",
        [
            nothing,
            BaseMiddleware,
            closure_middleware,
            partial_middleware,
            AppMiddleware,
            ApplicationMiddleware,
            FlaggedMiddleware,
            lambda inner: BaseMiddleware(closure_middleware(AppMiddleware(inner))),
            lambda inner: ProtocolTypeRouter({"websocket": inner}),
        ],
    )
    @pytest.mark.parametrize(
        ("make", "outer"), [(path, "shop/<int:shop>/"), (re_path, r"^shop/(?P<shop>\d+)/")], ids=["path", "re_path"]
    )
    async def test_get_the_rest_of_the_path_through_any_middleware(
        self, middleware: Any, make: Any, outer: str
    ) -> None:
        leaf, index = Leaf(), Leaf()
        inner = URLRouter([path("", index), path("item/<str:item>/", leaf)])
        router = URLRouter([make(outer, middleware(inner))])

        await call(router, path="/shop/3/item/pen/")
        assert leaf.scope["path_remaining"] == ""
        assert {key: str(value) for key, value in leaf.kwargs.items()} == {"shop": "3", "item": "pen"}

        await call(router, path="/shop/3/")
        assert index.scope is not None

    async def test_keep_positional_captures_of_all_levels(self) -> None:
        leaf = Leaf()
        inner = URLRouter([re_path(r"^(\w+)/$", leaf)])
        await call(URLRouter([re_path(r"^(\d+)/", inner)]), path="/7/x/")

        assert leaf.scope["url_route"]["args"] == ("7", "x")

    async def test_nested_routers_without_a_route_let_the_next_one_be_tried(self) -> None:
        leaf = Leaf()
        router = URLRouter([path("a/", BaseMiddleware(URLRouter([path("b/", Leaf())]))), path("a/c/", leaf)])
        await call(router, path="/a/c/")

        assert leaf.scope is not None

    async def test_none_with_a_route_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="No route found for path 'a/c/'"):
            await call(URLRouter([path("a/", URLRouter([path("b/", Leaf())]))]), path="/a/c/")

    async def test_a_nested_router_raises_resolver_404_by_itself(self) -> None:
        with pytest.raises(Resolver404):
            await call(URLRouter([]), path="/a/", path_remaining="a/")

    async def test_a_resolver_404_of_an_application_does_not_start_another_one(self) -> None:
        second = Leaf()

        async def resolving(scope: Scope, receive: Receive, send: Send) -> None:
            raise Resolver404

        with pytest.raises(Resolver404):
            await call(URLRouter([path("a/", resolving), re_path(r"", second)]), path="/a/")
        assert second.scope is None

    async def test_middleware_around_a_consumer_matches_the_whole_path_only(self) -> None:
        router = URLRouter([path("a/", BaseMiddleware(AsyncWebsocketConsumer.as_asgi()))])

        with pytest.raises(ValueError, match="No route found"):
            await call(router, path="/a/b/")

    def test_the_routes_of_the_caller_are_not_changed(self) -> None:
        route = path("a/", URLRouter([]))
        URLRouter([route])

        assert route.pattern._is_endpoint  # type: ignore[union-attr]


class TestGetDefaultApplication:
    def test_the_default_application_is_what_the_setting_names(self, settings: Any) -> None:
        settings.ASGI_APPLICATION = f"{__name__}.example_application"

        assert get_default_application() is example_application

    @pytest.mark.parametrize(
        ("setting", "error"),
        [
            (None, "Cannot find ASGI_APPLICATION setting."),
            ("no_such_module.application", "Cannot import ASGI_APPLICATION module 'no_such_module'"),
            ("gateway.routing.missing", "Cannot find 'missing' in ASGI_APPLICATION module gateway.routing"),
        ],
    )
    def test_the_default_application_says_what_is_wrong_with_the_setting(
        self, settings: Any, setting: str | None, error: str
    ) -> None:
        settings.ASGI_APPLICATION = setting

        with pytest.raises(ImproperlyConfigured) as raised:
            get_default_application()
        assert str(raised.value) == error


example_application = Leaf()
