"""Devices that speak MQTT, on the topics of their profile: the token is the user name."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

from devices.consumers.login import EXPIRED, Revocable, certified_device, has_user_name, log_in
from devices.consumers.not_served import not_served
from devices.consumers.refusals import note_request, refused
from devices.consumers.told import Told
from devices.credentials import Denied, Identity, looks_like_token
from devices.downlink import TOLD, CommandDue, encode_due
from devices.handlers import HANDLERS, Handler, Message, take_telemetry
from devices.ingest import Ingest
from devices.limits import Flapping
from devices.models import now_ms
from devices.presence import owner_of
from devices.profiles import Meaning, Topic, reserved_topics
from devices.refusals import LoginRefusal, MessageRefusal, RefusedError
from devices.services import DeviceServices, services_of
from devices.sub_devices import SubDevices
from gateway.generic.mqtt import AsyncMqttConsumer, Reject
from protocols.asgi import Event
from protocols.mqtt import ReasonCode, is_failure

LOST: Final = frozenset({"lost", "keep_alive", "taken_over", "protocol_error"})
"""The ends of a connection that is to be counted as lost."""


class DeviceMqttConsumer(Revocable, Told, AsyncMqttConsumer):
    """A device, or an anonymous client of the broker where the listener allows that."""

    device: Identity | None = None
    _services: DeviceServices
    _granted: dict[str, int]
    """The topic filters of its profile that the device has subscribed to, with the QoS of each."""
    _sub_devices: SubDevices
    _ingest: Ingest
    _flapping: Flapping

    async def connect(self, password: bytes | None) -> None:
        """Logs the device in by its token or its certificate. 0x86 (5 before MQTT 5) for an unknown one, 0x88 if the
        database is away, 0x97 for one connection too many, 0x9F for a device that flaps (3 before MQTT 5)."""
        services = services_of(self.scope)
        if await self._is_no_device(services, password) and await self._certifies_no_device(services):
            self.unrestricted = True
            await self.accept(client_id=f"anonymous/{self.scope['client_id']}")
            return
        device = await log_in(services, self.scope["username"], self.scope, password=password)
        self._refuse_flapping(services, device)
        self.register(services, device, self.scope)
        self.device = device
        self._services = services
        self._granted = {}
        self._sub_devices = SubDevices(services.connections)
        self._flapping = services.limits.flapping
        self._ingest = services.ingest
        # A client ID is anybody's choice: it shall not make one device, or an anonymous client, take over the session
        # of another. Two devices may well have the same one, that of their SDK.
        client_id = f"{device.device_id}/{self.scope['client_id']}"
        await self.accept(client_id=client_id, name=device.name, owner=owner_of(device.device_id))

    async def _is_no_device(self, services: DeviceServices, password: bytes | None) -> bool:
        """Whether the client is no device, by its user name, and the listener accepts such clients.

        Many clients of ordinary brokers always send a user name, a password or both, which such a broker ignores. What
        looks like a token is taken for one, and refused if it is not valid: a device whose token was revoked shall not
        go on as an anonymous client without noticing. So is a user name with a password that is a device's.
        """
        username = self.scope["username"] or ""
        if not self.allow_anonymous or looks_like_token(username):
            return False
        return not (username and password and await has_user_name(services, username, self.scope))

    async def _certifies_no_device(self, services: DeviceServices) -> bool:
        """Whether the client has no certificate, or one that is no device's. Raises LoginError for one that was revoked
        or whose device is disabled: that shall not go on as an anonymous client either."""
        found = await certified_device(services, self.scope)
        if isinstance(found, Denied) and found.device_id is not None:
            raise refused(LoginRefusal.UNKNOWN_CERTIFICATE, self.scope, str(found), whose=found)
        return not isinstance(found, Identity)

    def routes(self, topic: str) -> bool:
        """What a device publishes is for the gateway alone."""
        return self.device is None

    def allow_will(self, will: dict[str, Any]) -> bool:
        """A device may have none, an anonymous client one to a topic that it may publish to."""
        return super().allow_will(will) and not will["topic"].startswith(reserved_topics())

    async def _take_telemetry(self, device: Identity, payload: bytes) -> "asyncio.Future[None]":
        """Stores readings, which are acknowledged when they are committed. 0x99 for a payload that is no telemetry."""
        points = device.profile.decode_telemetry(payload)
        ingest = self._ingest
        if not ingest.has_room:
            await ingest.ready()
        return ingest.submit(device, points, now_ms())

    async def _handle(self, handler: Handler, message: Message) -> None:
        """Does what a message says, and publishes the answer."""
        answer = await handler(message)
        topic = message.match.answer_topic
        if answer is not None and topic is not None:
            row = message.device.profile.downlink.row_of(topic)
            await self.publish(topic, answer, qos=0 if row is None else self._granted.get(row.topic_filter, 0))

    # It gives a coroutine back: a coroutine of its own around it would cost each publish 0.1 us.
    def receive_publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: dict[str, Any]
    ) -> Coroutine[Any, Any, "asyncio.Future[Any] | None"]:
        """What a device says goes to the handler of what it means by its profile (0x90 if there is none). An anonymous
        client may publish to all topics but those of devices (0x87)."""
        device = self.device
        if device is not None:
            match = device.profile.uplink.find(topic)
            if match is not None:
                if match.meaning is Meaning.TELEMETRY:
                    return self._take_telemetry(device, payload)
                message = Message(self._services, device, payload, match, self.scope, self._sub_devices)
                if match.meaning is Meaning.GATEWAY_TELEMETRY:
                    return take_telemetry(message)
                handler = HANDLERS.get(match.meaning)
                if handler is not None:
                    return self._handle(handler, message)
            raise not_served(match)
        if topic.startswith(reserved_topics()):
            raise RefusedError(MessageRefusal.NOT_LOGGED_IN, "a topic of the device API")
        return super().receive_publish(topic, payload, qos=qos, retain=retain, properties=properties)

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
        """Counts the refusal among those of payloads, too, and has it recorded."""
        super().note_refusal(request, about, refusal, count, answered=answered, payload=payload)
        device = self.device
        note_request(
            self.scope,
            request,
            about,
            refusal,
            count,
            device_id=None if device is None else device.device_id,
            claimed=self.scope["client_id"] if device is None else device.name,
            payload=payload,
        )

    async def subscribe(self, topic_filter: str, qos: int, *, share_name: str | None) -> int | None:
        """Grants a device the filters of its profile, at QoS 1 at most; others all but those of devices."""
        if self.device is None:
            if topic_filter.startswith(reserved_topics()):
                raise Reject(ReasonCode.NOT_AUTHORIZED, "a topic of the device API")
            return await super().subscribe(topic_filter, qos, share_name=share_name)
        row = self.device.profile.downlink.subscription(topic_filter)
        if row is None or share_name is not None:
            raise Reject(ReasonCode.TOPIC_FILTER_INVALID, "not in the device API")
        self._grant(self.device, row, min(qos, 1))
        return min(qos, 1)

    async def unsubscribe(self, topic_filter: str) -> None:
        """Answers are still sent, at QoS 0."""
        if self.device is not None:
            self._granted.pop(topic_filter, None)
            row = self.device.profile.downlink.subscription(topic_filter)
            if row is not None and self.receiver is not None and self._row_of(row.meaning) is None:
                self.receiver.meanings.discard(row.meaning)

    async def resumed(self, granted: Mapping[str, int]) -> None:
        """The device has its subscriptions from before."""
        if self.device is not None:
            for topic_filter, qos in granted.items():
                row = self.device.profile.downlink.subscription(topic_filter)
                if row is not None:
                    with suppress(RefusedError):  # others of the device hear what it would
                        self._grant(self.device, row, qos)

    def _grant(self, device: Identity, row: Topic, qos: int) -> None:
        self._granted[row.topic_filter] = qos
        if row.meaning in TOLD:
            self.hear(self._services, device, row.meaning)

    def _row_of(self, meaning: Meaning) -> Topic | None:
        """The row by which the device hears messages of this meaning: that of its first subscription to one."""
        assert self.device is not None
        rows = map(self.device.profile.downlink.subscription, self._granted)
        return next((row for row in rows if row is not None and row.meaning is meaning), None)

    async def device_due(self, event: Event) -> None:
        """Publishes a command, or changed attributes, to the device; it is delivered when the device has acknowledged
        it, and at QoS 0 nobody knows."""
        device, receiver = self.device, self.receiver
        assert device is not None
        assert receiver is not None
        due, delivery_id = event["due"], event["delivery_id"]
        row = self._row_of(Meaning.COMMAND if isinstance(due, CommandDue) else Meaning.SHARED_ATTRIBUTES)
        if row is None:
            receiver.refuse(delivery_id)
            return
        qos = self._granted[row.topic_filter]
        topic, payload = encode_due(device.profile, row, due)
        await self.publish(topic, payload, qos=qos, delivery_id=delivery_id if qos else None)
        if not qos:
            receiver.sent(delivery_id)

    async def delivered(self, delivery_id: int, reason_code: int) -> None:
        """The device has acknowledged a command, or attributes, or cannot have them."""
        assert self.receiver is not None
        if is_failure(reason_code):
            self.receiver.failed(delivery_id, f"not taken by the device: {ReasonCode(reason_code).name.lower()}")
        else:
            self.receiver.delivered(delivery_id)

    async def device_cut(self, event: Event) -> None:
        """Closes: the device's access was revoked or changed. It may not publish any more, so its will is held back."""
        await self.close(ReasonCode.NOT_AUTHORIZED, event["reason"], will=False)

    async def device_expired(self, event: Event) -> None:
        """Closes: the device may be connected for as long as its credential is valid."""
        await self.close(ReasonCode.MAXIMUM_CONNECT_TIME, EXPIRED, will=False)

    async def disconnect(self, reason_code: int, reason: str) -> None:
        """The connection has ended."""
        self.unregister()
        if self.device is not None:
            self.hear_no_more(self._services)
            self._sub_devices.end()
            if reason in LOST:
                self._flapping.lost(self.device.device_id)

    def _refuse_flapping(self, services: DeviceServices, device: Identity) -> None:
        pause_s = services.limits.flapping.pause_s(device.device_id)
        if pause_s:
            told = f"flapping: too many connections ended without DISCONNECT; come again in {pause_s:.0f} s"
            raise refused(LoginRefusal.FLAPPING, self.scope, f"{device} is {told}", whose=device, told=told)
