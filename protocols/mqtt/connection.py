"""One MQTT connection, from CONNECT to its end: bytes and ASGI events in, bytes and ASGI events out.

No socket, task or clock: `now` is an argument, in seconds. The server calls `receive` with what the socket gave and
hands the returned events to the application; it calls `send` with each event of the application; it writes the output
of `writer` when its sink is asked to, and calls `check` about once a second. Invariants:

- a packet that the present state does not allow ends the connection (`_HANDLERS` is the table of what is allowed);
- PUBACK and PUBREC leave in the order of the PUBLISH packets [MQTT5-4.6.0-2] [MQTT5-4.6.0-3], and never before the
  application's acknowledgement; messages are routed in that order too;
- after the end (`end` is set) nothing is written any more, but acknowledgements of publishes that came before it still
  let the broker route them.

Longer than most files: which packet each state allows, and every way out of a state, are to be read together.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, ClassVar, Final, NamedTuple

from protocols.asgi import Event
from protocols.mqtt import events as mqtt_events
from protocols.mqtt.auth_exchange import DATA, METHOD, AuthExchange, Turn
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.broker.owners import NOBODY
from protocols.mqtt.broker.session import Session
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
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReasonCode,
    Subscribe,
    Unsubscribe,
    Will,
)
from protocols.mqtt.codec.reason_codes import is_failure, sendable
from protocols.mqtt.inbound_publishes import InboundPublishes
from protocols.mqtt.message import Message
from protocols.mqtt.negotiation import UNLIMITED, agree, check_connect, with_assigned_client_id
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.packet_writer import OutputSink, PacketWriter
from protocols.mqtt.pending_requests import PendingRequests
from protocols.mqtt.statistics import ConnectionCounts
from protocols.mqtt.topic_aliases import OutboundAliases
from protocols.mqtt.trace import Tap, TracedDecoder

NEVER: Final = float("inf")

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


class State(Enum):
    """What a connection waits for."""

    __hash__ = object.__hash__  # a member equals only itself; that of Enum is a call in Python for every read

    CONNECTING = auto()
    """The CONNECT packet."""
    AUTHORIZING = auto()
    """`mqtt.accept` or `mqtt.reject`."""
    AUTHENTICATING = auto()
    """The client's next AUTH packet, before it is accepted."""
    CONNECTED = auto()
    """Anything: it is in use."""
    CLOSED = auto()
    """Nothing more."""


class End(NamedTuple):
    """How a connection ended. `reason` is that of `mqtt.disconnect`; `text` is for a log, and a warning if by `fault`
    of the client."""

    reason_code: int
    reason: str
    text: str = ""
    properties: Properties = {}
    fault: bool = False

    def event(self) -> Event:
        """The `mqtt.disconnect` event."""
        return mqtt_events.disconnect(reason_code=self.reason_code, reason=self.reason, properties=self.properties)


