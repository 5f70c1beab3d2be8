"""Devices that speak HTTP, by ThingsBoard's device API v1: POST /api/v1/TOKEN/telemetry."""

from typing import ClassVar

import msgspec

from devices.consumers.login import bearer_token, log_in
from devices.consumers.refusals import http_response, note_payload
from devices.credentials import Identity
from devices.profiles import MAX_PAYLOAD_BYTES
from devices.refusals import LoginError, MessageRefusal, RefusedError
from devices.services import DeviceServices, services_of
from gateway.generic.http import AsyncHttpConsumer

_JSON = (b"content-type", b"application/json")


class DeviceApiConsumer(AsyncHttpConsumer):
    """Base class for requests of devices. Responses are empty, or {"error": why}."""

    channel_layer_alias: ClassVar[str | None] = None
    max_body_bytes: ClassVar[int | None] = MAX_PAYLOAD_BYTES

    async def respond(self, status: int, error: str = "", *headers: tuple[bytes, bytes]) -> None:
        """Sends the response: empty, unless there is an error to tell."""
        body = msgspec.json.encode({"error": error}) + b"\n" if error else b""
        length = (b"content-length", str(len(body)).encode())
        content_type = (_JSON,) if error else ()
        await self.send_response(status, body, headers=[length, *content_type, *headers])


class TelemetryConsumer(DeviceApiConsumer):
    """Stores readings. 200 when they are committed; 400, 401, 405, 413, 503 otherwise, and nothing is stored.

    The device logs in before its body is read, so no body of a stranger is held.
    """

    _services: DeviceServices
    _device: Identity

    async def before_body(self) -> None:
        """Logs the device in by the token in the path or in a header."""
        if self.scope["method"] != "POST":
            await self.respond(405, "telemetry is sent with POST", (b"allow", b"POST"))
            return
        self._services = services_of(self.scope)
        token = self.scope["url_route"]["kwargs"].get("token") or bearer_token(self.scope["headers"])
        try:
            self._device = await log_in(self._services, token, self.scope)
        except LoginError as error:
            status, headers, answer = http_response(error)
            await self.send_response(status, answer, headers=headers)

    async def body_too_large(self) -> None:
        """Answers 413."""
        await self._refuse(RefusedError(MessageRefusal.TOO_LARGE, f"more than {self.max_body_bytes} bytes"), b"")

    async def handle(self, body: bytes) -> None:
        """Stores the readings in the body. Not called for a body that was cut short."""
        try:
            await self._services.ingest.store(self._device, self._device.profile.decode_telemetry(body))
        except RefusedError as error:
            await self._refuse(error, body)
        else:
            await self.respond(200)

    async def _refuse(self, error: RefusedError, body: bytes) -> None:
        note_payload(self.scope, self._device, error, body)
        # What the client still sends of a body that is too large is read for a moment only: no second request follows.
        close = ((b"connection", b"close"),) if error.refusal is MessageRefusal.TOO_LARGE else ()
        await self.respond(error.refusal.status, error.text, *close)


class UnknownPathConsumer(DeviceApiConsumer):
    """Any other path below /api/v1/."""

    async def before_body(self) -> None:
        """Answers 404."""
        await self.respond(404, "no such path in the device API")
