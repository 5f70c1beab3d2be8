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
from typing import Any, Final

from devices.consumers.not_served import not_served
from devices.consumers.refusals import note_request
from devices.credentials import Denied, Found, Identity
from devices.handlers import HANDLERS, Message
from devices.look_ups import LookUpError
from devices.models import now_ms
from devices.profiles import Meaning, bridged_topics, reserved_topics
from devices.refusals import MessageRefusal, RefusedError
from devices.services import DeviceServices, services_of
from gateway.generic.mqtt import AsyncMqttConsumer, Reject
from protocols.log_lines import RateLimitedLog

logger = logging.getLogger("gateway.devices")

RETRY_S: Final = 1.0


class BridgeMqttConsumer(AsyncMqttConsumer):
    """A bridge: stores telemetry of devices, and passes other messages to the subscribers of this broker."""

    _services: DeviceServices
    _limited_log: RateLimitedLog

    async def connect(self, password: bytes | None) -> None:
        """Accepts the bridge: the configuration has decided that."""
        self._services = services_of(self.scope)
        self._limited_log = RateLimitedLog(logger)
        await self.accept()

    async def _take_telemetry(self, device: Identity, payload: bytes) -> "asyncio.Future[None]":
        """Stores readings. Refuses what is no telemetry (0x99), which ends it upstream."""
        points = device.profile.decode_telemetry(payload)
        ingest = self._services.ingest
        if not ingest.has_room:
            await ingest.ready()
        return ingest.submit(device, points, now_ms())

    async def receive_publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: dict[str, Any]
    ) -> "asyncio.Future[None] | None":
        """Gives what a device says to the handler of its meaning (0x90 if there is no such device), and other topics,
        except those of the device API (0x90), to the subscribers here."""
        match = bridged_topics().find(topic)
        if match is not None:
            handler = HANDLERS.get(match.meaning)
            if handler is None and match.meaning is not Meaning.TELEMETRY:
                raise not_served(match)
            device = await self._device(match.levels["device"])
            if isinstance(device, Denied):
                raise RefusedError(MessageRefusal.NO_DEVICE, str(device))
            if handler is None:
                return await self._take_telemetry(device, payload)
            await handler(Message(self._services, device, payload, match, self.scope))
            return None
        if topic.startswith(reserved_topics()):
            known = ", ".join(each.pattern for each in bridged_topics().topics)
            raise RefusedError(MessageRefusal.TOPIC, f"a topic of the device API; a bridge brings {known}")
        return None

    def routes(self, topic: str) -> bool:
        """What a device says is for the gateway alone."""
        return bridged_topics().find(topic) is None

    def drops(self, refusal: Reject) -> bool:
        """Whether a refusal would be the same when the message comes again; failures of the gateway are not."""
        return isinstance(refusal, RefusedError)

    def note_refusal(
        self,
        request: str,
        about: str,
        refusal: Reject,
        count: int = 1,
        *,
        answered: bool = True,
        payload: bytes = b"",
    ) -> None:
        """Counts the refusal among those of payloads, too, and has it recorded with the device that was named."""
        super().note_refusal(request, about, refusal, count, answered=answered, payload=payload)
        named = bridged_topics().find(about)
        name = named.levels["device"] if named else ""
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
