"""The simulated devices in the database: all of one type, so that exactly they can be deleted."""

import re
from typing import Final

from django.db import transaction

from devices.credentials import issue
from devices.models import Credential, Device, DeviceType
from gateway.exceptions import GatewayError

TYPE_NAME: Final = "simulated"
DELETED_AT_ONCE: Final = 500
_NAME: Final = re.compile(r"sim-\d{4,}")


@transaction.atomic
def prepare(count: int) -> list[tuple[str, str]]:
    """Names and tokens of `count` simulated devices, which are made as far as they are not there. Their earlier tokens
    are deleted. Raises GatewayError if another device has such a name."""
    device_type, _ = DeviceType.objects.get_or_create(name=TYPE_NAME)
    names = [f"sim-{number:04}" for number in range(1, count + 1)]
    found = dict(Device.objects.filter(name__startswith="sim-").values_list("name", "type__name"))
    for name in names:
        if found.get(name, TYPE_NAME) != TYPE_NAME:
            raise GatewayError(f"there is a device {name} that is not simulated: its type is {found[name]!r}")
    Device.objects.bulk_create(Device(name=name, type=device_type) for name in names if name not in found)
    Credential.objects.filter(device__type=device_type).delete()
    wanted = set(names)
    devices = [device for device in Device.objects.filter(type=device_type) if device.name in wanted]
    return [(device.name, issue(device)) for device in devices]


def clean_up() -> int:
    """Deletes the simulated devices, and their type if no other device has it; how many they were. A gateway that runs
    deletes their readings in the background."""
    rows = Device.objects.filter(type__name=TYPE_NAME).values_list("pk", "name")
    ids = [pk for pk, name in rows if _NAME.fullmatch(name)]
    for start in range(0, len(ids), DELETED_AT_ONCE):
        with transaction.atomic():
            Device.objects.filter(pk__in=ids[start : start + DELETED_AT_ONCE]).delete()
    DeviceType.objects.filter(name=TYPE_NAME, devices=None).delete()
    return len(ids)
