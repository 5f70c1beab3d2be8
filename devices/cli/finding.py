"""How commands find the device that an argument names."""

from typing import TYPE_CHECKING

from gateway.cli import program
from gateway.exceptions import GatewayError

if TYPE_CHECKING:
    from devices.models import Device


def device_of_client(client_id: str) -> "Device | None":
    """The device that has the MQTT client 42/..., if there is no device of that name."""
    from devices.models import Device

    key, slash, _ = client_id.partition("/")
    if not slash or not (key.isascii() and key.isdigit()) or Device.objects.filter(name=client_id).exists():
        return None
    return Device.objects.with_connected().select_related("type").filter(pk=int(key)).first()


def find_device(name: str) -> "Device":
    """The device of this name. Raises GatewayError."""
    from devices.models import Device

    found = Device.objects.with_connected().select_related("type").filter(name=name).first()
    if found is None:
        raise GatewayError(f"there is no device {name!r}; `{program()} device list` lists them")
    return found
