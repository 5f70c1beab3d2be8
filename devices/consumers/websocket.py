"""Devices that speak WebSocket, at /ws/device/.

The token comes in `Authorization: Bearer TOKEN`, or, where a client cannot set headers, as a subprotocol: alone
(`Sec-WebSocket-Protocol: TOKEN`) or beside "fieldgate.v1", which is then the one that is selected.

A message is telemetry in any form of the device's profile, or an envelope (devices.consumers.envelope). Each is
answered when what it says is done, in the order of the messages: {"ack": id}, with "answer" where there is one, id
being the one given or the number of the message on this connection, from 1; or {"error": why, "id": id}, and the
connection goes on.

A device that subscribes is told {"command": ...}, {"attributes": ...} and {"deletedAttributes": [key]}. A command is
delivered when the device says so, or answers it; attributes are known when they are written.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from devices.consumers.envelope import DELIVERED, SUBSCRIBE, TELEMETRY, Envelope, open_envelope, open_leniently
from devices.consumers.login import EXPIRED, Revocable, bearer_token, log_in
from devices.consumers.refusals import http_response, note_payload
from devices.consumers.told import Told
from devices.credentials import Identity
from devices.downlink import CommandDue, encode_response
from devices.handlers import HANDLERS, Message
from devices.models import now_ms
from devices.profiles import MAX_PAYLOAD_BYTES, Meaning, NotJsonError, PayloadError
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

SUBSCRIPTIONS: Final[Mapping[str, Meaning]] = {
    "commands": Meaning.COMMAND,
    "attributes": Meaning.SHARED_ATTRIBUTES,
}

Outcome: TypeAlias = "asyncio.Future[None] | RefusedError | bytes | None"
"""The commit that is waited for; why nothing is done; or what is done has this answer, or none."""


class DeviceWebsocketConsumer(Revocable, Told, AsyncWebsocketConsumer):
    """A device on a WebSocket."""

    _services: DeviceServices
    _device: Identity
    _count = 0
    _awaited: "asyncio.Future[None] | None" = None
    _unanswered: deque[tuple[Any, Outcome, bytes]]
    """Messages in their order: the id; what became of it; its first bytes, for the case that the commit refuses it."""
    _undelivered: dict[str, int]
    """The delivery of each command that the device has been sent, by the number of the command."""

    async def connect(self) -> None:
        """Logs the device in; a refusal is an HTTP 401 (or 503) to the handshake."""
        self._services = services_of(self.scope)
        self._unanswered = deque()
        self._undelivered = {}
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
        try:
            envelope = open_envelope(payload, self._count)
            answer_id = envelope.id
            try:
                outcome = await self._do(envelope)
            except NotJsonError:
                # Once more where it stands in the message, so that the position told is one there.
                self._device.profile.decode_telemetry(open_leniently(payload, self._count).content)
                raise
        except RefusedError as error:
            self._note(error, payload)
            outcome = error
        if not isinstance(outcome, asyncio.Future):
            self._unanswered.append((answer_id, outcome, b""))
            await self._answer()
            return
        self._unanswered.append((answer_id, outcome, payload[:SAMPLE_BYTES]))
        if outcome is not self._awaited:  # one callback for all that share the future
            self._awaited = outcome
            outcome.add_done_callback(self._committed)

    async def _do(self, envelope: Envelope) -> Outcome:
        """Does what a message says, before the next one is read: a device may rely on their order."""
        device, word = self._device, envelope.word
        if word == TELEMETRY:
            points = device.profile.decode_telemetry(envelope.content)
            await self._services.ingest.ready()
            return self._services.ingest.submit(device, points, now_ms())
        if word == SUBSCRIBE:
            self._subscribe(envelope.content)
            return None
        if word == DELIVERED:
            number = envelope.content.strip().decode(errors="replace")
            if not self._delivered(number):
                raise RefusedError(MessageRefusal.NO_COMMAND, f"no command {number[:50]!r} waits for this")
            return None
        match = envelope.match
        message = Message(self._services, device, envelope.content, match, self.scope)
        answer = await HANDLERS[match.meaning](message)
        if match.meaning is Meaning.COMMAND_ANSWER:
            self._delivered(envelope.to)
        return answer

    def _subscribe(self, content: bytes) -> None:
        for meaning in _subscriptions(content):
            self.hear(self._services, self._device, meaning)

    def _delivered(self, number: str) -> bool:
        """Whether the device had not yet said of this command that it has it."""
        delivery_id = self._undelivered.pop(number, None)
        if delivery_id is None or self.receiver is None:
            return False
        self.receiver.delivered(delivery_id)
        return True

    async def device_due(self, event: Event) -> None:
        """Sends a command, or changed attributes."""
        due, delivery_id = event["due"], event["delivery_id"]
        assert self.receiver is not None
        if isinstance(due, CommandDue):
            self._undelivered[str(due.command_id)] = delivery_id
            told: dict[str, Any] = {"command": msgspec.Raw(encode_response(self._device.profile, due))}
        elif due.values:
            told = {"attributes": msgspec.Raw(encode_response(self._device.profile, due))}
        else:
            told = {"deletedAttributes": list(due.versions)}
        await self._send(told)
        if not isinstance(due, CommandDue):
            self.receiver.sent(delivery_id)

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
        self.hear_no_more(self._services)

    def _committed(self, committed: "asyncio.Future[None]") -> None:
        self.post({"type": "device.committed"})

    async def _make_room(self) -> None:
        """Waits while MAX_UNANSWERED messages are unanswered."""
        while len(self._unanswered) >= MAX_UNANSWERED:
            oldest = self._unanswered[0][1]
            assert isinstance(oldest, asyncio.Future), "what is no commit is answered at once when nothing is before it"
            await asyncio.wait([oldest])
            await self._answer()

    def _note(self, error: RefusedError, payload: bytes) -> None:
        note_payload(self.scope, self._device, error, payload)

    async def _answer(self) -> None:
        """Answers messages up to the first whose commit has not finished."""
        while self._unanswered:
            answer_id, outcome, sample = self._unanswered[0]
            if isinstance(outcome, asyncio.Future):
                if not outcome.done():
                    return
                outcome = _refusal_of(outcome)
                if outcome is not None:
                    self._note(outcome, sample)
            self._unanswered.popleft()
            if outcome is None:
                await self._send({"ack": answer_id})
            elif isinstance(outcome, bytes):
                await self._send({"ack": answer_id, "answer": msgspec.Raw(outcome)})
            else:
                await self._send({"error": outcome.text, "id": answer_id})

    async def _send(self, content: dict[str, Any]) -> None:
        await self.send(text_data=msgspec.json.encode(content).decode())


def _subscriptions(content: bytes) -> list[Meaning]:
    """What a device wants to be told. Raises PayloadError."""
    try:
        return [SUBSCRIPTIONS[name] for name in msgspec.json.decode(content, type=list[str])]
    except (KeyError, msgspec.DecodeError):
        raise PayloadError(f"subscribe to a list of {', '.join(SUBSCRIPTIONS)}") from None


def _refusal_of(committed: "asyncio.Future[None]") -> RefusedError | None:
    """Why a finished commit has not stored its readings; None if it has. Raises an exception that is no refusal."""
    error = committed.exception()
    if error is None or isinstance(error, RefusedError):
        return error
    raise error
