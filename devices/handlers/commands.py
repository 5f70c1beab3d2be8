"""Answers of devices to commands."""

from typing import Any, Final

from devices import commands
from devices.handlers.base import Message
from devices.refusals import MessageRefusal, RefusedError

_MAX_DIGITS: Final = 18
"""Of the number of a command, which the database has as a 64 bit integer."""


async def answer(message: Message) -> None:
    """Records the answer to a command. The same one again, as of a device that has not had its acknowledgement, is
    taken once."""
    value = message.device.profile.decode_answer(message.payload)
    await record_answer(message, message.device.device_id, message.match.levels["id"], value)


async def record_answer(message: Message, device_id: int, number: str, value: Any) -> None:
    """Records the answer of a device, or of one behind it, to its command of this number. Raises RefusedError."""
    if not (number.isascii() and number.isdecimal() and len(number) <= _MAX_DIGITS):
        raise RefusedError(MessageRefusal.NO_COMMAND, f"there is no command {number[:50]!r}")
    await message.in_database(commands.answer, device_id, int(number), value)
