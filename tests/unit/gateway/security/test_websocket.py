"""Which pages may open a WebSocket: gateway.security.websocket."""

import asyncio
from typing import Any

import pytest

from gateway.security.websocket import AllowedHostsOriginValidator, OriginValidator
from protocols.asgi import Event, Receive, Scope, Send


async def accept(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})


async def connect(application: Any, origin: bytes | None) -> bool:
    """Whether a WebSocket from a page of `origin` is let in."""
    sent: list[Event] = []
    events: asyncio.Queue[Event] = asyncio.Queue()
    events.put_nowait({"type": "websocket.connect"})

    async def send(event: Event) -> None:
        sent.append(event)
        events.put_nowait({"type": "websocket.disconnect", "code": 1006})

    headers = [] if origin is None else [(b"origin", origin)]
    await application({"type": "websocket", "path": "/", "headers": headers}, events.get, send)
    assert [event["type"] for event in sent] in (["websocket.accept"], ["websocket.close"])
    return sent[0]["type"] == "websocket.accept"


@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("allowed.org", b"http://allowed.org", True),
        ("allowed.org", b"https://allowed.org:8443", True),
        ("ALLOWED.org", b"http://allowed.ORG", True),
        ("allowed.org", b"http://sub.allowed.org", False),
        ("allowed.org", b"http://notallowed.org", False),
        ("allowed.org", b"http://bad-domain.com", False),
        (".allowed.org", b"http://sub.allowed.org", True),
        (".allowed.org", b"http://allowed.org", True),
        ("allowed.org:8000", b"http://allowed.org:8000", True),
        ("allowed.org:8000", b"http://allowed.org", False),
        ("http://allowed.org", b"http://allowed.org:80", True),
        ("http://allowed.org", b"https://allowed.org", False),
        ("https://.allowed.org:443", b"https://sub.allowed.org", True),
        ("https://allowed.org:8443", b"https://allowed.org", False),
        ("[::1]", b"http://[::1]:8000", True),
        ("allowed.org", None, False),
        ("allowed.org", b"null", False),
        ("allowed.org", b"", False),
        ("allowed.org", b"http://[", False),
        ("allowed.org", b"http://allowed.org:port", False),
        ("allowed.org", b"\xff\xfe", False),
        ("*", b"http://any.where", True),
        ("*", None, True),
        ("*", b"\xff", True),
    ],
)
async def test_an_origin_must_match_a_pattern(pattern: str, origin: bytes | None, allowed: bool) -> None:
    assert await connect(OriginValidator(accept, ["other.org", pattern]), origin) is allowed


async def test_only_websockets_are_checked() -> None:
    with pytest.raises(ValueError, match="You cannot use OriginValidator on a non-WebSocket connection"):
        await OriginValidator(accept, ["*"])({"type": "http"}, None, None)  # type: ignore[arg-type]


class TestAllowedHosts:
    async def test_the_setting_is_read_at_each_connection(self, settings: Any) -> None:
        validator = AllowedHostsOriginValidator(accept)
        settings.ALLOWED_HOSTS = ["one.org"]
        assert await connect(validator, b"http://one.org")
        settings.ALLOWED_HOSTS = ["two.org"]

        assert not await connect(validator, b"http://one.org")
        assert isinstance(validator, OriginValidator)

    @pytest.mark.parametrize(("debug", "allowed"), [(True, True), (False, False)])
    async def test_debug_without_hosts_means_this_machine(self, settings: Any, debug: bool, allowed: bool) -> None:
        settings.ALLOWED_HOSTS = []
        settings.DEBUG = debug

        assert await connect(AllowedHostsOriginValidator(accept), b"http://localhost:8000") is allowed

    async def test_debug_counts_that_a_test_runner_has_turned_off_since(self, settings: Any) -> None:
        settings.ALLOWED_HOSTS = []
        settings.DEBUG = True
        validator = AllowedHostsOriginValidator(accept)
        settings.ALLOWED_HOSTS = ["testserver"]
        settings.DEBUG = False

        assert await connect(validator, b"http://localhost")
        assert await connect(validator, b"http://testserver")
        assert not await connect(validator, b"http://example.com")
