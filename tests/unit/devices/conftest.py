"""What the tests of the devices app share."""

from collections.abc import Callable

import pytest

from devices.models import Device, DeviceType

MakeStoredDevice = Callable[[str], Device]


@pytest.fixture
def new_device() -> MakeStoredDevice:
    """Makes a device in the database that the test has chosen."""

    def make(name: str) -> Device:
        device_type, _ = DeviceType.objects.get_or_create(name="default")
        return Device.objects.create(name=name, type=device_type)

    return make
