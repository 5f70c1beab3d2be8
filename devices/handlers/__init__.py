"""What is done with what a device says, whatever the wire: one function for each meaning.

A consumer reads the meaning of a message by the profile of its device, and asks `HANDLERS` for its function. What the
function returns is the answer, if the meaning has one: MQTT publishes it to the topic that the profile names, HTTP and
WebSocket respond with it. The device has its acknowledgement after that. A function that refuses raises RefusedError.

Telemetry is not in the table: it is what devices say most, and each consumer hands it to devices.ingest by the shortest
way. `take_telemetry` does that with what a gateway says for others.
"""

from collections.abc import Mapping
from typing import Final

from devices.handlers import attributes, calls, claims, commands, sub_devices
from devices.handlers.base import Handler, Message
from devices.handlers.sub_devices import take_telemetry
from devices.profiles import Meaning

__all__ = ["HANDLERS", "Handler", "Message", "take_telemetry"]

HANDLERS: Final[Mapping[Meaning, Handler]] = {
    Meaning.CLIENT_ATTRIBUTES: attributes.report,
    Meaning.ATTRIBUTES_REQUEST: attributes.request,
    Meaning.COMMAND_ANSWER: commands.answer,
    Meaning.CALL: calls.call,
    Meaning.CLAIM: claims.claim,
    Meaning.GATEWAY_CONNECT: sub_devices.connect,
    Meaning.GATEWAY_DISCONNECT: sub_devices.disconnect,
    Meaning.GATEWAY_CLIENT_ATTRIBUTES: sub_devices.report_attributes,
    Meaning.GATEWAY_ATTRIBUTES_REQUEST: sub_devices.request_attributes,
    Meaning.GATEWAY_COMMAND_ANSWER: sub_devices.answer_command,
    Meaning.GATEWAY_CLAIM: sub_devices.claim,
}
