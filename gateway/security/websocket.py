"""Origin checks: a browser sends its cookies to a WebSocket whatever page opens it, so the page is checked."""

from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import ParseResult, urlparse

from django.conf import settings
from django.utils.http import is_same_domain

from gateway.generic.websocket import AsyncWebsocketConsumer
from protocols.asgi import Application, Receive, Scope, Send

DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
DEBUG_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
LONGEST_ORIGIN = 200
"""Characters of a refused Origin that the log shows."""


class OriginValidator:
    """Lets in the WebSockets whose Origin is allowed; the others are refused with 403.

    `allowed_origins` are patterns: `host[:port]`, `.host` (it and its subdomains), `scheme://host[:port]`, or `*`.
    """

    allowed_origins: Sequence[str]

    def __init__(self, application: Application, allowed_origins: Sequence[str]) -> None:
        self.application = application
        self.allowed_origins = allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Calls the application or refuses. ValueError when the scope is not a WebSocket's."""
        if scope["type"] != "websocket":
            raise ValueError("You cannot use OriginValidator on a non-WebSocket connection")
        if self.valid_origin(_origin(scope)):
            return await self.application(scope, receive, send)
        return await WebsocketDenier(self._why_not(scope))(scope, receive, send)

    def _why_not(self, scope: Scope) -> str:
        """The reason of a refusal, for the log."""
        origins = [value for name, value in scope.get("headers", ()) if name == b"origin"]
        page = origins[-1].decode("latin-1")[:LONGEST_ORIGIN] if origins else ""
        whence = f"comes from a page of {page!r}" if origins else "has no Origin"
        return f"it {whence}; allowed are {', '.join(self.allowed_origins) or 'none'}"

    def valid_origin(self, parsed_origin: ParseResult | None) -> bool:
        """Whether the Origin is allowed; without one, or with one that cannot be read, only by `*`."""
        if parsed_origin is None and "*" not in self.allowed_origins:
            return False
        return self.validate_origin(parsed_origin)

    def validate_origin(self, parsed_origin: ParseResult | None) -> bool:
        """Whether one of the patterns matches."""
        return any(
            pattern == "*" or self.match_allowed_origin(parsed_origin, pattern) for pattern in self.allowed_origins
        )

    def match_allowed_origin(self, parsed_origin: ParseResult | None, pattern: str) -> bool:
        """Whether `pattern` matches: its host, and with a scheme in the pattern also scheme and port."""
        if parsed_origin is None or parsed_origin.hostname is None:
            return False
        if "://" not in pattern:
            parsed_pattern = urlparse("//" + pattern.lower())
            if parsed_pattern.port is not None and parsed_pattern.port != self.get_origin_port(parsed_origin):
                return False
            return is_same_domain(parsed_origin.hostname, parsed_pattern.hostname or pattern)
        parsed_pattern = urlparse(pattern.lower())
        return (
            parsed_pattern.scheme == parsed_origin.scheme
            and self.get_origin_port(parsed_pattern) == self.get_origin_port(parsed_origin)
            and is_same_domain(parsed_origin.hostname, parsed_pattern.hostname or "")
        )

    def get_origin_port(self, origin: ParseResult) -> int | None:
        """The port, or that of the scheme, or None."""
        return origin.port if origin.port is not None else DEFAULT_PORTS.get(origin.scheme)


class AllowedHostsOriginValidator(OriginValidator):
    """OriginValidator with the hosts of ALLOWED_HOSTS; with DEBUG and none there, those of this machine."""

    def __init__(self, application: Application) -> None:
        self.application = application
        # Read here, too: a test runner turns DEBUG off, and adds a host, after the application was made.
        self._developing = _developing()

    @property
    def allowed_origins(self) -> Sequence[str]:  # type: ignore[override]
        """The patterns, read at each connection: the setting may be overridden in a test."""
        here = DEBUG_HOSTS if self._developing or _developing() else []
        return [*settings.ALLOWED_HOSTS, *here]


def _developing() -> bool:
    return bool(settings.DEBUG) and not settings.ALLOWED_HOSTS


class WebsocketDenier(AsyncWebsocketConsumer):
    """Refuses the connection. It uses no channel layer, so that it works without one."""

    channel_layer_alias: ClassVar[str | None] = None

    def __init__(self, reason: str | None = None) -> None:
        """`reason` is for the server's log."""
        super().__init__()
        self.reason = reason

    async def connect(self) -> None:
        """Closes before the handshake is answered, which the server makes a 403."""
        await self.close(reason=self.reason)


def _origin(scope: Scope) -> ParseResult | None:
    parsed = None
    for name, value in scope.get("headers", ()):
        if name == b"origin":
            try:
                parsed = urlparse(value.decode("ascii"))
                _ = parsed.port  # raises if the port is no number
            except ValueError:
                return None
    return parsed