class Connection:
    """The server's side of one connection. Its parts are made when the first packet comes that is theirs: of most
    clients that are connected, few are in use."""

    __slots__ = (
        "_assigned",
        "_broker",
        "_decoder",
        "_grace_s",
        "_held",
        "_is_bridge",
        "_maximum_qos",
        "_options",
        "_packet_due",
        "_will",
        "address",
        "auth",
        "connect",
        "deadline",
        "end",
        "name",
        "publishes",
        "received_packets",
        "requests",
        "session",
        "state",
        "unknown_acks",
        "writer",
    )

    def __init__(self, broker: Broker, options: MqttOptions, sink: OutputSink, *, now: float) -> None:
        self._broker = broker
        self._options = options
        self._decoder = Decoder(max_packet_bytes=options.max_packet_bytes)
        self.writer = PacketWriter(sink, broker.dropped, broker.journal)
        self.publishes: InboundPublishes | None = None
        self.requests: PendingRequests | None = None
        self.auth: AuthExchange | None = None
        """Only of a client that has named a method: without one there is no AUTH packet [MQTT5-4.12.0-6]
        [MQTT5-4.12.0-7]."""
        self.state = State.CONNECTING
        self.connect: Connect | None = None
        """The CONNECT, until the application has answered it."""
        self.session: Session | None = None
        self.end: End | None = None
        self.deadline = now + options.connect_timeout_s
        """When `check` is to be called."""
        self._grace_s = 0.0
        """1.5 x keep alive, once the client is accepted; 0 for none: a CONNECT that dribbles in gets no more time."""
        self._packet_due = NEVER
        """By when more must have come of a packet that is not complete."""
        self._held = b""
        self._maximum_qos = 2
        self._is_bridge = False
        self._assigned = False
        self._will: Will | None = None
        self.received_packets = 0
        self.unknown_acks = 0
        self.name = ""
        """What the application calls the client, for the log."""
        self.address = NOBODY
        """Who has the session, unless the application says: the client's network address; nobody, if it has none."""

    # What the server asks

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
                if type(packet) is Publish and self.publishes is not None:  # there since the first one
                    self.publishes.receive(packet, events)
                else:
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
        if self._decoder.has_part or self._packet_due != NEVER:
            self._await_rest(len(data), now, is_new=packets > 0)
        return events

    def _waits(self) -> bool:
        """Whether no packet is looked at now. One that comes while the application looks at a client's proof is: only
        a DISCONNECT may [MQTT5-3.1.2-30]."""
        return self.state is State.CLOSED or (self.state is State.AUTHORIZING and self.auth is None)

    def _await_rest(self, size: int, now: float, *, is_new: bool) -> None:
        """`size` bytes have come, and a packet is not complete; or one that was not now is. `is_new`: others were.

        A client may take its time with a packet, but not for ever, whatever its keep alive is: that speaks of packets,
        not of bytes [MQTT5-3.1.2-22].
        """
        if self.state is not State.CONNECTED:  # where the whole has its time
            return
        if not self._decoder.has_part:
            self._packet_due = NEVER
            if not self._grace_s:
                self.deadline = NEVER
            return
        in_time = now + PACKET_TIMEOUT_S
        began = is_new or self._packet_due == NEVER
        self._packet_due = in_time if began else min(self._packet_due + size / MIN_PACKET_BYTES_PER_S, in_time)
        self.deadline = min(now + (self._grace_s or NEVER), self._packet_due)

    def check(self, now: float, *, reading: bool) -> None:
        """The deadline has passed. `reading` is False if it is we who did not read the socket."""
        if self.state is State.CONNECTING:
            self._finish(End(ReasonCode.MAXIMUM_CONNECT_TIME, "protocol_error", "no CONNECT packet in time"), now)
        elif self.state is State.AUTHENTICATING:
            self.close(ReasonCode.NOT_AUTHORIZED, "protocol_error", now, text="no AUTH packet in time")
        elif self.state is State.AUTHORIZING:
            self.close(ReasonCode.SERVER_UNAVAILABLE, "application", now, text="the application did not answer in time")
        elif self.state is State.CONNECTED and not reading:
            self._packet_due = NEVER if self._packet_due == NEVER else now + PACKET_TIMEOUT_S
            self.deadline = min(now + (self._grace_s or NEVER), self._packet_due)
        elif self._packet_due <= now:
            self.close(ReasonCode.KEEP_ALIVE_TIMEOUT, "keep_alive", now, text="a packet did not come on")
        else:  # [MQTT5-3.1.2-22] [MQTT3-3.1.2-24]
            self.close(ReasonCode.KEEP_ALIVE_TIMEOUT, "keep_alive", now, text="nothing came within 1.5 x keep alive")

    def resume_writing(self, now: float) -> None:
        """The socket drains again."""
        self.writer.writable = True
        if self.session is not None and self.end is None:
            self.session.outbox.pump(now)

    @property
    def received_publishes(self) -> int:
        """How many publishes have been given to the application."""
        return 0 if self.publishes is None else self.publishes.received

    @property
    def unanswered(self) -> bool:
        """Whether the client waits for the answer to a publish."""
        return self.publishes is not None and self.publishes.unanswered

    @property
    def congested(self) -> bool:
        """Whether so much waits for the application that the socket should not be read."""
        publishes, requests = self.publishes, self.requests
        return (publishes is not None and publishes.congested) or (requests is not None and requests.congested)

    def counts(self) -> ConnectionCounts:
        """What has gone through it so far."""
        return ConnectionCounts(
            self.received_packets,
            self.received_publishes,
            0 if self.publishes is None else self.publishes.received_payload_bytes,
            self.writer.sent_publishes,
            self.writer.sent_payload_bytes,
        )

    def watch(self, tap: Tap | None) -> None:
        """Tells `tap` from now on what goes in and out and what is refused; with None, nobody."""
        if isinstance(self._decoder, TracedDecoder):
            self._decoder = self._decoder.plain()
        if tap is not None:
            self._decoder = TracedDecoder(self._decoder, tap)
        self.writer = self.writer.traced(tap)
        for part in (self.publishes, self.requests, self.auth):
            if part is not None:
                part.writer = self.writer
        if self.session is not None and self.session.connection is self:
            self.session.outbox.link = self.writer

    def lost(self, now: float) -> None:
        """The transport is gone."""
        self._finish(End(ReasonCode.UNSPECIFIED_ERROR, "lost", "the connection was lost"), now)

    def shut_down(self, now: float) -> None:
        """The server stops [MQTT5-4.13.2]."""
        self.close(ReasonCode.SERVER_SHUTTING_DOWN, "shutdown", now, text="the server shuts down")

    def application_ended(self, now: float, *, failed: bool) -> None:
        """The application has returned, or raised, before it was told of a disconnect."""
        code = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        if self.session is None:
            code = ReasonCode.SERVER_UNAVAILABLE
        self.close(code, "application", now, text="the application failed" if failed else "the application returned")

    def publish_will(self, now: float) -> None:
        """Publishes the will before the connection ends: the server stops, and its subscribers with it. A will that
        has a delay, in a session that outlives the process, waits for the next one."""
        will, session = self._will, self.session
        if will is None or session is None:
            return
        if session.journal is None or not will.properties.get("will_delay_interval"):
            self._will = None
            message = Message(will.topic, will.payload, will.qos, will.retain, will.properties, now=now)
            self._broker.route(message, session, now)

    # The end

    def _fail(self, error: MqttError, now: float) -> None:
        """The one place where an error becomes a reason code [MQTT5-4.13.1-1] [MQTT3-4.8.0-1]."""
        if self.state is State.CONNECTING:
            if isinstance(error, UnsupportedProtocolVersionError):
                if error.answer:
                    self.writer.write(error.answer)
            elif self._decoder.version == MQTT_5_0:  # [MQTT5-3.1.4-2]
                self.writer.version = MQTT_5_0
                self.writer.write_packet(ConnAck(reason_code=sendable(error.reason_code, PacketType.CONNACK)))
            self._finish(End(error.reason_code, "protocol_error", error.text), now)
        else:
            self.close(error.reason_code, "protocol_error", now, text=error.text)

    def take_over(self, now: float) -> None:
        """Another connection has the client identifier [MQTT5-3.1.4-3]."""
        self.close(ReasonCode.SESSION_TAKEN_OVER, "taken_over", now, text="another connection took the session over")

    def cut_off(self, reason: str, text: str, now: float) -> None:
        """The session is forgotten, for good."""
        self.close(ReasonCode.NOT_AUTHORIZED, reason, now, text=text, with_will=False)

    def close(
        self,
        reason_code: int,
        reason: str,
        now: float,
        *,
        text: str = "",
        log_text: str = "",
        properties: Properties | None = None,
        with_will: bool = True,
        fault: bool = False,
    ) -> None:
        """Ends the connection, telling the client why as far as its version can be told [MQTT5-4.13.2].

        `text` is for the client, and for the log and the trace too unless they have a `log_text` of their own.
        `with_will`: whether its will is published, now or after its delay; not if the client may publish no more.
        `fault`: whether the client has done what it must not; see `End`.
        """
        if self.state is State.CLOSED:
            return
        said = dict(properties or {})
        if text:
            said.setdefault("reason_string", text)
        if self.state in (State.AUTHORIZING, State.AUTHENTICATING):
            code = sendable(reason_code, PacketType.CONNACK)
            self.writer.write_packet(ConnAck(reason_code=code, properties=said))  # [MQTT5-3.1.4-6]
        elif self.state is State.CONNECTED and self.writer.version == MQTT_5_0:
            code = sendable(reason_code, PacketType.DISCONNECT)
            self.writer.write_packet(Disconnect(reason_code=code, properties=said))  # [MQTT5-3.14.0-1]
        self._finish(End(reason_code, reason, log_text or text, fault=fault), now, with_will=with_will)

    def _refuse_publish(self, reason_code: int, text: str, topic: str, now: float) -> None:
        log_text = f"refused a publish to {topic!r}: {text}".removesuffix(": ")
        self.close(reason_code, "application", now, text=text, log_text=log_text, fault=True)

    def _finish(self, end: End, now: float, *, with_will: bool = True) -> None:
        if self.end is not None:
            return
        self.end = end
        self.state = State.CLOSED
        self.writer.is_closed = True
        self.deadline = NEVER
        self.connect = None
        self._held = b""
        # What came before a DISCONNECT is carried out, as a PUBLISH is.
        if self.requests is not None:
            self.requests.connection_ended(
                keep_requests=end.reason == "client" and self.session is not None and self.session.persistent
            )
        self.writer.sink.flush_soon()
        if self.session is not None:
            self._broker.detach(self.session, self._will if with_will else None, now)
        self._will = None
        if self.writer.tap is not None:
            self.writer.tap.tell("closed", "", f"{end.reason} {end.reason_code:#04x} {end.text}".rstrip())
            self.watch(None)

    # Packets

    def _hold(self, data: bytes, now: float) -> None:
        self._held += data
        if len(self._held) > MAX_HELD_BYTES:
            self.close(ReasonCode.QUOTA_EXCEEDED, "protocol_error", now, text="too much before the CONNACK")

    def _on_connect(self, packet: Connect, events: list[Event], now: float) -> None:
        writer, properties = self.writer, packet.properties
        writer.version = packet.version
        self._is_bridge = packet.bridge
        self.state = State.AUTHORIZING
        writer.problem_information = bool(properties.get("request_problem_information", 1))
        writer.max_packet_bytes = properties.get("maximum_packet_size", UNLIMITED)
        check_connect(packet)
        method = properties.get(METHOD)
        if method is not None:
            self.auth = AuthExchange(method, writer)
        self._decoder.refused = _REFUSED if method is None else _REFUSED - {PacketType.AUTH}
        self.deadline = now + ANSWER_TIMEOUT_S
        self._assigned = not packet.client_id
        self.connect = with_assigned_client_id(packet) if self._assigned else packet
        events.append(
            mqtt_events.connect(
                password=packet.password,
                allow_anonymous=self._options.allow_anonymous,
                authentication_method=method,
                authentication_data=properties.get(DATA),
            )
        )

    def _on_auth(self, packet: Auth, events: list[Event], now: float) -> None:
        assert self.auth is not None  # else the decoder refuses the packet
        events.append(self.auth.receive(packet, is_accepted=self.session is not None))
        if self.state is State.AUTHENTICATING:
            self.state = State.AUTHORIZING
            self.deadline = now + ANSWER_TIMEOUT_S

    def _on_publish(self, packet: Publish, events: list[Event], now: float) -> None:
        self._inbound_publishes().receive(packet, events)

    def _on_pubrel(self, packet: PubRel, events: list[Event], now: float) -> None:
        self._inbound_publishes().on_pubrel(packet.packet_id)

    def _inbound_publishes(self) -> InboundPublishes:
        if self.publishes is None:
            assert self.session is not None
            self.publishes = InboundPublishes(
                self._broker,
                self._options,
                self.session,
                self.writer,
                maximum_qos=self._maximum_qos,
                refuse=self._refuse_publish,
            )
        return self.publishes

    def _on_puback(self, packet: PubAck, events: list[Event], now: float) -> None:
        assert self.session is not None
        self.session.outbox.on_puback(packet.packet_id, now, packet.reason_code)

    def _on_pubrec(self, packet: PubRec, events: list[Event], now: float) -> None:
        assert self.session is not None
        self.session.outbox.on_pubrec(packet.packet_id, packet.reason_code, now)

    def _on_pubcomp(self, packet: PubComp, events: list[Event], now: float) -> None:
        assert self.session is not None
        self.session.outbox.on_pubcomp(packet.packet_id, now)

    def _on_subscribe(self, packet: Subscribe, events: list[Event], now: float) -> None:
        self._pending_requests().subscribe(packet, events)

    def _on_unsubscribe(self, packet: Unsubscribe, events: list[Event], now: float) -> None:
        self._pending_requests().unsubscribe(packet, events)

    def _pending_requests(self) -> PendingRequests:
        if self.requests is None:
            assert self.session is not None
            self.requests = PendingRequests(
                self._broker,
                self._options,
                self.session,
                self.writer,
                maximum_qos=self._maximum_qos,
                is_bridge=self._is_bridge,
            )
        return self.requests

    def _on_pingreq(self, packet: PingReq, events: list[Event], now: float) -> None:
        self.writer.write(_PINGRESP)  # [MQTT5-3.12.4-1] [MQTT3-3.12.4-1]

    def _on_disconnect(self, packet: Disconnect, events: list[Event], now: float) -> None:
        expiry_s = packet.properties.get("session_expiry_interval")
        if expiry_s is not None and self.session is not None:
            if expiry_s and not self.session.persistent:  # [MQTT5-3.14.2.2.2]
                raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "the session was to end, and cannot be kept now")
            self.session.expiry_interval_s = min(expiry_s, self._options.max_session_expiry_s)
        end = End(packet.reason_code, "client", "", packet.properties)
        # [MQTT5-3.14.4-3] [MQTT3-3.1.2-10]
        self._finish(end, now, with_will=packet.reason_code != ReasonCode.SUCCESS)

    # Events of the application

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

    def ack(self, event: Event, now: float) -> None:
        """Takes an `mqtt.ack`. Raises KeyError if it has no ack_id, ValueError for one that does not say enough."""
        part = self.publishes if event["ack_id"] > 0 else self.requests
        if part is not None:
            if not part.ack(event, now):
                self.unknown_acks += 1
        elif self.end is None or event["ack_id"] > 0:
            self.unknown_acks += 1

    def _recorded(self) -> int:
        journal = self._broker.journal
        return 0 if journal is None else journal.recorded

    def _send_accept(self, event: Event, now: float) -> None:
        connect = self.connect
        assert connect is not None
        # Properties that a CONNACK cannot have are the application's error, and nothing has happened yet.
        encode(ConnAck(properties=event.get("properties") or {}), MQTT_5_0)
        auth = self.auth
        if auth is not None and auth.turn is Turn.CLIENT:
            raise RuntimeError("mqtt.accept was sent while the client is asked for an AUTH packet")
        if event.get("authentication_method") != (auth and auth.method):  # it does not know what the client wants
            self.close(
                ReasonCode.BAD_AUTHENTICATION_METHOD, "protocol_error", now, text="no such authentication method here"
            )
            return
        if auth is not None:
            auth.turn = Turn.NOBODY
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
        if self.writer.tap is not None and connect.will is not None and terms.will is None:
            self.writer.tap.refused("CONNECT", ReasonCode.NOT_AUTHORIZED, "the will does not count", connect.will.topic)
        self._maximum_qos = terms.maximum_qos
        self.writer.max_packet_bytes = terms.max_packet_bytes
        self.writer.send_maximum = terms.send_maximum
        if terms.outbound_aliases:
            self.writer.aliases = OutboundAliases(terms.outbound_aliases)
        self._grace_s = 1.5 * terms.keep_alive_s
        self.deadline = now + self._grace_s if self._grace_s else NEVER
        # [MQTT5-3.2.0-1] [MQTT5-3.2.2-2] [MQTT5-3.2.2-3]
        if session.journal is not None or self._recorded() != recorded:
            self.writer.require_commit()  # that the session is kept, or the one of before is gone
        properties = {**terms.connack, **(auth.proof(event.get("authentication_data")) if auth is not None else {})}
        if not self.writer.write_packet(ConnAck(session_present=present, properties=properties)):
            self._finish(End(ReasonCode.PACKET_TOO_LARGE, "protocol_error", "the client takes no CONNACK"), now)
            return
        if event.get("report_subscriptions") and session.subscriptions:
            granted = {topic_filter: one.qos for topic_filter, one in session.subscriptions.items()}
            self.writer.sink.ask(mqtt_events.subscriptions(granted=granted))
        session.outbox.resume(now)

    def _send_auth(self, event: Event, now: float) -> None:
        if self.auth is None:
            raise RuntimeError("mqtt.auth was sent while the client is not waiting for it: it has named no method")
        self.auth.send(event, is_accepted=self.session is not None)
        if self.session is None:
            self.state = State.AUTHENTICATING
            self.deadline = now + self._options.connect_timeout_s

    def _send_publish(self, event: Event, now: float) -> None:
        assert self.session is not None
        delivery_id = event.get("delivery_id")
        if delivery_id is not None and not event.get("qos"):
            raise ValueError("mqtt.publish: nobody acknowledges QoS 0, so it has no delivery_id")
        message = Message.checked(
            event["topic"],
            event["payload"],
            event.get("qos", 0),
            event.get("retain", False),
            event.get("properties"),
            now=now,
        )
        self.session.outbox.deliver(message, message.qos, message.retain, (), now, delivery_id=delivery_id)

    def _send_reject(self, event: Event, now: float) -> None:
        """Takes an `mqtt.reject`. Raises ValueError for a reason code that is none of a failure."""
        code = event.get("reason_code", ReasonCode.NOT_AUTHORIZED)
        if not is_failure(code):
            raise ValueError(f"mqtt.reject: expected a reason_code of 0x80 or more, got {code:#04x}")
        self.close(
            code,
            "application",
            now,
            text=event.get("reason_string", ""),
            log_text=event.get("log_reason", ""),
            properties=event.get("properties"),
        )

    def _send_close(self, event: Event, now: float) -> None:
        """Takes an `mqtt.close`."""
        self.close(
            event.get("reason_code", ReasonCode.ADMINISTRATIVE_ACTION),
            "application",
            now,
            text=event.get("reason_string", ""),
            log_text=event.get("log_reason", ""),
            properties=event.get("properties"),
            with_will=event.get("will", True),
        )

    _HANDLERS: ClassVar[dict[State, dict[type, Callable[["Connection", Any, list[Event], float], None]]]] = {
        State.CONNECTING: {Connect: _on_connect},
        State.AUTHORIZING: {Disconnect: _on_disconnect},
        State.AUTHENTICATING: {Auth: _on_auth, Disconnect: _on_disconnect},
        State.CONNECTED: {
            Publish: _on_publish,
            PubAck: _on_puback,
            PubRec: _on_pubrec,
            PubRel: _on_pubrel,
            PubComp: _on_pubcomp,
            Subscribe: _on_subscribe,
            Unsubscribe: _on_unsubscribe,
            PingReq: _on_pingreq,
            Auth: _on_auth,
            Disconnect: _on_disconnect,
        },
    }
    """Which packets each state allows, of those that the decoder does not refuse."""

    _SENDERS: ClassVar[dict[str, Callable[["Connection", Event, float], None]]] = {
        "mqtt.accept": _send_accept,
        "mqtt.reject": _send_reject,
        "mqtt.auth": _send_auth,
        "mqtt.publish": _send_publish,
        "mqtt.close": _send_close,
    }
