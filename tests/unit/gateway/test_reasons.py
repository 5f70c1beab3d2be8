"""Who is refused by middleware has one line in the server's log, with the reason; whichever middleware there is."""

import ast
import asyncio
import importlib
import inspect
import logging
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

import gateway
from gateway.exceptions import DenyConnection
from gateway.generic.sse import AsyncSseConsumer
from gateway.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from gateway.middleware import HttpTimeout
from gateway.security.websocket import AllowedHostsOriginValidator, OriginValidator
from gateway.token_auth import TokenAuthMiddleware
from protocols.asgi import Application, Receive, Scope, Send
from tests.support.wire import Client, Recorder

GET = b"GET /watch HTTP/1.1\r\nHost: x\r\n%b\r\n"
UPGRADE = (
    b"GET /watch HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n"
)
WHO = "refused websocket /watch from 192.0.2.7:4711 with"
HTTP = "refused http GET /watch from 192.0.2.7:4711 with"


async def nobody(token: str) -> None:
    return None


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


def tokens(**options: Any) -> Application:
    return TokenAuthMiddleware(never, nobody, **options)


class Denied(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        raise DenyConnection("the room is full")


class DeniedInThread(WebsocketConsumer):
    def connect(self) -> None:
        raise DenyConnection("the room is full")


class Closed(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.close(reason="not your room")


class DeniedStream(AsyncSseConsumer):
    async def connect(self) -> None:
        await self.deny(log_reason="not your stream")


REFUSALS = [
    (
        OriginValidator(never, ["one.example", "two.example"]),
        UPGRADE % b"Origin: http://other.example\r\n",
        f"{WHO} 403: application: it comes from a page of 'http://other.example'; allowed are one.example, two.example",
    ),
    (
        OriginValidator(never, ["one.example"]),
        UPGRADE % b"",
        f"{WHO} 403: application: it has no Origin; allowed are one.example",
    ),
    (
        OriginValidator(never, []),
        UPGRADE % b"Origin: \x9b31m\r\n",
        f"{WHO} 403: application: it comes from a page of '\\x9b31m'; allowed are none",
    ),
    (
        AllowedHostsOriginValidator(never),
        UPGRADE % b"Origin: null\r\n",
        f"{WHO} 403: application: it comes from a page of 'null'; allowed are gateway.example",
    ),
    (tokens(), GET % b"", f"{HTTP} 401: application: no token"),
    (
        tokens(),
        GET % b"Authorization: Bearer s3cret\r\n",
        f"{HTTP} 401: application: a token that is not valid (header)",
    ),
    (tokens(), UPGRADE % b"", f"{WHO} 401: application: no token"),
    (
        tokens(),
        UPGRADE % b"Authorization: Bearer s3cret\r\n",
        f"{WHO} 401: application: a token that is not valid (header)",
    ),
    (
        tokens(),
        UPGRADE % b"Sec-WebSocket-Protocol: bearer, s3cret\r\n",
        "closed websocket /watch from 192.0.2.7:4711 with 4401: a token that is not valid (subprotocol)",
    ),
    (HttpTimeout(never, 0.0), GET % b"", f"{HTTP} 503: application: the response was not complete within 0 s"),
    (Denied.as_asgi(), UPGRADE % b"", f"{WHO} 403: application: the room is full"),
    (DeniedInThread.as_asgi(), UPGRADE % b"", f"{WHO} 403: application: the room is full"),
    (Closed.as_asgi(), UPGRADE % b"", f"{WHO} 403: application: not your room"),
    (DeniedStream.as_asgi(), GET % b"", f"{HTTP} 403: application: not your stream"),
]


@pytest.mark.parametrize(("application", "request_head", "line"), REFUSALS)
async def test_a_refusal_is_one_line_with_the_reason(
    application: Application, request_head: bytes, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with override_settings(ALLOWED_HOSTS=["gateway.example"], CHANNEL_LAYERS={}):
        client = Client(application)
        response = await client.send(request_head)
        async with asyncio.timeout(10):  # for those in a thread
            while not caplog.records:
                response += await client.receive()
        response += await client.receive()

    assert [record.getMessage() for record in caplog.records] == [line]
    assert b"s3cret" not in response
    assert b"allowed are" not in response  # the client learns no more than before
    await client.leave()


async def test_a_token_that_is_not_valid_over_mqtt_has_its_reason() -> None:
    recorder = Recorder()
    events = asyncio.Queue[Any]()
    events.put_nowait({"type": "mqtt.connect", "password": b"s3cret"})
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    await tokens()({"type": "mqtt", "client": None, "username": "x"}, events.get, send)

    assert sent == [{"type": "mqtt.reject", "reason_code": 0x86, "log_reason": "a token that is not valid (mqtt)"}]
    assert not recorder.scopes


def middleware_classes() -> Iterator[type]:
    """All classes of the framework that stand around an application."""
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if "management.commands" in module.name:
            continue
        for each in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(each) or each.__module__ != module.name or "__call__" not in dir(each):
                continue
            names = list(inspect.signature(each.__init__).parameters)[1:2]
            if names in (["inner"], ["application"]):
                yield each


def refuses(cls: type) -> bool:
    """Whether a class makes an event that refuses a connection, or closes one: it, or what else is in its module."""
    module = inspect.getmodule(cls)
    assert module is not None
    tree = ast.parse(inspect.getsource(module))
    others = {other.__name__ for other in middleware_classes()} - {cls.__name__}
    tree.body = [node for node in tree.body if not isinstance(node, ast.ClassDef) or node.name not in others]
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            types = [
                value.value
                for key, value in pairs
                if isinstance(key, ast.Constant) and key.value == "type" and isinstance(value, ast.Constant)
            ]
            if {"websocket.close", "http.response.start", "mqtt.reject"} & set(types):
                return True
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("self.close", "events.reject"):
            return True
    return False


def test_the_table_has_all_middleware_that_refuses() -> None:
    classes = set(middleware_classes())
    assert {OriginValidator, AllowedHostsOriginValidator, TokenAuthMiddleware, HttpTimeout} <= classes

    assert {cls for cls in classes if refuses(cls)} == {type(application) for application, *_ in REFUSALS} & classes
