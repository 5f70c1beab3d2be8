"""Devices that speak WebSocket, at /ws/device/.

The token comes in `Authorization: Bearer TOKEN`, or, where a client cannot set headers, as a subprotocol: alone
(`Sec-WebSocket-Protocol: TOKEN`) or beside "fieldgate.v1", which is then the one that is selected.

A message is telemetry in any form of the device's profile, or {"id": any, "telemetry": ...}. Each is answered when it
is committed, in the order of the messages: {"ack": id}, id being the one given or the number of the message on this
connection, from 1; or {"error": why, "id": id}, and the connection goes on.
"""

import asyncio
from collections import deque
from typing import Any, Final

import msgspec

from devices.consumers.login import EXPIRED, Revocable, bearer_token, log_in
from devices.consumers.refusals import http_response, note_payload
from devices.credentials import Identity
from devices.models import now_ms
from devices.profiles import MAX_DEPTH, MAX_PAYLOAD_BYTES, NotJsonError, PayloadError, is_too_deep
from devices.profiles.lenient_json import LenientJsonError, read
from devices.refusals import SAMPLE_BYTES, LoginError, MessageRefusal, RefusedError
from devices.services import DeviceServices, services_of
from gateway.generic.websocket import AsyncWebsocketConsumer
from protocols.asgi import Event
from protocols.log_lines import PeerLog

peer_log = PeerLog("gateway.devices")

SUBPROTOCOL: Final = "fieldgate.v1"
CUT_OFF: Final = 4401
MESSAGE_TOO_BIG: Final = 1009
MAX_UNANSWERED: Final = 1_000
MAX_ID_BYTES: Final = 100
_ENVELOPE_DEPTH: Final = MAX_DEPTH + 4
"""{"id": ..., "telemetry": [{"ts": ..., "values": {...}}]}"""


class DeviceWebsocketConsumer(Revocable, AsyncWebsocketConsumer):
    """A device on a WebSocket."""

    _services: DeviceServices
    _device: Identity
    _count = 0
    _awaited: "asyncio.Future[None] | None" = None
    _unanswered: deque[tuple[Any, "asyncio.Future[None] | RefusedError", bytes]]
    """Messages in their order: the id; the commit that is waited for, or why there is none; its first bytes, for the
    case that the commit refuses it."""

    async def connect(self) -> None:
        """Logs the device in; a refusal is an HTTP 401 (or 503) to the handshake."""
        self._services = services_of(self.scope)
        self._unanswered = deque()
        offered = [name for name in self.scope["subprotocols"] if name != SUBPROTOCOL]
        token = bearer_token(self.scope["headers"]) or (offered[0] if len(offered) == 1 else None)
        try:
            self._device = await log_in(self._services, token, self.scope)
            self.register(self._services, self._device, self.scope)
        except LoginError as error:
            await self.deny_with(*http_response(error))
            return
        selected = SUBPROTOCOL if SUBPROTOCOL in self.scope["subprotocols"] else None
        await self.accept(selected or (offered[0] if token in offered else None))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Takes one message."""
        payload = text_data.encode() if text_data is not None else bytes_data or b""
        self._count += 1
        if len(payload) > MAX_PAYLOAD_BYTES:
            self._note(RefusedError(MessageRefusal.TOO_LARGE, f"more than {MAX_PAYLOAD_BYTES} bytes"), payload)
            await self.close(MESSAGE_TOO_BIG, "message too big")
            return
        await self._make_room()
        answer_id: Any = self._count
        ingest = self._services.ingest
        try:
            answer_id, telemetry = _envelope(payload, self._count)
            try:
                points = self._device.profile.decode_telemetry(telemetry)
            except NotJsonError:
                # Once more where it stands in the message, so that the position told is one there.
                self._device.profile.decode_telemetry(_lenient_envelope(payload, self._count)[1])
                raise
            await ingest.ready()
            committed = ingest.submit(self._device, points, now_ms())
        except RefusedError as error:
            self._note(error, payload)
            self._unanswered.append((answer_id, error, b""))
            await self._answer()
            return
        self._unanswered.append((answer_id, committed, payload[:SAMPLE_BYTES]))
        if committed is not self._awaited:  # one callback for all that share the future
            self._awaited = committed
            committed.add_done_callback(self._committed)

    async def device_committed(self, event: Event) -> None:
        """A commit has finished: answers its messages."""
        await self._answer()

    async def device_cut(self, event: Event) -> None:
        """Closes: the device's access was revoked or changed."""
        await self._cut(event["reason"])

    async def device_expired(self, event: Event) -> None:
        """Closes: the device may be connected for as long as its credential is valid."""
        await self._cut(EXPIRED)

    async def _cut(self, reason: str) -> None:
        peer_log.info(f"device/{self._device.device_id}", "closing the WebSocket of %s: %s", self._device.name, reason)
        await self.close(CUT_OFF, reason)

    async def disconnect(self, code: int) -> None:
        """The connection has ended."""
        self.unregister()

    def _committed(self, committed: "asyncio.Future[None]") -> None:
        self.post({"type": "device.committed"})

    async def _make_room(self) -> None:
        """Waits while MAX_UNANSWERED messages are unanswered."""
        while len(self._unanswered) >= MAX_UNANSWERED:
            oldest = self._unanswered[0][1]
            assert isinstance(oldest, asyncio.Future), "an error is answered at once when nothing is before it"
            await asyncio.wait([oldest])
            await self._answer()

    def _note(self, error: RefusedError, payload: bytes) -> None:
        note_payload(self.scope, self._device, error, payload)

    async def _answer(self) -> None:
        """Answers messages up to the first whose commit has not finished."""
        while self._unanswered:
            answer_id, outcome, sample = self._unanswered[0]
            if isinstance(outcome, RefusedError):
                error: RefusedError | None = outcome
            elif outcome.done():
                error = _refusal_of(outcome)
                if error is not None:
                    self._note(error, sample)
            else:
                return
            self._unanswered.popleft()
            answer = {"ack": answer_id} if error is None else {"error": error.text, "id": answer_id}
            await self.send(text_data=msgspec.json.encode(answer).decode())


