"""Devices behind another broker, whose publishes a bridge brings.

A rule of the bridge says which level of the topic upstream is the name of a device:

    upstream = "site/{device}/telemetry"
    local = "v1/devices/{device}/telemetry"

The device has to be there, by that name, and enabled. Its readings are read by the profile of its type, and upstream
has its acknowledgement when they are committed. The broker upstream has authenticated the device, not this gateway.
It cannot mend a message that is no telemetry, or of an unknown device, or of one that has used up its share: such a
message is dropped, counted and logged, and the messages of other devices go on.
"""

import asyncio
import logging
import re
from typing import Any, Final

from devices.consumers.refusals import note_request
from devices.credentials import Denied, Found
from devices.look_ups import LookUpError
from devices.models import now_ms
from devices.refusals import MessageRefusal, RefusedError
from devices.services import DeviceServices, services_of
from devices.topics import DEVICE_TOPICS
from gateway.generic.mqtt import AsyncMqttConsumer, Reject, topic
from protocols.asgi import Event
from protocols.log_lines import RateLimitedLog

logger = logging.getLogger("gateway.devices")

RETRY_S: Final = 1.0
_TELEMETRY: Final = re.compile("v1/devices/([^/]+)/telemetry")


class BridgeMqttConsumer(AsyncMqttConsumer):
    """A bridge: stores telemetry of devices, and passes other messages to the subscribers of this broker."""

    _services: DeviceServices
    _limited_log: RateLimitedLog

    async def connect(self, password: bytes | None) -> None:
        """Accepts the bridge: the configuration has decided that."""
        self._services = services_of(self.scope)
        self._limited_log = RateLimitedLog(logger)
        await self.accept()

    @topic("v1/devices/<str:device>/telemetry", route=False)
    async def telemetry(self, event: Event, device: str) -> "asyncio.Future[None]":
        """Stores readings. Refuses a message without a device (0x90) or that is no telemetry (0x99), which ends it
        upstream."""
        services = self._services
        identity = await self._device(device)
        if isinstance(identity, Denied):
            raise RefusedError(MessageRefusal.NO_DEVICE, str(identity))
        points = identity.profile.decode_telemetry(event["payload"])
        if not services.ingest.has_room:
            await services.ingest.ready()
        return services.ingest.submit(identity, points, now_ms())

    async def receive_publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: dict[str, Any]
    ) -> None:
        """Passes other topics to the subscribers here, except those of the device API (0x90)."""
        if topic.startswith(DEVICE_TOPICS):
            why = "a topic of the device API; telemetry is v1/devices/{device}/telemetry"
            raise RefusedError(MessageRefusal.TOPIC, why)

    def drops(self, refusal: Reject) -> bool:
        """Whether a refusal would be the same when the message comes again; failures of the gateway are not."""
        return isinstance(refusal, RefusedError)

    def note_refusal(
        self,
        request: str,
        about: object,
        refusal: Reject,
        count: int = 1,
        *,
        answered: bool = True,
        payload: bytes = b"",
    ) -> None:
        """Counts the refusal among those of payloads, too, and has it recorded with the device that was named."""
        super().note_refusal(request, about, refusal, count, answered=answered, payload=payload)
        named = _TELEMETRY.match(str(about))
        name = named[1] if named else ""
        found = self._services.directory.remembered(name) if name else None
        note_request(
            self.scope,
            request,
            about,
            refusal,
            count,
            device_id=None if found is None else found.device_id,
            claimed=name,
            payload=payload,
            wire="mqtt-bridge",
        )

    async def _device(self, name: str) -> Found:
        """The device of this name. Waits while the database is away, and upstream with it, as for a commit: a message
        that is refused twice is lost."""
        while True:
            try:
                return await self._services.directory.named(name)
            except LookUpError as error:
                self._limited_log.warning("cannot look up who has sent by a bridge; waiting until it works: %s", error)
                await asyncio.sleep(RETRY_S)
