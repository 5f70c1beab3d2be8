"""Devices behind a gateway: who they are, and which are connected by its word.

A gateway speaks for devices that are `via` it, and for no others. A name that nobody has is added on first sight, if
its type says that gateways may add such devices.
"""

from collections.abc import Mapping
from typing import Any, Final

from django.db import transaction

from devices.credentials import Identity
from devices.device_lock import lock_device
from devices.limits import configured
from devices.models import Device, DeviceType
from devices.presence import ConnectionRegistry
from devices.profiles import UnknownProfileError, profile_of
from devices.refusals import MessageRefusal, RefusedError
from protocols.masking import printable

DEFAULT_TYPE: Final = "default"
"""The type of a device of which its gateway does not say one."""


class SubDevices:
    """The devices that are connected by the word of one connection of a gateway. They are bounded, since they are all
    `via` the gateway, and what is known of them is forgotten when they are cut off."""

    def __init__(self, connections: ConnectionRegistry) -> None:
        self._connections = connections
        self.is_of_gateway = False
        """Whether it is known that the device of the connection is a gateway."""
        self._connected: dict[str, tuple[Identity, _Closing]] = {}

    def find(self, name: str) -> Identity | None:
        """The device of this name, if it is connected."""
        found = self._connected.get(name)
        return None if found is None else found[0]

    def connect(self, device: Identity) -> None:
        """The device is connected from now on. Raises RefusedError if it was cut off since it was looked up."""
        if device.name in self._connected:
            return
        closing = _Closing(self, device.name)
        if not self._connections.add(device, closing):
            raise RefusedError(MessageRefusal.UNAVAILABLE, f"{device} is being cut off")
        self._connected[device.name] = device, closing

    def disconnect(self, name: str) -> None:
        """The device is not connected any more, if it was."""
        found = self._connected.pop(name, None)
        if found is not None:
            self._connections.remove(*found)

    def end(self) -> None:
        """The gateway's connection has ended, and that of all its devices with it."""
        for name in list(self._connected):
            self.disconnect(name)


class _Closing:
    """Ends the connection of one device when it is cut off; its gateway goes on, and is refused what it says for it."""

    def __init__(self, sub_devices: SubDevices, name: str) -> None:
        self._sub_devices = sub_devices
        self._name = name

    def __call__(self, reason: str) -> None:
        self._sub_devices.disconnect(self._name)


def find_or_add(gateway_id: int, types: Mapping[str, str], as_of: int) -> list[Identity]:
    """The devices behind a gateway by these names; those that are nobody's are added, with the type of each. `as_of` is
    the directory's generation before the call.

    Raises RefusedError, which names the device, if the gateway may not speak for one; none is added then.
    """
    with transaction.atomic():
        rows = _rows(types)
        new = {name: type_name for name, type_name in types.items() if name not in rows}
        if new:
            lock_device(gateway_id)
            _add(gateway_id, new)
            rows = _rows(types)
        return [_identity(gateway_id, name, rows[name], as_of) for name in types]


def require_gateway(device_id: int) -> None:
    """Raises RefusedError for a device that is no gateway. One that becomes none is disconnected by order."""
    if not Device.objects.filter(pk=device_id, is_gateway=True).exists():
        raise RefusedError(MessageRefusal.TOPIC, "the device is no gateway: it speaks for itself alone")


def _rows(names: Mapping[str, str]) -> dict[str, Any]:
    rows = Device.objects.filter(name__in=list(names))
    return {row.name: row for row in rows.values_list("pk", "name", "via", "enabled", "type__profile", named=True)}


def _add(gateway_id: int, types: Mapping[str, str]) -> None:
    """Adds devices, as far as nobody else has just taken their names. Raises RefusedError."""
    most = configured().max_devices_per_gateway
    if Device.objects.filter(via=gateway_id).count() + len(types) > most:
        raise RefusedError(
            MessageRefusal.QUOTA_OF_DEVICE, f"the gateway would have more devices than max_devices_per_gateway: {most}"
        )
    known = DeviceType.objects.filter(name__in=set(types.values()), gateways_may_add=True)
    ids = dict(known.values_list("name", "pk"))
    for name, type_name in types.items():
        if type_name not in ids:
            why = f"there is no device {name!r}, and gateways may not add devices of type {type_name!r}"
            raise RefusedError(MessageRefusal.NO_DEVICE, why)
    Device.objects.bulk_create(
        (Device(name=name, type_id=ids[type_name], via_id=gateway_id) for name, type_name in types.items()),
        ignore_conflicts=True,
    )


def _identity(gateway_id: int, name: str, row: Any, as_of: int) -> Identity:
    device = f"{printable(name)} ({row.pk})"
    if row.via != gateway_id:
        raise RefusedError(MessageRefusal.NO_DEVICE, f"device {device} is not behind this gateway")
    if not row.enabled:
        raise RefusedError(MessageRefusal.NO_DEVICE, f"device {device} is disabled")
    try:
        profile = profile_of(row.type__profile)
    except UnknownProfileError as error:
        why = f"device {device} has a type that nothing reads: {error}"
        raise RefusedError(MessageRefusal.NO_DEVICE, why) from None
    return Identity(row.pk, name, profile, as_of)
