"""Devices that open themselves for claiming."""

from devices.claims import open_for_claiming
from devices.handlers.base import Message
from devices.profiles import Claim


async def claim(message: Message) -> None:
    """Offers the device to who knows the secret."""
    await offer(message, message.device.device_id, message.device.profile.decode_claim(message.payload))


async def offer(message: Message, device_id: int, opened: Claim) -> None:
    """Offers a device, or one behind it. Raises RefusedError."""
    await message.in_database(open_for_claiming, device_id, opened.secret, opened.duration_ms)
