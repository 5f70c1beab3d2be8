"""The lock under which what a device has is counted and changed: bounds hold exactly, whoever else adds to it."""

from collections.abc import Collection

from devices.models import Device
from gateway.exceptions import GatewayError


class UnknownDeviceError(GatewayError):
    """Raised when there is no such device, or not any more."""

    def __init__(self) -> None:
        super().__init__("there is no such device, or not any more")


def lock_device(device_id: int) -> None:
    """Locks the row of a device until the transaction ends, beside those who only refer to it. Raises
    UnknownDeviceError."""
    lock_devices([device_id])


def lock_devices(device_ids: Collection[int]) -> None:
    """The same for several, in the order of their numbers, so that two who do so do not wait for each other."""
    rows = Device.objects.select_for_update(no_key=True).filter(pk__in=device_ids).order_by("pk")
    if len(rows.values_list("pk", flat=True)) < len(set(device_ids)):
        raise UnknownDeviceError
