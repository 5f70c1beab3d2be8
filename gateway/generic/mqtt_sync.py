"""The MQTT consumer whose methods run in a thread; gateway.generic.mqtt, which has it too, says how both behave."""

from typing import Any

from asgiref.sync import async_to_sync

from gateway.consumer import SyncConsumer
from gateway.exceptions import AcceptConnection, DenyConnection, Reject, StopConsumer
from gateway.generic.mqtt_replies import (
    EVENTS,
    FAILED,
    MqttPeer,
    broker_ack,
    filters_ack,
    publish_ack,
    refuse,
)
from protocols.asgi import Event
from protocols.mqtt import ReasonCode, events


class MqttConsumer(MqttPeer, SyncConsumer, events=EVENTS):
    """Base of MQTT consumers whose methods run in a thread.

    As AsyncMqttConsumer, but for this: a publish is acknowledged when its handler has returned, and only then the next
    one is handled; and clients that name an authentication method are refused.
    """

    def mqtt_connect(self, event: Event) -> None:
        """Asks `connect`, then joins the groups."""
        self.allow_anonymous = event["allow_anonymous"]
        if event.get("authentication_method") is not None:
            self.reject(ReasonCode.BAD_AUTHENTICATION_METHOD)
            return
        try:
            self.connect(event["password"])
        except AcceptConnection:
            self.accept()
        except DenyConnection:
            self.reject()
        except Reject as refusal:
            self.reject(refusal.reason_code, refusal.reason_string, log_reason=refusal.log_reason)
        for group in self._gateway_groups():
            async_to_sync(self.channel_layer.group_add)(group, self.channel_name)

    def connect(self, password: bytes | None) -> None:
        """As AsyncMqttConsumer.connect."""
        if self._anonymous(password):
            self.unrestricted = True
            self.accept()
        else:
            self.reject(ReasonCode.BAD_USER_NAME_OR_PASSWORD)

    def accept(
        self,
        *,
        client_id: str | None = None,
        name: str = "",
        properties: dict[str, Any] | None = None,
        maximum_qos: int | None = None,
        owner: str | None = None,
    ) -> None:
        """Accepts the connection; see `mqtt.accept` in docs/events.md."""
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
        )
        self._gateway_send(event)

    def reject(
        self,
        reason_code: int = ReasonCode.NOT_AUTHORIZED,
        reason_string: str | None = None,
        *,
        log_reason: str | None = None,
    ) -> None:
        """Refuses the connection; `log_reason` is for the log, see `mqtt.reject` in docs/events.md."""
        self.note_refusal("connect", self.scope["client_id"], Reject(reason_code, reason_string))
        self._gateway_send(
            events.reject(reason_code=reason_code, reason_string=reason_string or None, log_reason=log_reason or None)
        )
        self._gateway_run.closed = True

    def mqtt_publish(self, event: Event) -> None:
        """Gives a publish to the handler of its topic, else to `receive_publish`, and acknowledges by the outcome."""
        handler = self._gateway_topics.find(event["topic"])
        if handler is not None:
            ack = publish_ack(event["ack_id"], handler.route)
        else:
            ack = broker_ack(event["ack_id"], self.route_publishes, self.unrestricted)
        try:
            if handler is not None:
                getattr(self, handler.method)(event, **handler.captures)
            else:
                self.receive_publish(
                    event["topic"],
                    event["payload"],
                    qos=event["qos"],
                    retain=event["retain"],
                    properties=event["properties"],
                )
        except Reject as refusal:
            self.note_refusal("publish", event["topic"], refusal, answered=self._answered(event["qos"]))
            refuse(ack, refusal, self.drops(refusal))
        except StopConsumer:
            raise
        except Exception as error:
            self._note_failure("publish", event["topic"], error)
            refuse(ack, FAILED, False)
        self._gateway_send(ack)

    def receive_publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: dict[str, Any]
    ) -> None:
        """As AsyncMqttConsumer.receive_publish, but for the future."""
        self._require_unrestricted(topic)

    def mqtt_subscribe(self, event: Event) -> None:
        """Asks `subscribe` for each filter."""
        results = [self.__subscribe(subscription) for subscription in event["subscriptions"]]
        ack = filters_ack(event["ack_id"], results)
        if type(self).authorize_retained is not MqttConsumer.authorize_retained:
            ack["check_retained"] = True
        self._gateway_send(ack)

    def __subscribe(self, subscription: dict[str, Any]) -> int | Reject:
        topic_filter, qos = subscription["topic_filter"], subscription["qos"]
        try:
            granted = self.subscribe(topic_filter, qos, share_name=subscription["share_name"])
        except Reject as refusal:
            self.note_refusal("subscribe", topic_filter, refusal)
            return refusal
        except StopConsumer:
            raise
        except Exception as error:
            self._note_failure("subscribe", topic_filter, error)
            return FAILED
        return qos if granted is None else granted

    def subscribe(self, topic_filter: str, qos: int, *, share_name: str | None) -> int | None:
        """As AsyncMqttConsumer.subscribe."""
        self._require_unrestricted()
        return None

    def mqtt_retained(self, event: Event) -> None:
        """Asks `authorize_retained` for each topic."""
        results = [self.__authorize_retained(topic) for topic in event["topics"]]
        self._gateway_send(filters_ack(event["ack_id"], results))

    def __authorize_retained(self, topic: str) -> int | Reject:
        try:
            allowed = self.authorize_retained(topic)
        except Reject as refusal:
            return self._note_withheld(topic, refusal)
        except StopConsumer:
            raise
        except Exception as error:
            self._note_failure("retained", topic, error)
            return FAILED
        return ReasonCode.SUCCESS if allowed else self._note_withheld(topic, Reject(ReasonCode.NOT_AUTHORIZED))

    def authorize_retained(self, topic: str) -> bool:
        """As AsyncMqttConsumer.authorize_retained."""
        return True

    def mqtt_unsubscribe(self, event: Event) -> None:
        """Tells `unsubscribe` of each filter."""
        for topic_filter in event["topic_filters"]:
            self.unsubscribe(topic_filter)
        self._gateway_send(filters_ack(event["ack_id"], [ReasonCode.SUCCESS] * len(event["topic_filters"])))

    def unsubscribe(self, topic_filter: str) -> None:
        """Called with each filter that the client gives up; to be overridden."""

    def publish(
        self,
        topic: str,
        payload: bytes | str,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: dict[str, Any] | None = None,
    ) -> None:
        """Sends a message to this client, whether it has subscribed or not; text is sent as UTF-8."""
        data = payload.encode() if isinstance(payload, str) else payload
        self._gateway_send(
            events.publish_to_client(topic=topic, payload=data, qos=qos, retain=retain, properties=properties or None)
        )

    def close(
        self,
        reason_code: int = ReasonCode.ADMINISTRATIVE_ACTION,
        reason_string: str | None = None,
        *,
        log_reason: str | None = None,
        will: bool = True,
    ) -> None:
        """Closes the connection; MQTT 5 clients are told why, `log_reason` is for the log. With `will=False` the
        client's will is not published: for one that has lost the right to publish."""
        self._gateway_send(
            events.close(
                reason_code=reason_code,
                reason_string=reason_string or None,
                log_reason=log_reason or None,
                will=None if will else False,
            )
        )
        self._gateway_run.closed = True

    def mqtt_disconnect(self, event: Event) -> None:
        """Leaves the groups, then `disconnect`."""
        try:
            for group in self._gateway_groups():
                async_to_sync(self.channel_layer.group_discard)(group, self.channel_name)
        finally:
            self.disconnect(event["reason_code"], event["reason"])
        raise StopConsumer

    def disconnect(self, reason_code: int, reason: str) -> None:
        """As AsyncMqttConsumer.disconnect."""

    def mailbox_overflow(self, event: Event) -> None:  # type: ignore[override]
        """Closes with 0x97, quota exceeded."""
        self.close(ReasonCode.QUOTA_EXCEEDED)

    def _gateway_send(self, event: Event) -> None:
        if not self._gateway_run.peer_gone("mqtt"):
            try:
                self.base_send(event)
            except OSError:
                self._gateway_run.closed = True
