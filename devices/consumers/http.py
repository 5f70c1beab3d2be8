"""Devices that speak HTTP, by ThingsBoard's device API v1: POST /api/v1/TOKEN/telemetry."""

from typing import ClassVar

import msgspec

from devices.consumers.login import bearer_token, log_in
from devices.consumers.refusals import LoginError, http_response, note_payload
from devices.profiles import MAX_PAYLOAD_BYTES, PayloadError
from devices.services import services_of
from gateway.exceptions import Reject
from gateway.generic.http import AsyncHttpConsumer

_JSON = (b"content-type", b"application/json")


class DeviceApiConsumer(AsyncHttpConsumer):
    """Base of the requests of devices. Answers are empty, or {"error": why}."""

    max_body_bytes: ClassVar[int | None] = MAX_PAYLOAD_BYTES

    async def respond(self, status: int, error: str = "", *headers: tuple[bytes, bytes]) -> None:
        """Sends the response: empty, unless there is an error to tell."""
        body = msgspec.json.encode({"error": error}) + b"\n" if error else b""
        length = (b"content-length", str(len(body)).encode())
        content_type = (_JSON,) if error else ()
        await self.send_response(status, body, headers=[length, *content_type, *headers])


class TelemetryConsumer(DeviceApiConsumer):
    """Stores readings. 200 when they are committed; 400, 401, 405, 413, 503 otherwise, and nothing is stored."""

    async def handle(self, body: bytes) -> None:
        """Called with the whole body; one that was cut short never gets here."""
        if self.scope["method"] != "POST":
            await self.respond(405, "telemetry is sent with POST", (b"allow", b"POST"))
            return
        services = services_of(self.scope)
        token = self.scope["url_route"]["kwargs"].get("token") or bearer_token(self.scope["headers"])
        try:
            device = await log_in(services, token, self.scope)
        except LoginError as error:
            status, headers, answer = http_response(error)
            await self.send_response(status, answer, headers=headers)
            return
        try:
            points = device.profile.decode_telemetry(body)
            await services.ingest.store(device, points)
        except PayloadError as error:
            note_payload(self.scope, device, error)
            await self.respond(400, str(error))
        except Reject as error:
            await self.respond(500, str(error.reason_string))
        else:
            await self.respond(200)


class UnknownPathConsumer(DeviceApiConsumer):
    """Any other path below /api/v1/."""

    async def handle(self, body: bytes) -> None:
        """Answers 404."""
        await self.respond(404, "no such path in the device API")
