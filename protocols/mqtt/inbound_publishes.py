"""The publishes of a client: from PUBLISH to the application's acknowledgement to PUBACK, PUBREC and PUBCOMP.

The application may acknowledge in any order and at any time, also when the connection has ended; answers leave, and
messages are routed, in the order of the PUBLISH packets [MQTT5-4.6.0-2] [MQTT5-4.6.0-3].
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from protocols.asgi import Event
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.broker.session import Session
from protocols.mqtt.codec.decoder import encode, encode_success
from protocols.mqtt.codec.errors import ProtocolError
from protocols.mqtt.codec.packets import MQTT_5_0, PacketType, PubAck, PubComp, Publish, PubRec, ReasonCode
from protocols.mqtt.codec.properties import size_bytes as properties_size
from protocols.mqtt.codec.reason_codes import is_failure, sendable
from protocols.mqtt.events import PublishEvent
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.packet_writer import PacketWriter
from protocols.mqtt.topic_aliases import InboundAliases

MAX_PENDING_BYTES: Final = 1024 * 1024
"""What waits for the application's acknowledgement; above it the socket is not read."""

_DUPLICATE: Final[Event] = {"route": False}
"""Stands for the application's acknowledgement of a QoS 2 PUBLISH that had been acknowledged before."""


class InboundPublishes:
    """The publishes of one connection that wait for their acknowledgement, in order.

    Those in `_pending` have the ack_ids from `_head` to `_next - 1`, without a gap, so that the common ack, of the
    oldest, is a comparison and a popleft. Acks that come before their turn wait in `_early`.
    """

    __slots__ = (
        "_aliases",
        "_broker",
        "_early",
        "_head",
        "_maximum_qos",
        "_next",
        "_options",
        "_pending",
        "_pending_bytes",
        "_receiving",
        "_refuse",
        "_session",
        "_unacknowledged",
        "received_payload_bytes",
        "writer",
    )

    def __init__(
        self,
        broker: Broker,
        options: MqttOptions,
        session: Session,
        writer: PacketWriter,
        *,
        maximum_qos: int,
        refuse: Callable[[int, str, str, float], None],
    ) -> None:
        """`refuse(reason_code, text, topic, now)` ends the connection: the application refuses a publish, and no
        acknowledgement can say so."""
        self._broker = broker
        self._options = options
        self._session = session
        self.writer = writer
        self._maximum_qos = maximum_qos
        self._refuse = refuse
        self._pending: deque[Publish] = deque()
        self._pending_bytes = 0
        self._head = 1
        self._next = 1
        self._early: dict[int, Event] | None = None
        self._receiving: set[int] | None = None
        self._unacknowledged = 0
        self._aliases: InboundAliases | None = None
        self.received_payload_bytes = 0

    @property
    def received(self) -> int:
        """How many publishes have been given to the application."""
        return self._next - 1

    @property
    def unanswered(self) -> bool:
        """Whether the client waits for the answer to a publish."""
        return bool(self._pending) and not self.writer.is_closed

    @property
    def congested(self) -> bool:
        """Whether so much waits for the application that the socket should not be read."""
        return len(self._pending) >= self._options.receive_maximum or self._pending_bytes > MAX_PENDING_BYTES

    # What the client sends

    def receive(self, packet: Publish, events: list[Event]) -> None:
        """Takes a PUBLISH; adds the event to `events`. Raises ProtocolError."""
        if packet.properties:
            packet = self._without_alias(packet)
        if len(packet.topic) > self._options.max_topic_length:
            raise ProtocolError(ReasonCode.TOPIC_NAME_INVALID, f"a topic of {len(packet.topic)} characters")
        qos = packet.qos
        if qos:
            if qos > self._maximum_qos:  # [MQTT5-3.2.2-11]
                raise ProtocolError(ReasonCode.QOS_NOT_SUPPORTED, f"QoS {qos}; at most {self._maximum_qos}")
            if qos == 2 and self._is_repeated(packet):
                return
            self._unacknowledged += 1
            if self._unacknowledged > self._options.receive_maximum and self.writer.version == MQTT_5_0:
                raise ProtocolError(  # [MQTT5-3.3.4-7]
                    ReasonCode.RECEIVE_MAXIMUM_EXCEEDED, f"more than {self._options.receive_maximum} unacknowledged"
                )
        self._pending.append(packet)
        payload_bytes = len(packet.payload)
        self.received_payload_bytes += payload_bytes
        self._pending_bytes += len(packet.topic) + payload_bytes
        if packet.properties:
            self._pending_bytes += properties_size(packet.properties)
        ack_id = self._next
        self._next = ack_id + 1
        # events.publish(...), written out: a call with keyword arguments for each message. A cast would be one, too.
        event: PublishEvent = {
            "type": "mqtt.publish",
            "ack_id": ack_id,
            "topic": packet.topic,
            "payload": packet.payload,
            "qos": qos,
            "retain": packet.retain,
            "dup": packet.dup,
            "properties": packet.properties,
        }
        events.append(event)  # type: ignore[arg-type]

    def _without_alias(self, packet: Publish) -> Publish:
        properties = packet.properties
        if "subscription_identifier" in properties:  # [MQTT5-3.3.4-6]
            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "a client's PUBLISH has a subscription identifier")
        if "topic_alias" not in properties:
            return packet
        if self._aliases is None:
            self._aliases = InboundAliases(self._options.max_topic_aliases)
        topic = self._aliases.resolve(packet.topic, properties["topic_alias"])
        return Publish(
            topic=topic,
            payload=packet.payload,
            qos=packet.qos,
            retain=packet.retain,
            dup=packet.dup,
            packet_id=packet.packet_id,
            properties={name: value for name, value in properties.items() if name != "topic_alias"},
        )

    def _is_repeated(self, packet: Publish) -> bool:
        """Whether a QoS 2 PUBLISH has come before [MQTT5-4.3.3-10]: if it was answered it is answered again, in its
        turn; if the application still has it, the answer is on its way."""
        if self._receiving is None:
            self._receiving = set()
        packet_id = packet.packet_id
        if packet_id in self._receiving:
            return True
        if self._session.received is not None and packet_id in self._session.received:
            if self._pending:
                self._pending.append(Publish(topic="", qos=2, packet_id=packet_id))
                self._set_early(self._next, _DUPLICATE)
                self._next += 1
            else:
                self.writer.require_commit()
                self.writer.write(encode_success(PacketType.PUBREC, packet_id))
            return True
        self._receiving.add(packet_id)
        return False

    def on_pubrel(self, packet_id: int) -> None:
        """The client has the PUBREC, and the identifier is free."""
        code = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
        if self._session.release(packet_id):
            code = ReasonCode.SUCCESS
            self._unacknowledged = max(0, self._unacknowledged - 1)
            if self._session.journal is not None:  # else a new message of this identifier would be taken for the old
                self.writer.require_commit()
        self.writer.write(encode(PubComp(packet_id, code), self.writer.version))  # [MQTT5-4.3.3-11]

    # What the application acknowledges

    def ack(self, event: Event, now: float) -> bool:
        """Takes the `mqtt.ack` of a publish. Returns whether one waits for it."""
        ack_id = event["ack_id"]
        pending = self._pending
        if ack_id == self._head and pending:
            self._head = ack_id + 1
            self._release(pending.popleft(), event, now)
            if self._early:
                self._release_early(now)
            return True
        if self._head < ack_id < self._next and not (self._early and ack_id in self._early):
            self._set_early(ack_id, event)
            return True
        return False

    def _set_early(self, ack_id: int, event: Event) -> None:
        if self._early is None:
            self._early = {}
        self._early[ack_id] = event

    def _release_early(self, now: float) -> None:
        early, pending = self._early, self._pending
        assert early is not None
        while early and (event := early.pop(self._head, None)) is not None:
            self._head += 1
            self._release(pending.popleft(), event, now)

    def _release(self, packet: Publish, event: Event, now: float) -> None:
        """Routes the message of the oldest unanswered PUBLISH and answers it. The answer is made second, because what
        is recorded by the routing it has to wait for. A client that gets its own message still reads the answer first,
        as it does from Mosquitto: simple ones read nothing else while they wait."""
        self._pending_bytes -= len(packet.topic) + len(packet.payload)
        if packet.properties:
            self._pending_bytes -= properties_size(packet.properties)
        if packet.retain and packet.qos and self.writer.version == MQTT_5_0:
            event = self._to_retain(packet, event, now)
        code = event.get("reason_code", 0)
        qos = packet.qos
        if code and is_failure(code) and not self._may_answer(packet, event, code):
            self._refuse(code, event.get("reason_string") or "", packet.topic, now)
        elif qos == 1:
            self._answer_qos_1(packet, event, code, now)
        elif qos:
            self._answer_qos_2(packet, event, code, now)
        else:
            self._route(packet, event, code, now)

    def _to_retain(self, packet: Publish, event: Event, now: float) -> Event:
        """The acknowledgement of a message that is to be retained: a refusal, where it cannot be and its client can be
        told. That of another reaches the subscribers, at least."""
        if self.writer.is_closed or is_failure(event.get("reason_code", 0)) or not event.get("route", True):
            return event
        why = self._broker.refuses_to_retain(packet, self._session, now)
        return {**event, "reason_code": ReasonCode.QUOTA_EXCEEDED, "reason_string": why} if why else event

    def _may_answer(self, packet: Publish, event: Event, code: int) -> bool:
        """Whether a refused publish is answered, and not the connection ended: if the answer can say that it is
        refused, as that of MQTT 5 to QoS 1 and 2 can, or the application has said that it is to be dropped. Before
        MQTT 5 an answer is a yes [MQTT3-3.3.5-2], and a client may forget what it has a yes for."""
        drop = bool(event.get("drop"))
        if self.writer.tap is not None:
            text = event.get("reason_string") or ""
            self.writer.tap.refused("PUBLISH", code, f"{text} (dropped)".lstrip() if drop else text, packet.topic)
        if drop:
            self._broker.dropped["refused"] += 1
        return drop or (packet.qos > 0 and self.writer.version == MQTT_5_0)

    def _route(self, packet: Publish, event: Event, code: int, now: float) -> None:
        """Gives the message to its subscribers, unless it is refused or not to be routed."""
        if event.get("route", True) and not (code and is_failure(code)):
            self._broker.forward(packet, self._session, now)

    def _answer_qos_1(self, packet: Publish, event: Event, code: int, now: float) -> None:
        writer, journal = self.writer, self._broker.journal
        output, recorded = writer.output, 0 if journal is None else journal.recorded
        written = len(output)
        # _route, written out.
        is_routed = event.get("route", True) and not (code and is_failure(code))
        is_for_nobody = is_routed and not self._broker.forward(packet, self._session, now)
        if is_for_nobody and not code and event.get("no_subscribers") and writer.version == MQTT_5_0:
            code = ReasonCode.NO_MATCHING_SUBSCRIBERS
        if journal is not None and journal.recorded != recorded:
            writer.require_commit()
        self._unacknowledged -= 1
        if writer.is_closed:
            return
        if (
            (code and writer.version == MQTT_5_0)
            or "reason_string" in event
            or "properties" in event
            or writer.tap is not None
        ):
            writer.write_packet(PubAck(packet.packet_id, sendable(code, PacketType.PUBACK), writer.problem(event)))
        else:
            # encode_success(PUBACK, packet_id) and writer.write, written out: half of what an ack costs.
            if not output:
                writer.sink.flush_soon()
            output.append(b"@\x02" + packet.packet_id.to_bytes(2, "big"))
            writer.output_bytes += 4
        if len(output) - written > 1:
            output.insert(written, output.pop())

    def _answer_qos_2(self, packet: Publish, event: Event, code: int, now: float) -> None:
        if not self._take_over(packet, event, code):
            return
        writer = self.writer
        output, written = writer.output, len(writer.output)
        self._route(packet, event, code, now)
        writer.require_commit()
        if writer.is_closed:
            return
        writer.write_packet(PubRec(packet.packet_id, sendable(code, PacketType.PUBREC), writer.problem(event)))
        if len(output) - written > 1:
            output.insert(written, output.pop())

    def _take_over(self, packet: Publish, event: Event, code: int) -> bool:
        """Remembers a QoS 2 message. Returns whether it is this connection's to route: after the end, it is not if
        another connection has the session, because the client has sent it again there."""
        session = self._session
        if self._receiving is not None:
            self._receiving.discard(packet.packet_id)
        if self.writer.is_closed and session.connection is not None:
            return False
        if is_failure(code) and self.writer.version == MQTT_5_0:
            self._unacknowledged -= 1  # the identifier is free again [MQTT5-4.3.3-9]
        elif event is not _DUPLICATE:
            session.remember_received(packet.packet_id)
        return True
