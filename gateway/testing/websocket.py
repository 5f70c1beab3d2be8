"""The communicator for a WebSocket connection."""

import json
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from gateway.testing.application import ApplicationCommunicator, split_path
from protocols.asgi import Application


class WebsocketCommunicator(ApplicationCommunicator):
    """Is the client of one WebSocket connection. At the end of `async with` it disconnects."""

    def __init__(
        self,
        application: Application,
        path: str,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
        subprotocols: Iterable[str] | None = None,
        spec_version: str | None = None,
    ) -> None:
        """`path` may have a query string; `headers` are pairs of bytes with lower-case names."""
        if not isinstance(path, str):
            raise TypeError(f"Expected str, got {type(path)}")
        scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "scheme": "ws",
            **split_path(path),
            "headers": list(headers or ()),
            "subprotocols": list(subprotocols or ()),
        }
        if spec_version:
            scope["spec_version"] = spec_version
        super().__init__(application, scope)
        self.response_headers: list[tuple[bytes, bytes]] | None = None
        self._connected = False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connected and error is None and not self.inbox.disconnected:
            await self.disconnect()
        await super().__aexit__(kind, error, traceback)

    async def connect(self, timeout: float = 1) -> tuple[bool, str | int | None]:
        """(True, the chosen subprotocol), or (False, the close code or the status of the denial)."""
        await self.send_input({"type": "websocket.connect"})
        response = await self.receive_output(timeout)
        if response["type"] == "websocket.close":
            return False, response.get("code", 1000)
        if response["type"] == "websocket.http.response.start":
            return False, response["status"]
        assert response["type"] == "websocket.accept", f"Expected 'websocket.accept', but was {response['type']!r}"
        self._connected = True
        self.response_headers = response.get("headers", [])
        return True, response.get("subprotocol")

    async def send_to(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Sends a frame, of text or of bytes."""
        assert (text_data is None) != (bytes_data is None), "You must supply exactly one of text_data or bytes_data"
        if text_data is not None:
            assert isinstance(text_data, str), "The text_data argument must be a str"
            await self.send_input({"type": "websocket.receive", "text": text_data})
        else:
            assert isinstance(bytes_data, bytes), "The bytes_data argument must be bytes"
            await self.send_input({"type": "websocket.receive", "bytes": bytes_data})

    async def send_json_to(self, data: Any) -> None:
        """Sends a text frame of JSON."""
        await self.send_to(text_data=json.dumps(data))

    async def receive_from(self, timeout: float = 1) -> str | bytes:
        """The next frame; AssertionError if the application sends something else."""
        response = await self.receive_output(timeout)
        assert response["type"] == "websocket.send", f"Expected type 'websocket.send', but was '{response['type']}'"
        text, data = response.get("text"), response.get("bytes")
        assert (text is None) != (data is None), "The response needs exactly one of 'text' or 'bytes'"
        if text is not None:
            assert isinstance(text, str), f"Text frame payload is not str, it is {type(text)}"
            return text
        assert isinstance(data, bytes), f"Binary frame payload is not bytes, it is {type(data)}"
        return data

    async def receive_json_from(self, timeout: float = 1) -> Any:
        """The content of the next frame, which is to be text of JSON."""
        payload = await self.receive_from(timeout)
        assert isinstance(payload, str), f"JSON data is not a text frame, it is {type(payload)}"
        return json.loads(payload)

    async def disconnect(self, code: int = 1000, timeout: float = 1) -> None:
        """Closes the connection and waits until the application has ended."""
        await self.send_input({"type": "websocket.disconnect", "code": code})
        await self.wait(timeout)
