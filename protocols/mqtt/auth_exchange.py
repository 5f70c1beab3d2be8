"""Enhanced authentication: AUTH packets of client and application, before the CONNACK and again later [MQTT5-4.12].

The application does not see the packets, and the client does not see the events: the method of the CONNECT goes with
every answer [MQTT5-4.12.0-5], and whose turn it is, is kept in mind here.
"""

from enum import Enum, auto

from protocols.asgi import Event
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.codec.errors import ProtocolError
from protocols.mqtt.codec.packets import Auth, Connect, Properties, ReasonCode
from protocols.mqtt.events import auth as auth_event
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.packet_writer import Wire
from protocols.mqtt.pending_requests import SubscribeReceiver

METHOD, DATA = "authentication_method", "authentication_data"


class Turn(Enum):
    """Who is to send the next AUTH of an exchange."""

    NOBODY = auto()
    """No exchange is under way."""
    CLIENT = auto()
    APPLICATION = auto()


class AuthenticationReceiver(SubscribeReceiver):
    """The AUTH packets of a client, besides what it subscribes to and publishes."""

    __slots__ = ("_method", "_turn")

    def __init__(self, broker: Broker, options: MqttOptions, wire: Wire) -> None:
        super().__init__(broker, options, wire)
        self._method: str | None = None
        """That of the CONNECT; without one there is no AUTH packet [MQTT5-4.12.0-6] [MQTT5-4.12.0-7]."""
        self._turn = Turn.NOBODY

    def _begin_authentication(self, packet: Connect) -> None:
        self._method = packet.properties.get(METHOD)
        if self._method is not None:
            self._turn = Turn.APPLICATION

    def received_auth(self, packet: Auth, events: list[Event], now: float) -> None:
        """Takes an AUTH; adds the event to `events`. Raises ProtocolError."""
        if packet.properties.get(METHOD) != self._method:  # [MQTT5-4.12.0-5] [MQTT5-4.12.1-1]
            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "AUTH has another authentication method than CONNECT")
        again = packet.reason_code == ReasonCode.REAUTHENTICATE
        if again:
            allowed = self.session is not None and self._turn is Turn.NOBODY
        else:  # [MQTT5-4.12.0-3]
            allowed = packet.reason_code == ReasonCode.CONTINUE_AUTHENTICATION and self._turn is Turn.CLIENT
        if not allowed:
            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, f"AUTH {packet.reason_code:#04x} is not allowed here")
        self._turn = Turn.APPLICATION
        events.append(
            auth_event(
                reauthenticate=again,
                data=packet.properties.get(DATA),
                properties={name: value for name, value in packet.properties.items() if name not in (METHOD, DATA)},
            )
        )

    def _send_auth(self, event: Event) -> None:
        """Sends the AUTH of an `mqtt.auth`. Raises RuntimeError if it is not the application's turn, ValueError for
        another code than "continue", or, once connected, "success"."""
        if self._turn is not Turn.APPLICATION:
            raise RuntimeError("mqtt.auth was sent while the client is not waiting for it")
        code = event.get("reason_code", ReasonCode.CONTINUE_AUTHENTICATION)
        done = code == ReasonCode.SUCCESS and self.session is not None
        if code != ReasonCode.CONTINUE_AUTHENTICATION and not done:
            raise ValueError(f"mqtt.auth: a reason_code of {code:#04x}; success before the CONNACK is mqtt.accept")
        properties = {**self._problem(event), **self._proof(event.get("data"))}
        self._write_short(Auth(reason_code=code, properties=properties))
        self._turn = Turn.NOBODY if done else Turn.CLIENT

    def _proof(self, data: bytes | None) -> Properties:
        """What a CONNACK or AUTH has besides [MQTT5-4.12.0-5]; nothing for a client that authenticates otherwise."""
        if self._method is None:
            return {}
        return {METHOD: self._method} if data is None else {METHOD: self._method, DATA: data}
