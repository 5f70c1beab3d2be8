"""The sending side of connections that gateway.token_auth watches: how each protocol refuses and ends one."""

from typing import Final

from gateway.metrics import token_expiries
from gateway.token_auth.sources import HEADER, Found
from protocols.asgi import Event, Receive, Scope, Send
from protocols.log_lines import PeerLog, describe
from protocols.runner import ClientDisconnectedError

peer_log = PeerLog("gateway.auth")

CLOSE_UNAUTHORIZED: Final = 4401
"""The close code for a token that is missing, wrong or expired: 401 in the applications' range (RFC 6455 §7.4.2)."""


def note_expiry(scope: Scope) -> None:
    token_expiries.labels(scope["type"]).inc()
    peer_log.info(scope.get("client"), "closed %s: its token has expired", describe(scope))


async def refuse_http(send: Send, prefix: str, *, bad_token: bool, log_reason: str) -> None:
    """Answers 401 (RFC 6750 §3), to a request or, as "websocket.http.response", to a handshake."""
    challenge = b'Bearer error="invalid_token"' if bad_token else b"Bearer"
    headers = [(b"www-authenticate", challenge), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    await send({"type": f"{prefix}.start", "status": 401, "headers": headers, "log_reason": log_reason})
    await send({"type": f"{prefix}.body", "body": b""})


class HttpResponse:
    """The sending side of a request; `expire` ends a response of unknown length."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._expired = False
        self._begun = False
        self._open_ended = False
        self._ended = False

    async def send(self, event: Event) -> None:
        if self._ended:
            raise ClientDisconnectedError
        if event["type"] == "http.response.start":
            self._open_ended = not any(name.lower() == b"content-length" for name, _ in event.get("headers", ()))
        elif event["type"] == "http.response.body":
            if not event.get("more_body", False):
                self._open_ended = False
            elif self._open_ended and self._expired:  # it had expired before the response began
                event = {**event, "more_body": False}
                self._ended = True
                note_expiry(self._scope)
            self._begun = True
        await self._send(event)

    async def expire(self) -> None:
        self._expired = True
        if self._open_ended and self._begun:
            self._ended = True
            note_expiry(self._scope)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class WebSocket:
    """The sending side of a WebSocket, which knows whether it was accepted and closed; `expire` closes it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._closed = False
        self._expired = False
        self.accepted = False
        """Whether it was accepted to hear its first message."""
        self.subprotocol: str | None = None
        """What to choose if the application chooses nothing: a browser insists on one of those that it offered."""

    async def send(self, event: Event) -> None:
        if self._expired:
            raise ClientDisconnectedError
        kind = event["type"]
        if kind == "websocket.accept":
            if self.accepted:
                return
            if self.subprotocol and not event.get("subprotocol"):
                event = {**event, "subprotocol": self.subprotocol}
        elif kind == "websocket.close":
            self._closed = True
        await self._send(event)

    async def expire(self) -> None:
        if not self._closed:
            self._expired = True
            note_expiry(self._scope)
            await self._send({"type": "websocket.close", "code": CLOSE_UNAUTHORIZED, "reason": "the token has expired"})

    async def refuse(self, receive: Receive, found: Found | None, log_reason: str) -> None:
        """Answers 401, or closes with 4401 where a browser may be listening, whose scripts do not see the status."""
        if not self.accepted:
            await receive()
        by_browser = found is not None and found.source != HEADER
        if by_browser and not self.accepted:
            await self._send({"type": "websocket.accept", "subprotocol": self.subprotocol})
        elif not self.accepted and "websocket.http.response" in (self._scope.get("extensions") or {}):
            await refuse_http(self._send, "websocket.http.response", bad_token=found is not None, log_reason=log_reason)
            return
        reason = "a valid token is needed"
        await self._send(
            {"type": "websocket.close", "code": CLOSE_UNAUTHORIZED, "reason": reason, "log_reason": log_reason}
        )
