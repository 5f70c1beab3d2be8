"""Devices that speak HTTP, with the requests of their profile below /api/v1/TOKEN/."""

import asyncio
from functools import cache
from typing import ClassVar, Final

import msgspec

from devices.consumers.login import bearer_token, log_in
from devices.consumers.not_served import not_served
from devices.consumers.refusals import http_response, note_payload
from devices.credentials import Identity
from devices.downlink import TOLD, Due, encode_response
from devices.handlers import HANDLERS, Handler, Message
from devices.profiles import MAX_PAYLOAD_BYTES, Match, Meaning, installed_profiles
from devices.refusals import LoginError, LoginRefusal, MessageRefusal, RefusedError
from devices.services import DeviceServices, services_of
from gateway.generic.http import AsyncHttpConsumer

_JSON = (b"content-type", b"application/json")
_METHODS: Final = ("GET", "POST")

MAX_POLL_S: Final = 60.0
"""How long a request waits at most for what the device is to be told."""


class DeviceHttpConsumer(AsyncHttpConsumer):
    """A request of a device. Responses are empty, what it has asked for, or {"error": why}.

    200 when what it says is done, as readings are committed; else the status of its refusal (devices.refusals), 404 and
    405 for requests that its profile has not, and nothing is done. The device logs in before its body is read, so no
    body of a stranger is held.
    """

    channel_layer_alias: ClassVar[str | None] = None
    max_body_bytes: ClassVar[int | None] = MAX_PAYLOAD_BYTES

    _services: DeviceServices
    _device: Identity
    _handler: Handler | None
    """What answers the request; None for one that waits for what the device is to be told."""
    _match: Match

    async def before_body(self) -> None:
        """Logs the device in by the token in the path or in a header, and looks for the handler of its request."""
        token, path = self._addressed()
        if not path:
            await self.respond_error(404, "not in the device API")
            return
        self._services = services_of(self.scope)
        try:
            self._device = await log_in(self._services, token, self.scope)
        except LoginError as error:
            status, headers, answer = http_response(error)
            await self.send_response(status, answer, headers=headers)
            return
        requests = self._device.profile.requests
        match = requests.find(f"{self.scope['method']} {path}")
        if match is None:
            allowed = [method for method in _METHODS if requests.find(f"{method} {path}") is not None]
            if allowed:
                allow = (b"allow", ", ".join(allowed).encode())
                await self.respond_error(405, f"is asked with {' or '.join(allowed)}", allow)
                return
        handler = _handler_of(match)
        if match is None or (handler is None and match.meaning not in TOLD):
            await self._refuse(not_served(match), b"")
            return
        self._handler, self._match = handler, match

    async def _tell(self, meaning: Meaning) -> None:
        """Responds with what waits for the device, as soon as there is something: a command, which is delivered when
        the response is written, or changed attributes. 408 if nothing comes in time."""
        profile, downlink = self._device.profile, self._services.downlink
        timeout_s = min(profile.decode_poll(self.scope["query_string"]), MAX_POLL_S)
        given: asyncio.Queue[tuple[int, Due]] = asyncio.Queue()
        receiver = downlink.open(self._device.device_id, lambda *due: given.put_nowait(due), most=1)
        try:
            downlink.take(receiver, meaning)
            async with asyncio.timeout(timeout_s):
                delivery_id, due = await given.get()
            if not self._services.directory.is_current(self._device):
                raise RefusedError(LoginRefusal.CUT, LoginRefusal.CUT.reason)
            await self.respond(200, encode_response(profile, due))
            if not self.client_has_left:
                receiver.delivered(delivery_id)
        except TimeoutError:
            await self.respond_error(408, f"nothing came within {timeout_s:g} s")
        finally:
            downlink.end(receiver)

    async def body_too_large(self) -> None:
        """Answers 413."""
        await self._refuse(RefusedError(MessageRefusal.TOO_LARGE, f"more than {self.max_body_bytes} bytes"), b"")

    async def handle(self, body: bytes) -> None:
        """Does what the request means. Not called for a body that was cut short."""
        try:
            if self._handler is None:
                await self._tell(self._match.meaning)
                return
            answer = await self._handler(Message(self._services, self._device, body, self._match, self.scope))
        except RefusedError as error:
            await self._refuse(error, body)
        else:
            await self.respond(200, answer or b"")

    async def respond(self, status: int, body: bytes = b"", *headers: tuple[bytes, bytes]) -> None:
        """Sends the response; `body` is JSON, or empty."""
        length = (b"content-length", str(len(body)).encode())
        content_type = (_JSON,) if body else ()
        await self.send_response(status, body, headers=[length, *content_type, *headers])

    async def respond_error(self, status: int, error: str, *headers: tuple[bytes, bytes]) -> None:
        """Sends {"error": why}."""
        await self.respond(status, msgspec.json.encode({"error": error}) + b"\n", *headers)

    def _addressed(self) -> tuple[str | None, str]:
        """The token, and the path behind it; that is empty if it is none of any device. A path that begins as one of a
        profile has its token in a header."""
        whole: str = self.scope["url_route"]["kwargs"]["path"]
        first, _, rest = whole.partition("/")
        if first in _first_levels():
            return bearer_token(self.scope["headers"]), whole
        return first, rest

    async def _refuse(self, error: RefusedError, body: bytes) -> None:
        note_payload(self.scope, self._device, error, body)
        # What the client still sends of a body that is too large is read for a moment only: no second request follows.
        close = [(b"connection", b"close")] if error.refusal is MessageRefusal.TOO_LARGE else []
        status, headers, answer = http_response(error)
        await self.send_response(status, answer, headers=[*headers, *close])


async def _store(message: Message) -> None:
    """Stores readings."""
    points = message.device.profile.decode_telemetry(message.payload)
    await message.services.ingest.store(message.device, points)


def _handler_of(match: Match | None) -> Handler | None:
    if match is None:
        return None
    return _store if match.meaning is Meaning.TELEMETRY else HANDLERS.get(match.meaning)


@cache
def _first_levels() -> frozenset[str]:
    """How the paths of all installed profiles begin."""
    requests = [
        topic.pattern.partition(" ")[2] for each in installed_profiles().values() for topic in each.requests.topics
    ]
    return frozenset(path.partition("/")[0] for path in requests)
