"""Devices that have no credential yet and ask for one: a session of MQTT that can do nothing else, or one request."""

import asyncio
import uuid
from typing import Any, ClassVar, Final

from devices.consumers.refusals import http_response, note_provisioning
from devices.handlers.base import in_database
from devices.profiles.provisioning import (
    ANSWER_TOPIC,
    REQUEST_TOPIC,
    USER_NAME,
    decode_request,
    encode_failure,
    encode_not_found,
    encode_success,
)
from devices.provisioning import ProvisioningError, provision
from devices.refusals import MessageRefusal, ProvisioningRefusal, RefusedError
from devices.services import services_of
from gateway.generic.http import AsyncHttpConsumer
from gateway.generic.mqtt import AsyncMqttConsumer, Reject
from protocols.asgi import Event, Scope
from protocols.mqtt import ReasonCode

SESSION_S: Final = 60.0
"""How long a session may take, as at ThingsBoard."""
MAX_REQUEST_BYTES: Final = 16_384


def asks_to_be_provisioned(scope: Scope) -> bool:
    """Whether a client of MQTT wants to be provisioned, by its user name or its client identifier."""
    return USER_NAME in (scope["username"], scope["client_id"])


async def answer(payload: bytes, scope: Scope) -> bytes:
    """The answer to a request. Raises RefusedError for what is none, and while the database is away.

    A request that fails counts as a failed login of its address: after many, the answer comes late.
    """
    services = services_of(scope)
    if len(payload) > MAX_REQUEST_BYTES:
        raise RefusedError(MessageRefusal.TOO_LARGE, f"more than {MAX_REQUEST_BYTES} bytes")
    request = decode_request(payload)
    try:
        return encode_success(await in_database(services.database, provision, request))
    except ProvisioningError as error:
        note_provisioning(scope, error, request.device_name)
        if not services.limits.failed_logins.note(scope["client"]):
            await asyncio.sleep(services.limits.failed_logins.pause_s)
        return encode_not_found() if error.refusal is ProvisioningRefusal.UNKNOWN else encode_failure()


class ProvisioningMqttConsumer(AsyncMqttConsumer):
    """A session of a device that asks for a credential. It ends after SESSION_S (0xA0)."""

    _end: asyncio.TimerHandle | None = None
    _answer_qos = 0

    async def connect(self, password: bytes | None) -> None:
        """Accepts whoever asks, under a name of its own: all have the same client identifier."""
        self._end = asyncio.get_running_loop().call_later(SESSION_S, self.post, {"type": "provisioning.ended"})
        await self.accept(client_id=f"provision/{uuid.uuid4().hex}")

    def routes(self, topic: str) -> bool:
        """What it publishes is for the gateway alone."""
        return False

    async def receive_publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: dict[str, Any]
    ) -> None:
        """Answers a request; refuses all else (0x87)."""
        if topic != REQUEST_TOPIC:
            raise RefusedError(MessageRefusal.NOT_LOGGED_IN, "a session for provisioning")
        await self.publish(ANSWER_TOPIC, await answer(payload, self.scope), qos=self._answer_qos)

    async def subscribe(self, topic_filter: str, qos: int, *, share_name: str | None) -> int | None:
        """Grants the topic of the answer, and nothing else."""
        if topic_filter != ANSWER_TOPIC or share_name is not None:
            raise Reject(ReasonCode.TOPIC_FILTER_INVALID, "a session for provisioning")
        self._answer_qos = min(qos, 1)
        return self._answer_qos

    async def provisioning_ended(self, event: Event) -> None:
        """Closes: its time is over."""
        await self.close(ReasonCode.MAXIMUM_CONNECT_TIME, "provisioning takes a minute at most")

    async def disconnect(self, reason_code: int, reason: str) -> None:
        """The connection has ended."""
        if self._end is not None:
            self._end.cancel()


class ProvisioningHttpConsumer(AsyncHttpConsumer):
    """POST /api/v1/provision. 200 with the status in the body, as at ThingsBoard; 400, 413 and 503 for the rest."""

    channel_layer_alias: ClassVar[str | None] = None
    max_body_bytes: ClassVar[int | None] = MAX_REQUEST_BYTES

    async def before_body(self) -> None:
        """Refuses other methods."""
        if self.scope["method"] != "POST":
            await self._respond(405, b"", (b"allow", b"POST"))

    async def handle(self, body: bytes) -> None:
        """Answers a request."""
        try:
            await self._respond(200, await answer(body, self.scope))
        except RefusedError as error:
            status, headers, refusal = http_response(error)
            await self.send_response(status, refusal, headers=headers)

    async def _respond(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        length = (b"content-length", str(len(body)).encode())
        await self.send_response(status, body, headers=[length, (b"content-type", b"application/json"), *headers])
