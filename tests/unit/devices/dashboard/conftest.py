"""What the tests of the pages share: devices, their values, and people who look at them."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from devices.models import ConnectedDevice, Device, DeviceType, GatewayInstance, Key, LatestValue, now_ms

MakeDevice = Callable[..., Device]


@pytest.fixture
def make_device(db: None) -> MakeDevice:
    """Makes a device; `values` maps keys to numbers, or to JSON as it is stored."""

    def make(
        name: str,
        type_name: str = "default",
        values: dict[str, Any] | None = None,
        connected_to: GatewayInstance | None = None,
        **fields: Any,
    ) -> Device:
        device_type, _ = DeviceType.objects.get_or_create(name=type_name)
        device = Device.objects.create(name=name, type=device_type, **fields)
        if connected_to is not None:
            ConnectedDevice.objects.create(device=device, instance=connected_to, since_ms=now_ms())
        for key_name, value in (values or {}).items():
            key, _ = Key.objects.get_or_create(name=key_name)
            stored = {"text": value} if isinstance(value, str) else {"number": value}
            LatestValue.objects.create(device=device, key=key, ts=now_ms(), received=now_ms(), **stored)
        return device

    return make


@pytest.fixture
def living_gateway(db: None) -> GatewayInstance:
    """A gateway process whose heartbeat is fresh."""
    return GatewayInstance.objects.create(heartbeat_ms=now_ms())


@pytest.fixture
def watcher(db: None) -> User:
    """Somebody who may view devices, and nothing else."""
    user = User.objects.create_user("watcher", password="correct horse")
    user.user_permissions.add(Permission.objects.get(codename="view_device", content_type__app_label="gateway_devices"))
    return user


@pytest.fixture
def watching(watcher: User) -> Client:
    """The browser of the watcher, logged in."""
    client = Client()
    client.force_login(watcher)
    return client


@pytest.fixture
def operator(db: None) -> Client:
    """The browser of a superuser, logged in."""
    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    return client
