"""The states of a connection, and how it can end."""

from enum import Enum, auto
from typing import NamedTuple

from protocols.asgi import Event
from protocols.mqtt import events
from protocols.mqtt.codec.packets import Properties


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
        return events.disconnect(reason_code=self.reason_code, reason=self.reason, properties=self.properties)
