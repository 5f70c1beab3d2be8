"""What a gateway says for the devices behind it. Whatever it says of one but that it has gone, connects it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar

from devices.credentials import Identity
from devices.handlers.attributes import store, values_of
from devices.handlers.base import Message
from devices.handlers.claims import offer
from devices.handlers.commands import record_answer
from devices.models import now_ms
from devices.profiles import SubDevice
from devices.refusals import MessageRefusal, RefusedError
from devices.sub_devices import DEFAULT_TYPE, SubDevices, find_or_add, require_gateway

R = TypeVar("R")


def _of_gateway(handler: Callable[[Message], Coroutine[Any, Any, R]]) -> Callable[[Message], Coroutine[Any, Any, R]]:
    """The handler, for a device that is a gateway; any other is refused, whatever it says."""

    @wraps(handler)
    async def checked(message: Message) -> R:
        sub_devices = _of_connection(message)
        if not sub_devices.is_of_gateway:
            await message.in_database(require_gateway, message.device.device_id)
            sub_devices.is_of_gateway = True
        return await handler(message)

    return checked


@_of_gateway
async def connect(message: Message) -> None:
    """A device has come."""
    await _find(message, [message.device.profile.decode_gateway_connect(message.payload)])


@_of_gateway
async def disconnect(message: Message) -> None:
    """A device has gone."""
    _of_connection(message).disconnect(message.device.profile.decode_gateway_connect(message.payload).name)


@_of_gateway
async def take_telemetry(message: Message) -> "asyncio.Future[list[None]]":
    """Stores readings of several devices; the future ends when those of all are committed."""
    points = message.device.profile.decode_gateway_telemetry(message.payload)
    devices = await _find(message, map(SubDevice, points))
    ingest = message.services.ingest
    if not ingest.has_room:
        await ingest.ready()
    received_ms = now_ms()
    # Others wait for the same commits: who gives this up does not end them.
    return asyncio.gather(
        *(asyncio.shield(ingest.submit(devices[name], each, received_ms)) for name, each in points.items() if each)
    )


@_of_gateway
async def report_attributes(message: Message) -> None:
    """Stores client attributes of several devices, one device after the other: setting them again changes nothing."""
    values = message.device.profile.decode_gateway_attributes(message.payload)
    for name, device in (await _find(message, map(SubDevice, values))).items():
        await store(message, device.device_id, values[name])


@_of_gateway
async def request_attributes(message: Message) -> bytes:
    """Answers with client or shared attributes of one device."""
    profile = message.device.profile
    asked = profile.decode_gateway_attributes_request(message.payload)
    device = await _find_one(message, asked.device)
    client, shared = await message.in_database(values_of, device.device_id, asked.attributes)
    return profile.encode_gateway_attributes_answer(asked, {**client, **shared})


@_of_gateway
async def answer_command(message: Message) -> None:
    """Records the answer of one device to a command."""
    answer = message.device.profile.decode_gateway_answer(message.payload)
    device = await _find_one(message, answer.device)
    await record_answer(message, device.device_id, answer.command, answer.value)


@_of_gateway
async def claim(message: Message) -> None:
    """Offers devices to who knows the secret of each."""
    claims = message.device.profile.decode_gateway_claims(message.payload)
    for name, device in (await _find(message, map(SubDevice, claims))).items():
        await offer(message, device.device_id, claims[name])


async def _find_one(message: Message, name: str) -> Identity:
    return (await _find(message, [SubDevice(name)]))[name]


async def _find(message: Message, named: Iterable[SubDevice]) -> Mapping[str, Identity]:
    """The devices, connected. Those that are not yet are looked up together."""
    sub_devices = _of_connection(message)
    types = {each.name: each.type or DEFAULT_TYPE for each in named}
    unknown = {name: type_name for name, type_name in types.items() if sub_devices.find(name) is None}
    found: dict[str, Identity] = {name: device for name in types if (device := sub_devices.find(name)) is not None}
    if unknown:
        as_of = message.services.directory.generation
        for device in await message.in_database(find_or_add, message.device.device_id, unknown, as_of):
            sub_devices.connect(device)
            found[device.name] = device
    return found


def _of_connection(message: Message) -> SubDevices:
    if message.sub_devices is None:
        raise RefusedError(MessageRefusal.TOPIC, f"{message.match.meaning}: not served here")
    return message.sub_devices
