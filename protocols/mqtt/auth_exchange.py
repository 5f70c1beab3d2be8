"""Enhanced authentication: AUTH packets of client and application, before the CONNACK and again later [MQTT5-4.12].

The application does not see the packets, and the client does not see the events: the method of the CONNECT goes with
every answer [MQTT5-4.12.0-5], and whose turn it is, is kept in mind here.
"""

from enum import Enum, auto
from typing import Final

from protocols.asgi import Event
from protocols.mqtt.codec.errors import ProtocolError
from protocols.mqtt.codec.packets import Auth, Properties, ReasonCode
from protocols.mqtt.events import auth as auth_event
from protocols.mqtt.packet_writer import PacketWriter

METHOD: Final = "authentication_method"
DATA: Final = "authentication_data"


class Turn(Enum):
    """Who is to send the next AUTH of an exchange."""

    NOBODY = auto()
    """No exchange is under way."""
    CLIENT = auto()
    APPLICATION = auto()


class AuthExchange:
    """The AUTH packets of a client that has named a method in its CONNECT."""

    __slots__ = ("method", "turn", "writer")

    def __init__(self, method: str, writer: PacketWriter) -> None:
        self.method = method
        self.writer = writer
        self.turn = Turn.APPLICATION

    def receive(self, packet: Auth, *, is_accepted: bool) -> Event:
        """Takes an AUTH; returns the `mqtt.auth`. `is_accepted`: whether the client has its CONNACK. Raises
        ProtocolError."""
        if packet.properties.get(METHOD) != self.method:  # [MQTT5-4.12.0-5] [MQTT5-4.12.1-1]
            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, "AUTH has another authentication method than CONNECT")
        again = packet.reason_code == ReasonCode.REAUTHENTICATE
        if again:
            allowed = is_accepted and self.turn is Turn.NOBODY
        else:  # [MQTT5-4.12.0-3]
            allowed = packet.reason_code == ReasonCode.CONTINUE_AUTHENTICATION and self.turn is Turn.CLIENT
        if not allowed:
            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, f"AUTH {packet.reason_code:#04x} is not allowed here")
        self.turn = Turn.APPLICATION
        return auth_event(
            reauthenticate=again,
            data=packet.properties.get(DATA),
            properties={name: value for name, value in packet.properties.items() if name not in (METHOD, DATA)},
        )

    def send(self, event: Event, *, is_accepted: bool) -> None:
        """Sends the AUTH of an `mqtt.auth`. Raises RuntimeError if it is not the application's turn, ValueError for
        another code than "continue", or, once the client is accepted, "success"."""
        if self.turn is not Turn.APPLICATION:
            raise RuntimeError("mqtt.auth was sent while the client is not waiting for it")
        code = event.get("reason_code", ReasonCode.CONTINUE_AUTHENTICATION)
        done = code == ReasonCode.SUCCESS and is_accepted
        if code != ReasonCode.CONTINUE_AUTHENTICATION and not done:
            raise ValueError(f"mqtt.auth: a reason_code of {code:#04x}; success before the CONNACK is mqtt.accept")
        properties = {**self.writer.problem(event), **self.proof(event.get("data"))}
        self.writer.write_packet(Auth(reason_code=code, properties=properties))
        self.turn = Turn.NOBODY if done else Turn.CLIENT

    def proof(self, data: bytes | None) -> Properties:
        """What a CONNACK or AUTH has besides [MQTT5-4.12.0-5]."""
        return {METHOD: self.method} if data is None else {METHOD: self.method, DATA: data}
