"""What can be wrong with what a peer sent, or with what we were asked to send: one class per kind of fault.

Each carries the reason code of MQTT 5.0 that answers it, in a DISCONNECT or, before the connection is accepted, in a
CONNACK [MQTT5-4.13].
"""

from protocols.mqtt.codec.packets import ReasonCode


class MqttError(Exception):
    """Any of the faults below."""

    def __init__(self, reason_code: int, text: str) -> None:
        """`text` says what was wrong, for a log or a reason string; it never quotes a payload or a credential."""
        super().__init__(text)
        self.reason_code = reason_code
        self.text = text


class ProtocolError(MqttError):
    """Raised when a packet can be parsed but is not allowed there [MQTT5-4.13.1]."""


class MalformedPacketError(MqttError):
    """Raised when bytes cannot be parsed as the specification has it [MQTT5-4.13.1]."""


class PacketTooLargeError(MqttError):
    """Raised when a packet is larger than the maximum packet size, before its body has come [MQTT5-3.2.2-15]."""

    def __init__(self, text: str) -> None:
        super().__init__(ReasonCode.PACKET_TOO_LARGE, text)


class UnsupportedProtocolVersionError(MqttError):
    """Raised when a CONNECT names another protocol, or a version other than 3.1, 3.1.1 and 5.0.

    `answer` is the CONNACK to send before closing, in the form that the peer can read; empty for a peer that does not
    speak MQTT [MQTT3-3.1.2-1] [MQTT3-3.1.2-2] [MQTT5-3.1.2-1] [MQTT5-3.1.2-2].
    """

    def __init__(self, text: str, *, answer: bytes) -> None:
        super().__init__(ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, text)
        self.answer = answer


class InvalidTopicError(MqttError, ValueError):
    """Raised when a topic name or a topic filter breaks the rules of [MQTT5-4.7]; with 0x90 or 0x8F."""


class EncodeError(MqttError, ValueError):
    """Raised when we are asked to send what the protocol cannot say: a fault of the program, not of the peer."""

    def __init__(self, text: str) -> None:
        super().__init__(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, text)


class SessionQuotaError(MqttError):
    """Raised when the broker, or the owner, has as many sessions as it may. `bound` is the option that says so."""

    def __init__(self, bound: str, most: int) -> None:
        super().__init__(ReasonCode.QUOTA_EXCEEDED, f"{bound} is {most}")
        self.bound = bound


class KeepingError(MqttError):
    """Raised when a session that is to outlive its connection cannot be kept."""

    def __init__(self, why: str) -> None:
        super().__init__(ReasonCode.SERVER_UNAVAILABLE, f"sessions cannot be kept now: {why}")
