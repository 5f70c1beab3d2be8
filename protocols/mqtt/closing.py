"""How a connection ends, whoever wants it to, and what becomes of its will."""

from typing import Final

from protocols.asgi import Event
from protocols.mqtt.auth_exchange import AuthenticationReceiver
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.codec.packets import (
    MQTT_5_0,
    ConnAck,
    Connect,
    Disconnect,
    PacketType,
    Properties,
    ReasonCode,
    Will,
)
from protocols.mqtt.codec.reason_codes import is_failure, sendable
from protocols.mqtt.message import Message
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.packet_writer import Wire
from protocols.mqtt.states import End, State
from protocols.mqtt.trace import Tap

NEVER: Final = float("inf")


class Closing(AuthenticationReceiver):
    """The state of a connection, and the ways out of it."""

    __slots__ = ("_held", "_will", "connect", "deadline", "end", "state")

    def __init__(self, broker: Broker, options: MqttOptions, wire: Wire) -> None:
        super().__init__(broker, options, wire)
        self.state = State.CONNECTING
        self.connect: Connect | None = None
        """The CONNECT, until the application has answered it."""
        self.end: End | None = None
        self.deadline = NEVER
        """When `check` is to be called."""
        self._held = b""
        self._will: Will | None = None

    def watch(self, tap: Tap | None) -> None:
        """Tells `tap` from now on what goes in and out and what is refused; with None, nobody."""
        raise NotImplementedError

    # -- what the server asks ---------------------------------------------------------------------------------------

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

    # -- the end ----------------------------------------------------------------------------------------------------

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
            self._write_short(ConnAck(reason_code=code, properties=said))  # [MQTT5-3.1.4-6]
        elif self.state is State.CONNECTED and self.version == MQTT_5_0:
            code = sendable(reason_code, PacketType.DISCONNECT)
            self._write_short(Disconnect(reason_code=code, properties=said))  # [MQTT5-3.14.0-1]
        self._finish(End(reason_code, reason, log_text or text, fault=fault), now, with_will=with_will)

    def _refuse(self, reason_code: int, text: str, topic: str, now: float) -> None:
        log_text = f"refused a publish to {topic!r}: {text}".removesuffix(": ")
        self.close(reason_code, "application", now, text=text, log_text=log_text, fault=True)

    def _finish(self, end: End, now: float, *, with_will: bool = True) -> None:
        if self.end is not None:
            return
        self.end = end
        self.state = State.CLOSED
        self._closed = True
        self.deadline = NEVER
        self.connect = None
        self._held = b""
        # What came before a DISCONNECT is carried out, as a PUBLISH is.
        self._forget_answers(
            but_of_packets=end.reason == "client" and self.session is not None and self.session.persistent
        )
        self._wire.flush_soon()
        if self.session is not None:
            self._broker.detach(self.session, self._will if with_will else None, now)
        self._will = None
        if self.tap is not None:
            self.tap.tell("closed", "", f"{end.reason} {end.reason_code:#04x} {end.text}".rstrip())
            self.watch(None)

    # -- events of the application ----------------------------------------------------------------------------------

    def send_reject(self, event: Event, now: float) -> None:
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

    def send_close(self, event: Event, now: float) -> None:
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
