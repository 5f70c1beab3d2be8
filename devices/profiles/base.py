"""The interface of a payload profile, and its errors."""

from typing import Any, Final, Protocol, TypeAlias

from devices.refusals import MessageRefusal, RefusedError

Point: TypeAlias = tuple[str, int | None, float | None, str | None]
"""A reading as it came: key; device time in ms UTC, None if the server is to stamp it; then number and text, as
devices.models.StoredValue keeps them. A tuple, because a busy gateway makes hundreds of thousands a second."""


MAX_PAYLOAD_BYTES: Final = 262_144
"""What a message of a device may have, by HTTP and WebSocket; by MQTT, the listener's max_packet_bytes says it."""


MAX_DEPTH: Final = 32
"""How many objects and arrays a value may have in each other: whoever reads it later has a stack with an end."""


class PayloadError(RefusedError, ValueError):
    """Raised when a payload does not fit its topic or path; its text tells the author of the firmware why."""

    def __init__(self, text: str, position: int | None = None) -> None:
        super().__init__(MessageRefusal.PAYLOAD, text)
        self.position = position


class NotJsonError(PayloadError):
    """Raised when a payload is not JSON; its text says at which byte."""

    def __init__(self, why: object, position: int | None = None) -> None:
        super().__init__(f"not JSON: {why}", position)


def is_too_deep(value: Any) -> bool:
    """Whether objects and arrays are nested more than MAX_DEPTH deep in a JSON value."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True


class Profile(Protocol):
    """The payload format of a type of device."""

    def decode_telemetry(self, payload: bytes) -> list[Point]:
        """The readings in `payload`. Raises PayloadError; then none of it is to be stored."""
