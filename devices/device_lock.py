"""The lock under which what a device has is counted and changed: bounds hold exactly, whoever else adds to it."""

from devices.models import Device
from gateway.exceptions import GatewayError


class UnknownDeviceError(GatewayError):
    """Raised when there is no such device, or not any more."""

    def __init__(self) -> None:
        super().__init__("there is no such device, or not any more")


def lock_device(device_id: int) -> None:
    """Locks the row of a device until the transaction ends, beside those who only refer to it. Raises
    UnknownDeviceError."""
    rows = Device.objects.select_for_update(no_key=True).filter(pk=device_id)
    if not rows.values_list("pk", flat=True).first():
        raise UnknownDeviceError
