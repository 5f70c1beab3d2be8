"""MQTT 3.1, 3.1.1 and 5.0: a server that is a complete broker. codec, broker and connection do no input or output."""

from protocols.mqtt.codec.packets import ReasonCode
from protocols.mqtt.codec.reason_codes import is_failure

__all__ = ["ReasonCode", "is_failure"]
