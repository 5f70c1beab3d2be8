"""What is done with what a device says, whatever the wire: one function for each meaning.

A consumer reads the meaning of a message by the profile of its device, and asks `HANDLERS` for its function. What the
function returns is the answer, if the meaning has one: MQTT publishes it to the topic that the profile names, HTTP and
WebSocket respond with it. The device has its acknowledgement after that. A function that refuses raises RefusedError.

Telemetry is not here: it is what devices say most, and each consumer hands it to devices.ingest by the shortest way.
"""

from collections.abc import Mapping
from typing import Final

from devices.handlers import attributes, calls, claims, commands
from devices.handlers.base import Handler, Message
from devices.profiles import Meaning

__all__ = ["HANDLERS", "Handler", "Message"]

HANDLERS: Final[Mapping[Meaning, Handler]] = {
    Meaning.CLIENT_ATTRIBUTES: attributes.report,
    Meaning.ATTRIBUTES_REQUEST: attributes.request,
    Meaning.COMMAND_ANSWER: commands.answer,
    Meaning.CALL: calls.call,
    Meaning.CLAIM: claims.claim,
}
