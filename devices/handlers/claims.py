"""Devices that open themselves for claiming."""

from devices.claims import open_for_claiming
from devices.device_lock import UnknownDeviceError
from devices.handlers.base import Message
from devices.refusals import MessageRefusal, RefusedError


async def claim(message: Message) -> None:
    """Offers the device to who knows the secret."""
    device = message.device
    offer = device.profile.decode_claim(message.payload)
    try:
        await message.in_database(open_for_claiming, device.device_id, offer.secret, offer.duration_ms)
    except UnknownDeviceError as error:
        raise RefusedError(MessageRefusal.NO_DEVICE, str(error)) from None
