"""What an MQTT consumer knows of its client, and how it answers: its state, its events, its log lines."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from gateway.consumer import AsyncConsumer
from gateway.exceptions import InvalidChannelLayerError, Reject
from gateway.metrics import mqtt_refusals
from gateway.mqtt.topics import TopicTable
from protocols.asgi import Event
from protocols.log_lines import Peer, PeerLog, describe
from protocols.mqtt import ReasonCode, events
from protocols.mqtt.codec.topic_rules import is_status_topic
from protocols.mqtt.events import AckEvent

logger = logging.getLogger("gateway.mqtt")
peer_log = PeerLog("gateway.mqtt")

EVENTS = (
    "mqtt.connect",
    "mqtt.publish",
    "mqtt.subscribe",
    "mqtt.retained",
    "mqtt.unsubscribe",
    "mqtt.delivered",
    "mqtt.subscriptions",
    "mqtt.disconnect",
)

_SUCCESS: Final = int(ReasonCode.SUCCESS)

FAILED = Reject(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR)
"""A failure of ours. Who cannot be told of it sends the publish again when it is back."""


class MqttPeerState(AsyncConsumer, events=()):
    """What an MQTT consumer knows of its client."""

    groups: Sequence[str] | None = None

    unrestricted = False
    """Whether this client may, unless a method says otherwise, publish to any topic and subscribe to any filter."""

    allow_anonymous = False
    """Whether the listener takes clients without credentials; known from `connect` on."""

    accepted = False

    client_name = ""
    """What logs call the client beside its identifier; set by `accept`."""

    _gateway_owner: str | None = None

    channel_layer: Any

    _gateway_topics: ClassVar[TopicTable]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._gateway_topics = TopicTable(cls, sync=cls._gateway_sync)
        cls._gateway_handlers.remove(cls._gateway_topics.methods)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes and ignores anything; `groups` of the class are joined by each accepted connection."""
        self.groups = self.groups if self.groups is not None else []

    def allow_will(self, will: dict[str, Any]) -> bool:
        """Whether the message counts that the client wants published when its connection is lost; else it is dropped.

        Asked by `accept`. Only that of an `unrestricted` client counts, unless overridden: a will is a publish that no
        handler sees. `will` is that of the scope (docs/events.md).
        """
        return self.unrestricted and not is_status_topic(will["topic"])

    def routes(self, topic: str) -> bool:
        """Whether a publish that `receive_publish` accepts reaches other subscribers; may be overridden. Topic handlers
        say so one by one."""
        return True

    def drops(self, refusal: Reject) -> bool:
        """Whether a refused publish is dropped, and not the connection ended, where the client cannot be told; may be
        overridden, for peers that can do nothing about it."""
        return refusal.drop

    def _anonymous(self, password: bytes | None) -> bool:
        return self.allow_anonymous and self.scope["username"] is None and password is None

    async def _gateway_send(self, event: Event) -> None:
        if self._gateway_run.peer_gone("mqtt"):
            await asyncio.sleep(0)  # lets the end of the grace reach a handler that only sends
            return
        try:
            await self.base_send(event)
        except OSError:
            self._gateway_run.closed = True

    def _gateway_groups(self) -> Sequence[str]:
        if self.groups and not hasattr(self.channel_layer, "group_add"):
            raise InvalidChannelLayerError("BACKEND is unconfigured or doesn't support groups")
        return (self.groups or ()) if self.accepted else ()

    def _gateway_will(self) -> bool | None:
        """What `mqtt.accept` says of the will: False if it does not count."""
        will = self.scope["will"]
        if will is None or self.allow_will(will):
            return None
        self.note_refusal("will", will["topic"], Reject(ReasonCode.NOT_AUTHORIZED))
        return False

    def _require_unrestricted(self, publish_to: str = "") -> None:
        if not self.unrestricted:
            raise Reject(ReasonCode.NOT_AUTHORIZED)
        if is_status_topic(publish_to):
            raise Reject(ReasonCode.NOT_AUTHORIZED, "a topic of the broker itself")

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
        """Counts a refusal, and logs it within the share of the client's owner or address; may be extended.

        `request` is "connect", "publish", "subscribe" or "will"; `about` is the topic or filter, of the
        first where a future has refused `count` publishes; `payload` is that of a publish which its handler has refused
        at once, for who extends this.
        One that ends the connection, as that of a publish which is not `answered` does, is logged by the server, with
        the reason, and not here too.
        """
        mqtt_refusals.labels(request, f"{refusal.reason_code:#04x}").inc(count)
        if request == "connect" or not (answered or self.drops(refusal)):
            return
        message = "refused %s %r of %s: %s"
        kind = f"{message} {request} {refusal.reason_code:#04x}"
        peer_log.warning(self.__peer(), message, request, with_count(about, count), self._who(), refusal, kind=kind)

    def __peer(self) -> Peer:
        """Whose share of the log it is: that of the owner, if `accept` has named one, else of the address."""
        return self._gateway_owner or self.scope.get("client")

    def _answered(self, qos: int) -> bool:
        """Whether a client that publishes at `qos` gets an answer that can say no."""
        return qos > 0 and bool(self.scope["mqtt_version"] >= 5)

    def _who(self) -> str:
        return f"{self.client_name}: {describe(self.scope)}" if self.client_name else describe(self.scope)

    def _note_withheld(self, topic_name: str, refusal: Reject) -> Reject:
        """Counts a retained message that the client does not get. It has asked for nothing that it must not: that is
        no line in the log."""
        mqtt_refusals.labels("retained", f"{refusal.reason_code:#04x}").inc()
        logger.debug("kept retained %r from %s: %s", topic_name, self._who(), refusal)
        return refusal

    def _note_failure(self, request: str, about: str, error: BaseException, count: int = 1) -> None:
        mqtt_refusals.labels(request, f"{ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR:#04x}").inc(count)
        message, peer = "%s %r of %s failed (%d)", self.__peer()
        kind = f"{message} {request} {type(error).__name__}"
        line = (message, request, with_count(about, count), self._who(), count)
        peer_log.error(peer, *line, kind=kind, exc_info=error)


def with_count(about: str, count: int) -> str:
    """What `note_refusal` is about, for people: the topic, and how many more publishes were refused with it."""
    return f"{about} and {count - 1} more" if count > 1 else about


def publish_ack(ack_id: int, route: bool) -> Event:
    # events.ack(...), written out: what every publish gets.
    ack: AckEvent = {"type": "mqtt.ack", "ack_id": ack_id, "reason_code": _SUCCESS}
    if not route:
        ack["route"] = False
    return ack  # type: ignore[return-value]


def broker_ack(ack_id: int, route: bool, unrestricted: bool) -> Event:
    """`publish_ack` for a publish that only the broker takes: a client of a plain broker is told if nobody gets it."""
    ack = publish_ack(ack_id, route)
    if route and unrestricted:
        ack["no_subscribers"] = True
    return ack


def refuse(ack: Event, refusal: Reject, drop: bool) -> Event:
    """`ack` made negative."""
    ack["reason_code"] = refusal.reason_code
    if refusal.reason_string:
        ack["reason_string"] = refusal.reason_string
    if drop:
        ack["drop"] = True
    return ack


def filters_ack(ack_id: int, results: "list[int | Reject]") -> Event:
    """The answer to a subscribe or unsubscribe, with the reason of the first refusal."""
    refusals = [result for result in results if isinstance(result, Reject)]
    codes = [result.reason_code if isinstance(result, Reject) else result for result in results]
    reason = refusals[0].reason_string if refusals else None
    return events.ack(ack_id=ack_id, reason_codes=codes, reason_string=reason or None)