def _refusal_of(committed: "asyncio.Future[None]") -> RefusedError | None:
    """Why a finished commit has not stored its readings; None if it has. Raises an exception that is no refusal."""
    error = committed.exception()
    if error is None or isinstance(error, RefusedError):
        return error
    raise error


class _Envelope(msgspec.Struct):
    """{"id": any, "telemetry": ...}; both are left as they are, to be sent back and for the profile to read."""

    id: msgspec.Raw
    telemetry: msgspec.Raw


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def _envelope(payload: bytes, count: int) -> tuple[Any, bytes]:
    """The id to answer with, which is `count` if none is given, and the telemetry in a message. Raises PayloadError."""
    try:
        envelope = _decode_envelope(payload)
    except (msgspec.ValidationError, RecursionError):
        return count, payload
    except msgspec.DecodeError:
        return _lenient_envelope(payload, count)
    return _answer_id(bytes(envelope.id)), bytes(envelope.telemetry)


def _lenient_envelope(payload: bytes, count: int) -> tuple[Any, bytes]:
    """The same for lenient JSON. Blanks keep the telemetry in its place, for the positions in errors."""
    try:
        reading = read(payload, max_depth=_ENVELOPE_DEPTH, locate="telemetry")
    except LenientJsonError:
        return count, payload
    content = reading.content
    if reading.span is None or type(content) is not dict or "id" not in content:
        return count, payload
    start, end = reading.span
    return _answer_id(msgspec.json.encode(content["id"])), b" " * start + payload[start:end]


def _answer_id(given: bytes) -> msgspec.Raw:
    if len(given) > MAX_ID_BYTES:
        raise PayloadError(f"an id has at most {MAX_ID_BYTES} bytes")
    if given[:1] in (b"[", b"{") and is_too_deep(msgspec.json.decode(given)):
        raise PayloadError(f"an id has at most {MAX_DEPTH} levels")
    return msgspec.Raw(given)
