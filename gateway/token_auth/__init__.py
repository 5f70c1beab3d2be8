"""Token authentication, the same for WebSocket, HTTP and MQTT, on any ASGI server.

    async def get_token_user(token: str) -> TokenUser | None:
        row = await ApiToken.objects.select_related("user").filter(sha256=digest(token)).afirst()
        return TokenUser(row.user, expires_at=row.expires_at) if row else None

    application = TokenAuthMiddleware(ProtocolTypeRouter({...}), get_token_user)

Where a client may put its token (`sources`):

| source | protocol | |
|---|---|---|
| "header" | HTTP, WebSocket | `Authorization: Bearer TOKEN` |
| "subprotocol" | WebSocket | `new WebSocket(url, ["bearer", TOKEN])`: what a browser can do |
| "first_message" | WebSocket | the first text frame, `{"token": TOKEN}`; the connection is accepted to hear it |
| "mqtt" | MQTT | the password, or without one the username |

and, by `query_parameter`, the query string, which is the way into logs of proxies and browsers.

The user is `scope["user"]`, and `scope["auth"]` an `Authentication`. When the token expires the connection ends: a
WebSocket closes with 4401, MQTT disconnects with 0x87, an HTTP response of unknown length (an event stream, a long
poll) is complete. The consumer hears of that by its disconnect event, as of any other end.
"""

from gateway.token_auth.middleware import Authentication, TokenAuthMiddleware, TokenUser
from gateway.token_auth.sources import HideQueryParameter

__all__ = ["Authentication", "HideQueryParameter", "TokenAuthMiddleware", "TokenUser"]
