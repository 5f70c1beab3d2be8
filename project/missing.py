"""The answer to a WebSocket at an unknown address; pages there have Django's 404."""

from protocols.asgi import Receive, Scope, Send

WHY = "there is no WebSocket at this path"


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers the handshake with 404, or with the server's own refusal (403) if it cannot send a response."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "reason": WHY})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"10")]
    start = {"type": "websocket.http.response.start", "status": 404, "headers": headers, "log_reason": WHY}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": b"not found\n"})
