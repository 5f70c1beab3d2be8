"""Devices behind a broker upstream: a bridge brings what they publish there.

A rule of the bridge says which level of the topic upstream is the name of a device:

    upstream = "site/{device}/telemetry"
    local = "v1/devices/{device}/telemetry"

The device has to be there, by that name, and enabled. Its readings are read by the profile of its type, and upstream
has its acknowledgement when they are committed. The broker upstream has authenticated the device, not we.
"""

import asyncio
from typing import Any, Final

from devices import metrics
from devices.consumers.mqtt import DEVICE_TOPICS, PAYLOAD_FORMAT_INVALID, SERVER_UNAVAILABLE, TOPIC_NAME_INVALID
from devices.consumers.refusals import UNAVAILABLE
from devices.credentials import Denied
from devices.look_ups import LookUpError
from devices.models import now_ms
from devices.profiles import PayloadError
from devices.services import DeviceServices, services_of
from gateway.generic.mqtt import AsyncMqttConsumer, Reject, topic
from protocols.asgi import Event

UNKNOWN_DEVICE: Final = TOPIC_NAME_INVALID


class BridgeMqttConsumer(AsyncMqttConsumer):
    """A bridge: telemetry of devices is stored, other messages go to the subscribers of the broker here."""

    _services: DeviceServices

    async def connect(self, password: bytes | None) -> None:
        """Takes the bridge: who configured it has decided that."""
        self._services = services_of(self.scope)
        await self.accept()

    @topic("v1/devices/<str:device>/telemetry", route=False)
    async def telemetry(self, event: Event, device: str) -> "asyncio.Future[None]":
        """Stores readings. Refuses what has no device (0x90) or is no telemetry (0x99): upstream is rid of it then."""
        services = self._services
        try:
            identity = await services.directory.named(device)
        except LookUpError as error:
            raise Reject(SERVER_UNAVAILABLE, UNAVAILABLE.reason, log_reason=str(error), disconnect=True) from error
        if isinstance(identity, Denied):
            metrics.payloads_refused.labels("mqtt-bridge", "device").inc()
            raise Reject(UNKNOWN_DEVICE, str(identity))  # upstream is told the code alone, the log all
        try:
            points = identity.profile.decode_telemetry(event["payload"])
        except PayloadError as error:
            metrics.payloads_refused.labels("mqtt-bridge", "payload").inc()
            raise Reject(PAYLOAD_FORMAT_INVALID, str(error)) from None
        if not services.ingest.has_room:
            await services.ingest.ready()
        return services.ingest.submit(identity, points, now_ms())

    async def receive_publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: dict[str, Any]
    ) -> None:
        """Any other topic goes to the subscribers here, but for those of the device API (0x90)."""
        if topic.startswith(DEVICE_TOPICS):
            raise Reject(TOPIC_NAME_INVALID, "a topic of the device API; telemetry is v1/devices/{device}/telemetry")
