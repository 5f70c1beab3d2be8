"""Attributes that a device reports, or asks for."""

from collections.abc import Collection, Mapping
from typing import Any

from devices.attributes import Scope, get_attributes, set_attributes
from devices.handlers.base import Message
from devices.profiles import AttributesRequest


async def report(message: Message) -> None:
    """Stores client attributes."""
    await store(message, message.device.device_id, message.device.profile.decode_attributes(message.payload))


async def store(message: Message, device_id: int, values: Mapping[str, Any]) -> None:
    """Stores client attributes of a device, or of one behind it. Raises RefusedError."""
    await message.in_database(set_attributes, device_id, Scope.CLIENT, values)


async def request(message: Message) -> bytes:
    """Answers with client and shared attributes: those asked for, as far as they are there, or all."""
    profile = message.device.profile
    if message.scope["type"] == "http":
        asked = profile.decode_attributes_query(message.scope["query_string"])
    else:
        asked = profile.decode_attributes_request(message.payload)
    return profile.encode_attributes_answer(*await message.in_database(values_of, message.device.device_id, asked))


def values_of(device_id: int, asked: AttributesRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """The client and the shared attributes that are asked for."""
    all_keys = not asked.client and not asked.shared

    def values(scope: Scope, keys: Collection[str]) -> dict[str, Any]:
        if not keys and not all_keys:
            return {}
        found = get_attributes(device_id, scope, None if all_keys else keys)
        return {key: attribute.value for key, attribute in found.items()}

    return values(Scope.CLIENT, asked.client), values(Scope.SHARED, asked.shared)
