"""What a payload profile is, and what it makes of a payload."""

from typing import Final, Protocol, TypeAlias

from devices.refusals import MessageRefusal, RefusedError

Point: TypeAlias = tuple[str, int | None, float | None, str | None]
"""A reading as it came: key; device time in ms UTC, None if the server is to stamp it; then number and text, as
devices.models.StoredValue keeps them. A tuple, because a busy gateway makes hundreds of thousands a second."""


MAX_PAYLOAD_BYTES: Final = 262_144
"""What a message of a device may have, by HTTP and WebSocket; by MQTT, the listener's max_packet_bytes says it."""


class PayloadError(RefusedError, ValueError):
    """Raised when a payload is not what its topic or path wants; its text tells the author of the firmware why."""

    def __init__(self, text: str) -> None:
        super().__init__(MessageRefusal.PAYLOAD, text)


class Profile(Protocol):
    """How one type of device speaks."""

    def decode_telemetry(self, payload: bytes) -> list[Point]:
        """The readings in `payload`. Raises PayloadError; then none of it is to be stored."""
