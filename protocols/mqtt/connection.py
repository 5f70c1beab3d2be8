"""One MQTT connection, from CONNECT to its end: bytes and ASGI events in, bytes and ASGI events out.

No socket, task or clock: `now` is an argument, in seconds. The server calls `receive` with what the socket gave and
hands the returned events to the application; it calls `send` with each event of the application; it writes `output`
when asked to by the wire, and calls `check` about once a second. Invariants:

- a packet that the present state does not allow ends the connection (`_HANDLERS` is the table of what is allowed);
- PUBACK and PUBREC leave in the order of the PUBLISH packets [MQTT5-4.6.0-2] [MQTT5-4.6.0-3], and never before the
  application's acknowledgement; messages are routed in that order too;
- after the end (`end` is set) nothing is written any more, but acknowledgements of publishes that came before it still
  let the broker route them.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Final

from protocols.asgi import Event
from protocols.mqtt.auth_exchange import DATA, Turn
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.broker.owners import NOBODY
from protocols.mqtt.closing import NEVER, Closing
from protocols.mqtt.codec.decoder import Decoder, encode
from protocols.mqtt.codec.errors import MqttError, ProtocolError, UnsupportedProtocolVersionError
from protocols.mqtt.codec.packets import (
    MQTT_5_0,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    PacketType,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReasonCode,
    Subscribe,
    Unsubscribe,
)
from protocols.mqtt.codec.reason_codes import sendable
from protocols.mqtt.events import connect as connect_event
from protocols.mqtt.message import Message
from protocols.mqtt.negotiation import UNLIMITED, agree, check_connect, with_assigned_client_id
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.packet_writer import Wire
from protocols.mqtt.pending_requests import SubscribeReceiver
from protocols.mqtt.states import End, State
from protocols.mqtt.topic_aliases import OutboundAliases
from protocols.mqtt.trace import Tap, TracedDecoder, TracedDrops, TracedOutput
from protocols.mqtt.traffic import Counts

MAX_HELD_BYTES: Final = 256 * 1024
"""What a client may send before it is accepted."""
ANSWER_TIMEOUT_S: Final = 30.0
"""How long the application may take to accept or reject."""
PACKET_TIMEOUT_S: Final = 30.0
MIN_PACKET_BYTES_PER_S: Final = 500
"""How far a packet that has begun may fall behind, and behind what rate."""

_REFUSED: Final = frozenset(
    {
        0,
        PacketType.CONNECT,  # a second one [MQTT5-3.1.0-2] [MQTT3-3.1.0-2]
        PacketType.CONNACK,
        PacketType.SUBACK,
        PacketType.UNSUBACK,
        PacketType.PINGRESP,
        PacketType.AUTH,  # [MQTT5-4.12.0-7]
    }
)
"""What a client never sends, and once more."""
_PINGRESP: Final = b"\xd0\x00"


class Connection(Closing):
    """The server's side of one connection; it is the `Link` of its session."""

    __slots__ = ("_assigned", "_decoder", "_grace_s", "_part_due", "address", "name", "received_packets")

    def __init__(self, broker: Broker, options: MqttOptions, wire: Wire, *, now: float) -> None:
        super().__init__(broker, options, wire)
        self._decoder = Decoder(max_packet_bytes=options.max_packet_bytes)
        self.deadline = now + options.connect_timeout_s
        self._grace_s = 0.0
        """1.5 x keep alive, once the client is accepted; 0 for none: a CONNECT that dribbles in gets no more time."""
        self._part_due = NEVER
        """By when more must have come of a packet that is not complete."""
        self.received_packets = 0
        self.name = ""
        """What the application calls the client, for the log."""
        self._assigned = False
        self.address = NOBODY
        """Who has the session, unless the application says: the client's network address; nobody, if it has none."""

    # -- what the server asks ---------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Takes what the socket gave; returns events for the application, `mqtt.connect` the first of all."""
        events: list[Event] = []
        if self.state is not State.CONNECTED and self._waits():
            if self.state is State.AUTHORIZING:
                self._hold(data, now)
            return events
        if self._grace_s:
            self.deadline = now + self._grace_s
        if self._held:
            data, self._held = self._held + data, b""
        handlers = self._HANDLERS[self.state]
        packets = 0
        try:
            for packet in self._decoder.decode(data):
                packets += 1
                handler = handlers.get(type(packet))
                if handler is None:
                    raise ProtocolError(  # [MQTT5-3.1.0-2] [MQTT3-3.1.0-2]
                        ReasonCode.PROTOCOL_ERROR, f"{type(packet).__name__.upper()} is not allowed here"
                    )
                handler(self, packet, events, now)
                if self.state is not State.CONNECTED:
                    if self._waits():
                        break
                    handlers = self._HANDLERS[self.state]
        except MqttError as error:
            self._fail(error, now)
        self.received_packets += packets
        if self._decoder.has_part or self._part_due != NEVER:
            self._await_rest(len(data), now, is_new=packets > 0)
        return events

    def _waits(self) -> bool:
        """Whether no packet is looked at now. One that comes while the application looks at a client's proof is: only
        a DISCONNECT may [MQTT5-3.1.2-30]."""
        return self.state is State.CLOSED or (self.state is State.AUTHORIZING and self._method is None)

    def _await_rest(self, size: int, now: float, *, is_new: bool) -> None:
        """`size` bytes have come, and a packet is not complete; or one that was not now is. `is_new`: others were.

        A client may take its time with a packet, but not for ever, whatever its keep alive is: that speaks of packets,
        not of bytes [MQTT5-3.1.2-22].
        """
        if self.state is not State.CONNECTED:  # where the whole has its time
            return
        if not self._decoder.has_part:
            self._part_due = NEVER
            if not self._grace_s:
                self.deadline = NEVER
            return
        in_time = now + PACKET_TIMEOUT_S
        began = is_new or self._part_due == NEVER
        self._part_due = in_time if began else min(self._part_due + size / MIN_PACKET_BYTES_PER_S, in_time)
        self.deadline = min(now + (self._grace_s or NEVER), self._part_due)

    def check(self, now: float, *, reading: bool) -> None:
        """The deadline has passed. `reading` is False if it is we who did not read the socket."""
        if self.state is State.CONNECTING:
            self._finish(End(ReasonCode.MAXIMUM_CONNECT_TIME, "protocol_error", "no CONNECT packet in time"), now)
        elif self.state is State.AUTHENTICATING:
            self.close(ReasonCode.NOT_AUTHORIZED, "protocol_error", now, text="no AUTH packet in time")
        elif self.state is State.AUTHORIZING:
            self.close(ReasonCode.SERVER_UNAVAILABLE, "application", now, text="the application did not answer in time")
        elif self.state is State.CONNECTED and not reading:
            self._part_due = NEVER if self._part_due == NEVER else now + PACKET_TIMEOUT_S
            self.deadline = min(now + (self._grace_s or NEVER), self._part_due)
        elif self._part_due <= now:
            self.close(ReasonCode.KEEP_ALIVE_TIMEOUT, "keep_alive", now, text="a packet did not come on")
        else:  # [MQTT5-3.1.2-22] [MQTT3-3.1.2-24]
            self.close(ReasonCode.KEEP_ALIVE_TIMEOUT, "keep_alive", now, text="nothing came within 1.5 x keep alive")

    def resume_writing(self, now: float) -> None:
        """The socket drains again."""
        self.writable = True
        if self.session is not None and self.end is None:
            self.session.pump(now)

    def counts(self) -> Counts:
        """What has gone through it so far."""
        return Counts(
            self.received_packets,
            self.received_publishes,
            self.received_payload_bytes,
            self.sent_publishes,
            self.sent_payload_bytes,
        )

    def watch(self, tap: Tap | None) -> None:
        """Tells `tap` from now on what goes in and out and what is refused; with None, nobody."""
        if isinstance(self._decoder, TracedDecoder):
            self._decoder = self._decoder.plain()
        self.tap = tap
        self._dropped = self._broker.dropped
        if tap is not None:
            self._decoder = TracedDecoder(self._decoder, tap)
            self.output = TracedOutput(self.output, self.version, tap)
            self._dropped = TracedDrops(self._dropped, tap)
        elif isinstance(self.output, TracedOutput):
            self.output = list(self.output)
        if self.session is not None:
            self.session.dropped = self._dropped

    # -- the end ----------------------------------------------------------------------------------------------------

    def _fail(self, error: MqttError, now: float) -> None:
        """The one place where an error becomes a reason code [MQTT5-4.13.1-1] [MQTT3-4.8.0-1]."""
        if self.state is State.CONNECTING:
            if isinstance(error, UnsupportedProtocolVersionError):
                if error.answer:
                    self._write(error.answer)
            elif self._decoder.version == MQTT_5_0:  # [MQTT5-3.1.4-2]
                self.version = MQTT_5_0
                self._write_short(ConnAck(reason_code=sendable(error.reason_code, PacketType.CONNACK)))
            self._finish(End(error.reason_code, "protocol_error", error.text), now)
        else:
            self.close(error.reason_code, "protocol_error", now, text=error.text)

    # -- packets ----------------------------------------------------------------------------------------------------

    def _hold(self, data: bytes, now: float) -> None:
        self._held += data
        if len(self._held) > MAX_HELD_BYTES:
            self.close(ReasonCode.QUOTA_EXCEEDED, "protocol_error", now, text="too much before the CONNACK")

    def _received_connect(self, packet: Connect, events: list[Event], now: float) -> None:
        self.version = packet.version
        self._is_bridge = packet.bridge
        self.state = State.AUTHORIZING
        self._problem_information = bool(packet.properties.get("request_problem_information", 1))
        self._max_packet_bytes = packet.properties.get("maximum_packet_size", UNLIMITED)
        check_connect(packet)
        self._begin_authentication(packet)
        self._decoder.refused = _REFUSED if self._method is None else _REFUSED - {PacketType.AUTH}
        self.deadline = now + ANSWER_TIMEOUT_S
        self._assigned = not packet.client_id
        self.connect = with_assigned_client_id(packet) if self._assigned else packet
        events.append(
            connect_event(
                password=packet.password,
                allow_anonymous=self._options.allow_anonymous,
                authentication_method=self._method,
                authentication_data=packet.properties.get(DATA),
            )
        )

    def _received_auth(self, packet: Auth, events: list[Event], now: float) -> None:
        self.received_auth(packet, events, now)
        if self.state is State.AUTHENTICATING:
            self.state = State.AUTHORIZING
            self.deadline = now + ANSWER_TIMEOUT_S

    def _received_puback(self, packet: PubAck, events: list[Event], now: float) -> None:
        assert self.session is not None
        self.session.acknowledged(packet.packet_id, now)

    def _received_pubrec(self, packet: PubRec, events: list[Event], now: float) -> None:
        assert self.session is not None
        self.session.received_by_client(packet.packet_id, packet.reason_code, now)

    def _received_pubcomp(self, packet: PubComp, events: list[Event], now: float) -> None:
        assert self.session is not None
        self.session.completed(packet.packet_id, now)

    def _received_pingreq(self, packet: PingReq, events: list[Event], now: float) -> None:
        self._write(_PINGRESP)  # [MQTT5-3.12.4-1] [MQTT3-3.12.4-1]

    def _received_disconnect(self, packet: Disconnect, events: list[Event], now: float) -> None:
        expiry_s = packet.properties.get("session_expiry_interval")
        if expiry_s is not None and self.session is not None:
            if expiry_s and not self.session.persistent:  # [MQTT5-3.14.2.2.2]
                raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "the session was to end, and cannot be kept now")
            self.session.expiry_interval_s = min(expiry_s, self._options.max_session_expiry_s)
        end = End(packet.reason_code, "client", "", packet.properties)
        # [MQTT5-3.14.4-3] [MQTT3-3.1.2-10]
        self._finish(end, now, with_will=packet.reason_code != ReasonCode.SUCCESS)

    # -- events of the application ----------------------------------------------------------------------------------

    def send(self, event: Event, now: float) -> None:
        """Takes an event of the application. Raises ValueError, RuntimeError, for one that cannot be, or not now."""
        kind = event["type"]
        if kind == "mqtt.ack":
            self.ack(event, now)
            return
        if self.state is State.CLOSED:
            return
        handler = self._SENDERS.get(kind)
        if handler is None:
            raise ValueError(f"expected one of mqtt.ack, {', '.join(self._SENDERS)}; got {kind!r}")
        answers = kind in ("mqtt.accept", "mqtt.reject")
        if kind != "mqtt.auth" and answers != (self.session is None):
            raise RuntimeError(f"{kind} was sent {'after' if answers else 'before'} the answer to mqtt.connect")
        handler(self, event, now)

    def _send_accept(self, event: Event, now: float) -> None:
        connect = self.connect
        assert connect is not None
        # Properties that a CONNACK cannot have are the application's error, and nothing has happened yet.
        encode(ConnAck(properties=event.get("properties") or {}), MQTT_5_0)
        if self._turn is Turn.CLIENT:
            raise RuntimeError("mqtt.accept was sent while the client is asked for an AUTH packet")
        if event.get("authentication_method") != self._method:  # it does not know what the client wants
            self.close(
                ReasonCode.BAD_AUTHENTICATION_METHOD, "protocol_error", now, text="no such authentication method here"
            )
            return
        self._turn = Turn.NOBODY
        try:
            recorded = self._recorded()
            terms = agree(connect, event, self._options, assigned=self._assigned)
            session, present = self._broker.attach(
                self,
                terms.client_id,
                clean_start=connect.clean_start,
                expiry_interval_s=terms.session_expiry_s,
                options=self._options,
                now=now,
                will=terms.will,
                owner=event.get("owner") or self.address,
            )
        except MqttError as error:
            self.close(error.reason_code, "protocol_error", now, text=error.text)
            return
        self.connect = None
        self.name = event.get("name", "")
        self.session = session
        self.state = State.CONNECTED
        self._will = terms.will
        if self.tap is not None and connect.will is not None and terms.will is None:
            self.tap.refused("CONNECT", ReasonCode.NOT_AUTHORIZED, "the will does not count", connect.will.topic)
        self._maximum_qos = terms.maximum_qos
        self._max_packet_bytes = terms.max_packet_bytes
        self.send_maximum = terms.send_maximum
        if terms.outbound_aliases:
            self._aliases_out = OutboundAliases(terms.outbound_aliases)
        self._grace_s = 1.5 * terms.keep_alive_s
        self.deadline = now + self._grace_s if self._grace_s else NEVER
        # [MQTT5-3.2.0-1] [MQTT5-3.2.2-2] [MQTT5-3.2.2-3]
        if session.journal is not None or self._recorded() != recorded:
            self.require_commit()  # that the session is kept, or the one of before is gone
        properties = {**terms.connack, **self._proof(event.get("authentication_data"))}
        if not self._write_short(ConnAck(session_present=present, properties=properties)):
            self._finish(End(ReasonCode.PACKET_TOO_LARGE, "protocol_error", "the client takes no CONNACK"), now)
            return
        session.resume(now)

    def _send_authentication(self, event: Event, now: float) -> None:
        self._send_auth(event)
        if self.session is None:
            self.state = State.AUTHENTICATING
            self.deadline = now + self._options.connect_timeout_s

    def _send_publish(self, event: Event, now: float) -> None:
        assert self.session is not None
        message = Message.checked(
            event["topic"],
            event["payload"],
            event.get("qos", 0),
            event.get("retain", False),
            event.get("properties"),
            now=now,
        )
        self.session.deliver(message, message.qos, message.retain, (), now)

    _HANDLERS: ClassVar[dict[State, dict[type, Callable[["Connection", Any, list[Event], float], None]]]] = {
        State.CONNECTING: {Connect: _received_connect},
        State.AUTHORIZING: {Disconnect: _received_disconnect},
        State.AUTHENTICATING: {Auth: _received_auth, Disconnect: _received_disconnect},
        State.CONNECTED: {
            Publish: SubscribeReceiver.received_publish,
            PubAck: _received_puback,
            PubRec: _received_pubrec,
            PubRel: SubscribeReceiver.received_pubrel,
            PubComp: _received_pubcomp,
            Subscribe: SubscribeReceiver.received_subscribe,
            Unsubscribe: SubscribeReceiver.received_unsubscribe,
            PingReq: _received_pingreq,
            Auth: _received_auth,
            Disconnect: _received_disconnect,
        },
    }
    """Which packets each state allows, of those that the decoder does not refuse."""

    _SENDERS: ClassVar[dict[str, Callable[["Connection", Event, float], None]]] = {
        "mqtt.accept": _send_accept,
        "mqtt.reject": Closing.send_reject,
        "mqtt.auth": _send_authentication,
        "mqtt.publish": _send_publish,
        "mqtt.close": Closing.send_close,
    }
