"""The communicator for an HTTP request."""

from collections.abc import Iterable
from typing import TypedDict

from gateway.testing.application import ApplicationCommunicator, split_path
from protocols.asgi import Application


class Response(TypedDict):
    """A whole response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class HttpCommunicator(ApplicationCommunicator):
    """Makes one request."""

    def __init__(
        self,
        application: Application,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Iterable[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """`path` may have a query string; `headers` are pairs of bytes with lower-case names."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method.upper(),
            "scheme": "http",
            **split_path(path),
            "headers": list(headers or ()),
        }
        super().__init__(application, scope)
        assert isinstance(body, bytes), "The body argument must be bytes"
        self.body = body
        self.sent_request = False

    async def send_request(self) -> None:
        """Sends the request, once; `get_response` does so by itself."""
        if not self.sent_request:
            self.sent_request = True
            await self.send_input({"type": "http.request", "body": self.body, "more_body": False})

    async def get_response(self, timeout: float = 1) -> Response:
        """The response when it is complete. `timeout` is for each part of it."""
        await self.send_request()
        start = await self.receive_output(timeout)
        assert start["type"] == "http.response.start", f"Expected 'http.response.start', but was {start['type']!r}"
        body = b""
        more_body = True
        while more_body:
            part, more_body = await self.receive_body(timeout)
            body += part
        return {"status": start["status"], "headers": list(start.get("headers", ())), "body": body}

    async def receive_body(self, timeout: float = 1) -> tuple[bytes, bool]:
        """The next part of the body, and whether there will be more: for responses that are streamed."""
        chunk = await self.receive_output(timeout)
        assert chunk["type"] == "http.response.body", f"Expected 'http.response.body', but was {chunk['type']!r}"
        return bytes(chunk.get("body", b"")), bool(chunk.get("more_body", False))

    async def disconnect(self, timeout: float = 1) -> None:
        """Leaves, and waits until the application has ended."""
        await self.send_input({"type": "http.disconnect"})
        await self.wait(timeout)
