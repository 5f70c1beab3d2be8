"""A message on its way from a publisher to subscribers: encoded once per form, whoever gets it."""

from math import ceil
from typing import Any

from protocols.mqtt.codec.decoder import EncodedPublish, prepare_publish
from protocols.mqtt.codec.packets import MQTT_5_0, Properties
from protocols.mqtt.codec.properties import size_bytes as properties_size
from protocols.mqtt.codec.topic_rules import validate_topic_name

_NOT_FORWARDED = ("topic_alias", "subscription_identifier", "will_delay_interval")


class Message:
    """What is published: a topic, a payload, and what is said about them.

    `expires_at` is in the same clock as every `now`; None for a message without message_expiry_interval.
    """

    __slots__ = (
        "_encoded",
        "expires_at",
        "message_id",
        "owner_name",
        "payload",
        "properties",
        "publisher",
        "qos",
        "references",
        "retain",
        "size_bytes",
        "topic",
    )

    message_id: int
    owner_name: str
    """Who has it retained, if it is; see Owner."""

    def __init__(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
        *,
        now: float,
    ) -> None:
        """Trusts its arguments, as a decoded packet has them; see `checked`."""
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.properties = _forwarded(properties) if properties else {}
        self.size_bytes = len(topic) + len(payload) + (properties_size(properties) if properties else 0)
        """What the message counts in the bounds of queues and of the retained messages."""
        interval = self.properties.get("message_expiry_interval")
        self.expires_at: float | None = None if interval is None else now + interval
        self.publisher = ""
        """The client identifier of who published it, if it is retained."""
        self.references = 0
        """How many deliveries of it the journal knows; if there are any, under `message_id`."""
        self._encoded: dict[tuple[bool, int, bool, int], EncodedPublish] | None = None

    @classmethod
    def checked(
        cls, topic: str, payload: bytes, qos: int, retain: bool, properties: Properties | None, *, now: float
    ) -> "Message":
        """A message that a program wants published. Raises ValueError for one that MQTT cannot say, TypeError
        for a payload that is not bytes."""
        validate_topic_name(topic)
        if qos not in (0, 1, 2):
            raise ValueError(f"qos: expected 0, 1 or 2, got {qos!r}")
        if not isinstance(payload, bytes):
            raise TypeError(f"payload: expected bytes, got {type(payload).__name__}")
        message = cls(topic, payload, qos, bool(retain), properties, now=now)
        message.encoded(MQTT_5_0, qos, message.retain, now)
        return message

    def expired(self, now: float) -> bool:
        """Whether the message is not to be delivered any more [MQTT5-3.3.2-5]."""
        return self.expires_at is not None and self.expires_at <= now

    def properties_at(self, now: float) -> Properties:
        """The properties with the part of the message_expiry_interval that is left [MQTT5-3.3.2-6]."""
        if self.expires_at is None:
            return self.properties
        return {**self.properties, "message_expiry_interval": max(0, ceil(self.expires_at - now))}

    def encoded(self, version: int, qos: int, retain: bool, now: float) -> EncodedPublish:
        """The PUBLISH that all receivers of this version, QoS and retain flag share."""
        is_5 = version == MQTT_5_0
        left_s = 0 if self.expires_at is None or not is_5 else ceil(self.expires_at - now)
        key = (is_5, qos, retain, left_s)
        if self._encoded is None:
            self._encoded = {}
        encoded = self._encoded.get(key)
        if encoded is None:
            encoded = self._encoded[key] = prepare_publish(
                self.topic,
                self.payload,
                version=version,
                qos=qos,
                retain=retain,
                properties=self.properties_at(now) if is_5 else None,
            )
        return encoded

    def forget_encoded(self) -> None:
        """Frees the encoded forms of a message that is kept."""
        self._encoded = None


def _forwarded(properties: Properties) -> dict[str, Any]:
    """The properties of a PUBLISH that go on to subscribers [MQTT5-3.3.2-4] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16]
    [MQTT5-3.3.2-17] [MQTT5-3.3.2-20]; the others belong to one connection."""
    if any(name in properties for name in _NOT_FORWARDED):
        return {name: value for name, value in properties.items() if name not in _NOT_FORWARDED}
    return properties
