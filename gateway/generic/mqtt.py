"""Consumers for MQTT connections, in the style of the WebSocket ones. The events are those of docs/events.md.

    class DeviceConsumer(AsyncMqttConsumer):
        async def connect(self, password):
            self.device = await authenticate(self.scope["username"], password)   # raises Reject(0x86)
            await self.accept()

        @topic("v1/devices/me/telemetry")
        async def telemetry(self, event):
            return ingest.submit(self.device, decode(event["payload"]))          # acknowledged when that is done

Nothing is allowed that the consumer does not allow: by default only anonymous clients are accepted, where the listener
says so, and may then do all that a client of a plain broker may; publishes without a topic handler, subscriptions and
wills of other clients are refused until `receive_publish`, `subscribe` and `allow_will` say otherwise.

What a publish handler does decides its acknowledgement: returning None acknowledges now; returning an asyncio.Future,
which many publishes may share, when that is done, and the next publish is handled meanwhile; raising `Reject`, or a
future that ends in it, refuses with its code; any other exception is logged and refused with 0x83. Where no
acknowledgement can tell the client, before MQTT 5 and at QoS 0, a refusal ends the connection, unless it says `drop`.

Clients of MQTT 5 that name an authentication method are refused unless `begin_authentication` knows it; `connect` is
called when the exchange is done, and finds it as `authenticated`.

The methods `mqtt_...` are coroutines in both classes. They call what users write by `_gateway_call`: in the event loop,
or in a thread, as the consumer has it.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from asgiref.sync import async_to_sync

from gateway.consumer import SyncConsumer
from gateway.dispatch.threads import from_threads
from gateway.exceptions import AcceptConnection, DenyConnection, Reject, StopConsumer
from gateway.generic.mqtt_authentication import AuthMechanism, MqttAuthentication
from gateway.generic.mqtt_replies import (
    EVENTS,
    FAILED,
    broker_ack,
    filters_ack,
    publish_ack,
    refuse,
)
from gateway.mqtt.topics import topic
from protocols.asgi import Event, Send
from protocols.mqtt import ReasonCode, events

__all__ = ["AsyncMqttConsumer", "MqttConsumer", "Reject", "topic"]


class AsyncMqttConsumer(MqttAuthentication, events=(*EVENTS, "mqtt.auth", "mqtt.settled")):
    """Base of MQTT consumers whose methods are coroutines."""

    disconnect_grace_s: ClassVar[float | None] = 5.0
    """Longer than elsewhere: publishes that came before the end are still handled. As long again, futures that handlers
    returned are waited for, where the publish is to be routed when they are done."""

    # The last future that a handler returned, while it is not done, and the acknowledgements that wait for it. Mostly
    # publishes in a row share one, so that it costs an append each, and one callback per connection.
    __awaited: "asyncio.Future[Any] | None" = None
    __waiting_acks: list[Event]
    __unsettled: "dict[asyncio.Future[Any], tuple[list[Event], str]] | None" = None
    __password: bytes | None = None

    async def mqtt_connect(self, event: Event) -> None:
        """Asks `connect`, after the exchange if the client has named an authentication method."""
        self.allow_anonymous = event["allow_anonymous"]
        try:
            if await self._gateway_authenticated(event):
                await self.__connect(event["password"])
            else:
                self.__password = event["password"]
        except Reject as refusal:
            await self.__end(self.reject, refusal)

    async def mqtt_auth(self, event: Event) -> None:
        """Goes on with an exchange, and asks `connect` after that of a new connection."""
        try:
            if await self._gateway_continues(event):
                password, self.__password = self.__password, None
                await self.__connect(password)
        except Reject as refusal:
            await self.__end(self.close if self.accepted else self.reject, refusal)

    async def __end(self, end: Callable[..., Any], refusal: Reject) -> None:
        await self._gateway_call(end, refusal.reason_code, refusal.reason_string, log_reason=refusal.log_reason)

    async def __connect(self, password: bytes | None) -> None:
        try:
            await self._gateway_call(self.connect, password)
        except AcceptConnection:
            await self._gateway_call(self.accept)
        except DenyConnection:
            await self._gateway_call(self.reject)
        for group in self._gateway_groups():
            await self.channel_layer.group_add(group, self.channel_name)

    async def connect(self, password: bytes | None) -> None:
        """Called with each new connection, to `accept` or `reject` it, or to raise `Reject`.

        Unless overridden, accepts those without username and password where the listener allows that, as clients of a
        plain broker (`unrestricted`), and rejects all others.
        """
        if self._anonymous(password):
            self.unrestricted = True
            await self.accept()
        else:
            await self.reject(ReasonCode.BAD_USER_NAME_OR_PASSWORD)

    async def accept(
        self,
        *,
        client_id: str | None = None,
        name: str = "",
        properties: dict[str, Any] | None = None,
        maximum_qos: int | None = None,
        owner: str | None = None,
    ) -> None:
        """Accepts the connection; see `mqtt.accept` in docs/events.md."""
        await self._gateway_send(self._gateway_accept(client_id, name, properties, maximum_qos, owner))

    def _gateway_accept(
        self,
        client_id: str | None,
        name: str,
        properties: dict[str, Any] | None,
        maximum_qos: int | None,
        owner: str | None,
    ) -> Event:
        self.accepted = True
        self.client_name = name
        self._gateway_owner = owner
        event = events.accept(
            client_id=client_id,
            name=name or None,
            will=self._gateway_will(),
            owner=owner,
            properties=properties,
            maximum_qos=maximum_qos,
            report_subscriptions=type(self).resumed is not self._gateway_resumes_nothing or None,
        )
        return {**event, **self._gateway_proof()}

    async def reject(
        self,
        reason_code: int = ReasonCode.NOT_AUTHORIZED,
        reason_string: str | None = None,
        *,
        log_reason: str | None = None,
    ) -> None:
        """Refuses the connection; `log_reason` is for the log, see `mqtt.reject` in docs/events.md."""
        self.note_refusal("connect", self.scope["client_id"], Reject(reason_code, reason_string))
        await self._gateway_send(
            events.reject(reason_code=reason_code, reason_string=reason_string or None, log_reason=log_reason or None)
        )
        self._gateway_run.closed = True

    # The hot path: one coroutine here, one for the handler and one for the server's `send`, and no other object than
    # the acknowledgement. Hence `_gateway_call` is put between only where it leads to a thread.
    async def mqtt_publish(self, event: Event) -> None:
        """Gives a publish to the handler of its topic, else to `receive_publish`, and acknowledges by the outcome."""
        topic_name = event["topic"]
        topics = self._gateway_topics
        handler = topics.literal.get(topic_name)
        if handler is None and topics.patterns:
            handler = topics.find(topic_name)
        try:
            if handler is not None:
                method: Callable[..., Any] = getattr(self, handler.method)
                if self._gateway_sync:
                    method = functools.partial(self._gateway_call, method)
                outcome = await (method(event, **handler.captures) if handler.captures else method(event))
                ack = publish_ack(event["ack_id"], handler.route)
            else:
                method = self.receive_publish
                if self._gateway_sync:
                    method = functools.partial(self._gateway_call, method)
                outcome = await method(
                    topic_name,
                    event["payload"],
                    qos=event["qos"],
                    retain=event["retain"],
                    properties=event["properties"],
                )
                ack = broker_ack(event["ack_id"], self.routes(topic_name), self.unrestricted)
        except Reject as refusal:
            answered, payload = self._answered(event["qos"]), event["payload"]
            self.note_refusal("publish", topic_name, refusal, answered=answered, payload=payload)
            await self.base_send(refuse(publish_ack(event["ack_id"], True), refusal, self.drops(refusal)))
            return
        except StopConsumer:
            raise
        except Exception as error:
            self._note_failure("publish", topic_name, error)
            await self.base_send(refuse(publish_ack(event["ack_id"], True), FAILED, False))
            return
        if outcome is None or self._gateway_sync:
            await self.base_send(ack)
        elif outcome is self.__awaited:
            self.__waiting_acks.append(ack)
        else:
            self.__wait_for(outcome, ack, topic_name)

    async def receive_publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: dict[str, Any]
    ) -> "asyncio.Future[Any] | None":
        """Called with each publish that no topic handler takes; refuses it (0x87) unless the client is `unrestricted`.

        See the top of the module for what to return or raise.
        """
        self._require_unrestricted(topic)
        return None

    def __wait_for(self, outcome: "asyncio.Future[Any]", ack: Event, topic: str) -> None:
        if not asyncio.isfuture(outcome):
            raise TypeError(f"a publish handler returns None or an asyncio.Future, not {outcome!r}")
        self.__awaited = outcome
        self.__waiting_acks = acks = [ack]
        if self.__unsettled is None:
            self.__unsettled = {}
        self.__unsettled[outcome] = (acks, topic)
        outcome.add_done_callback(functools.partial(self.__settled, acks, topic))

    def __settled(self, acks: list[Event], topic: str, outcome: "asyncio.Future[Any]") -> None:
        if self.__awaited is outcome:
            self.__awaited = None
        self._gateway_run.inbox.post({"type": "mqtt.settled", "outcome": outcome, "acks": acks, "topic": topic})

    async def mqtt_settled(self, event: Event) -> None:
        """Sends the acknowledgements that waited for a future."""
        outcome: asyncio.Future[Any] = event["outcome"]
        acks: list[Event] = event["acks"]
        if self.__unsettled is not None:
            self.__unsettled.pop(outcome, None)
        error = asyncio.CancelledError() if outcome.cancelled() else outcome.exception()
        if isinstance(error, Reject):
            self.note_refusal("publish", event["topic"], error, len(acks), answered=self._answered(1))
        elif error is not None:
            self._note_failure("publish", event["topic"], error, len(acks))
        for ack in acks:
            if error is not None:
                refusal = error if isinstance(error, Reject) else FAILED
                refuse(ack, refusal, self.drops(refusal))
            await self.base_send(ack)

    async def mqtt_subscribe(self, event: Event) -> None:
        """Asks `subscribe` for each filter."""
        results = [await self.__subscribe(subscription) for subscription in event["subscriptions"]]
        ack = filters_ack(event["ack_id"], results)
        if type(self).authorize_retained is not self._gateway_authorizes_all:
            ack["check_retained"] = True
        await self.base_send(ack)

    async def __subscribe(self, subscription: dict[str, Any]) -> int | Reject:
        topic_filter, qos = subscription["topic_filter"], subscription["qos"]
        try:
            granted: int | None = await self._gateway_call(
                self.subscribe, topic_filter, qos, share_name=subscription["share_name"]
            )
        except Reject as refusal:
            self.note_refusal("subscribe", topic_filter, refusal)
            return refusal
        except StopConsumer:
            raise
        except Exception as error:
            self._note_failure("subscribe", topic_filter, error)
            return FAILED
        return qos if granted is None else granted

    async def subscribe(self, topic_filter: str, qos: int, *, share_name: str | None) -> int | None:
        """Called with each filter the client subscribes to; refuses it (0x87) unless the client is `unrestricted`.

        Returns the QoS granted, None for the one asked; raises `Reject` to refuse. `share_name` is that of a shared
        subscription, without which the filter says all.
        """
        self._require_unrestricted()
        return None

    async def mqtt_retained(self, event: Event) -> None:
        """Asks `authorize_retained` for each topic."""
        results = [await self.__authorize_retained(topic) for topic in event["topics"]]
        await self.base_send(filters_ack(event["ack_id"], results))

    async def __authorize_retained(self, topic: str) -> int | Reject:
        try:
            allowed = await self._gateway_call(self.authorize_retained, topic)
        except Reject as refusal:
            return self._note_withheld(topic, refusal)
        except StopConsumer:
            raise
        except Exception as error:
            self._note_failure("retained", topic, error)
            return FAILED
        return ReasonCode.SUCCESS if allowed else self._note_withheld(topic, Reject(ReasonCode.NOT_AUTHORIZED))

    async def authorize_retained(self, topic: str) -> bool:
        """Called with the topic of each retained message that a filter granted by `subscribe` brings with it, to say
        whether the client gets it: for filters that match more than the client may read.

        Only a class that overrides it is asked, and only about these: what is published later goes by the filter.
        """
        return True

    _gateway_authorizes_all: ClassVar[Any] = staticmethod(authorize_retained)

    async def mqtt_unsubscribe(self, event: Event) -> None:
        """Tells `unsubscribe` of each filter."""
        for topic_filter in event["topic_filters"]:
            await self._gateway_call(self.unsubscribe, topic_filter)
        await self.base_send(filters_ack(event["ack_id"], [ReasonCode.SUCCESS] * len(event["topic_filters"])))

    async def unsubscribe(self, topic_filter: str) -> None:
        """Called with each filter that the client gives up; to be overridden."""

    async def mqtt_subscriptions(self, event: Event) -> None:
        """Tells `resumed`."""
        await self._gateway_call(self.resumed, event["granted"])

    async def resumed(self, granted: Mapping[str, int]) -> None:
        """Called after `accept` with the filters that the client's session is subscribed to from before, if there are
        any, and the QoS of each; to be overridden."""

    _gateway_resumes_nothing: ClassVar[Any] = staticmethod(resumed)

    async def publish(
        self,
        topic: str,
        payload: bytes | str,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: dict[str, Any] | None = None,
        delivery_id: int | None = None,
    ) -> None:
        """Sends a message to this client, whether it has subscribed or not; text is sent as UTF-8.

        With a `delivery_id`, above QoS 0, `delivered` is called with it when the client has acknowledged the message,
        or cannot have it; until then it is there only as long as the connection is.
        """
        data = payload.encode() if isinstance(payload, str) else payload
        await self._gateway_send(
            events.publish_to_client(
                topic=topic,
                payload=data,
                qos=qos,
                retain=retain,
                properties=properties or None,
                delivery_id=delivery_id,
            )
        )

    async def mqtt_delivered(self, event: Event) -> None:
        """Tells `delivered`."""
        await self._gateway_call(self.delivered, event["delivery_id"], event["reason_code"])

    async def delivered(self, delivery_id: int, reason_code: int) -> None:
        """Called with what became of a message that was published with a `delivery_id`: `mqtt.delivered` in
        docs/events.md; to be overridden."""

    async def close(
        self,
        reason_code: int = ReasonCode.ADMINISTRATIVE_ACTION,
        reason_string: str | None = None,
        *,
        log_reason: str | None = None,
        will: bool = True,
    ) -> None:
        """Closes the connection; MQTT 5 clients are told why, `log_reason` is for the log. With `will=False` the
        client's will is not published: for one that has lost the right to publish."""
        await self._gateway_send(
            events.close(
                reason_code=reason_code,
                reason_string=reason_string or None,
                log_reason=log_reason or None,
                will=None if will else False,
            )
        )
        self._gateway_run.closed = True

    async def mqtt_disconnect(self, event: Event) -> None:
        """Leaves the groups, then `disconnect`."""
        try:
            for group in self._gateway_groups():
                await self.channel_layer.group_discard(group, self.channel_name)
        finally:
            await self._gateway_call(self.disconnect, event["reason_code"], event["reason"])
        if self._gateway_run.inbox.finished and self.__unsettled:
            await self.__settle_late(self.__unsettled)
        raise StopConsumer

    async def __settle_late(self, unsettled: "dict[asyncio.Future[Any], tuple[list[Event], str]]") -> None:
        """Has the broker route what the client has published and not waited for, within the grace."""
        routed = [outcome for outcome, (acks, _) in unsettled.items() if any(ack.get("route", True) for ack in acks)]
        if routed:
            done, _ = await asyncio.wait(routed, timeout=self.disconnect_grace_s)
            for outcome in [outcome for outcome in routed if outcome in done]:
                acks, topic = unsettled[outcome]
                await self.mqtt_settled({"outcome": outcome, "acks": acks, "topic": topic})

    async def disconnect(self, reason_code: int, reason: str) -> None:
        """Called exactly once, when the connection has ended or the consumer failed; to be overridden.

        `reason` is one of those of `mqtt.disconnect` in docs/events.md.
        """

    async def mailbox_overflow(self, event: Event) -> None:
        """Closes with 0x97, quota exceeded."""
        await self.close(ReasonCode.QUOTA_EXCEEDED)


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class MqttConsumer(AsyncMqttConsumer, SyncConsumer, events=()):
    """Base of MQTT consumers whose methods run in a thread: those that AsyncMqttConsumer has, as plain functions.

    A publish is acknowledged when its handler has returned, and only then the next one is handled. `drops` and
    `note_refusal` are called in the event loop, as `step` of an AuthMechanism is, which stays a coroutine.
    """

    disconnect_grace_s = None

    def connect(self, password: bytes | None) -> None:  # type: ignore[override]
        """As AsyncMqttConsumer.connect."""
        if self._anonymous(password):
            self.unrestricted = True
            self.accept()
        else:
            self.reject(ReasonCode.BAD_USER_NAME_OR_PASSWORD)

    def accept(  # type: ignore[override]
        self,
        *,
        client_id: str | None = None,
        name: str = "",
        properties: dict[str, Any] | None = None,
        maximum_qos: int | None = None,
        owner: str | None = None,
    ) -> None:
        """As AsyncMqttConsumer.accept."""
        self.__wait(self._gateway_send(self._gateway_accept(client_id, name, properties, maximum_qos, owner)))

    def reject(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """As AsyncMqttConsumer.reject."""
        self.__wait(super().reject(*args, **kwargs))

    def receive_publish(  # type: ignore[override]
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: dict[str, Any]
    ) -> None:
        """As AsyncMqttConsumer.receive_publish, but for the future."""
        self._require_unrestricted(topic)

    def subscribe(  # type: ignore[override]
        self, topic_filter: str, qos: int, *, share_name: str | None
    ) -> int | None:
        """As AsyncMqttConsumer.subscribe."""
        self._require_unrestricted()
        return None

    def authorize_retained(self, topic: str) -> bool:  # type: ignore[override]
        """As AsyncMqttConsumer.authorize_retained."""
        return True

    _gateway_authorizes_all = staticmethod(authorize_retained)

    def unsubscribe(self, topic_filter: str) -> None:  # type: ignore[override]
        """Called with each filter that the client gives up; to be overridden."""

    def resumed(self, granted: Mapping[str, int]) -> None:  # type: ignore[override]
        """As AsyncMqttConsumer.resumed."""

    _gateway_resumes_nothing = staticmethod(resumed)

    def delivered(self, delivery_id: int, reason_code: int) -> None:  # type: ignore[override]
        """As AsyncMqttConsumer.delivered."""

    def begin_authentication(self, method: str) -> AuthMechanism | None:  # type: ignore[override]
        """As AsyncMqttConsumer.begin_authentication."""
        return None

    def reauthenticated(self, before: AuthMechanism) -> None:  # type: ignore[override]
        """As AsyncMqttConsumer.reauthenticated."""
        self._require_identity_of(before)

    def publish(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """As AsyncMqttConsumer.publish."""
        self.__wait(super().publish(*args, **kwargs))

    def close(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """As AsyncMqttConsumer.close."""
        self.__wait(super().close(*args, **kwargs))

    def disconnect(self, reason_code: int, reason: str) -> None:  # type: ignore[override]
        """As AsyncMqttConsumer.disconnect."""

    def mailbox_overflow(self, event: Event) -> None:  # type: ignore[override]
        """Closes with 0x97, quota exceeded."""
        self.close(ReasonCode.QUOTA_EXCEEDED)

    def send(self, message: Event) -> None:  # type: ignore[override]
        """Gives an event to the server, and waits until it has taken it."""
        self.__wait(self.base_send(message))

    def _gateway_base_send(self, send: Send) -> Callable[[Event], Any]:
        self.__wait = from_threads(_result_of)
        return send  # which the coroutines of AsyncMqttConsumer await

    __wait: Callable[[Awaitable[Any]], Any] = staticmethod(async_to_sync(_result_of))
