"""Devices behind a gateway: for whom it may speak, and who is connected by its word."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from devices.credentials import DeviceDirectory, Identity
from devices.limits import DeviceOptions
from devices.models import Device, DeviceType
from devices.presence import ConnectionRegistry
from devices.profiles import profile_of
from devices.refusals import MessageRefusal, RefusedError
from devices.sub_devices import SubDevices, find_or_add, require_gateway
from tests.unit.devices.conftest import MakeStoredDevice


class TestFindOrAdd:
    @pytest.fixture
    def gateway(self, database: str, new_device: MakeStoredDevice) -> Device:
        gateway = new_device("gateway")
        gateway.is_gateway = True
        gateway.save()
        DeviceType.objects.update(gateways_may_add=True)
        return gateway

    def test_a_device_that_nobody_has_is_added_behind_the_gateway(self, gateway: Device) -> None:
        [added] = find_or_add(gateway.pk, {"a": "default"}, 7)

        device = Device.objects.get(name="a")
        assert (device.via, device.type.name) == (gateway, "default")
        assert (added.device_id, added.name, added.as_of) == (device.pk, "a", 7)

    def test_many_devices_that_are_there_are_one_query(self, gateway: Device) -> None:
        types = {f"device-{number}": "default" for number in range(500)}
        added = find_or_add(gateway.pk, types, 0)

        with CaptureQueriesContext(connection) as queries:
            assert find_or_add(gateway.pk, types, 0) == added
        assert [query["sql"][:6] for query in queries if query["sql"].startswith("SELECT")] == ["SELECT"]

    @pytest.mark.parametrize("type_name", ["closed", "unknown"])
    def test_a_type_that_does_not_allow_it_adds_none(self, gateway: Device, type_name: str) -> None:
        DeviceType.objects.create(name="closed")

        with pytest.raises(RefusedError, match=f"no device 'b', .* of type '{type_name}'") as refused:
            find_or_add(gateway.pk, {"a": "default", "b": type_name}, 0)

        assert refused.value.refusal is MessageRefusal.NO_DEVICE
        assert not Device.objects.filter(name__in="ab").exists()

    @pytest.mark.parametrize("via_another", [False, True])
    def test_a_device_that_is_not_behind_the_gateway_is_refused_by_name(
        self, gateway: Device, new_device: MakeStoredDevice, via_another: bool
    ) -> None:
        other = new_device("other")
        if via_another:
            other.via = new_device("another gateway")
            other.save()

        with pytest.raises(RefusedError, match=r"other \(\d+\) is not behind this gateway"):
            find_or_add(gateway.pk, {"a": "default", "other": "default"}, 0)
        assert not Device.objects.filter(name="a").exists()

    def test_a_gateway_does_not_speak_for_itself_here(self, gateway: Device) -> None:
        with pytest.raises(RefusedError, match="not behind this gateway"):
            find_or_add(gateway.pk, {"gateway": "default"}, 0)

    def test_a_disabled_device_is_refused(self, gateway: Device) -> None:
        find_or_add(gateway.pk, {"a": "default"}, 0)
        Device.objects.filter(name="a").update(enabled=False)

        with pytest.raises(RefusedError, match="is disabled"):
            find_or_add(gateway.pk, {"a": "default"}, 0)

    def test_one_device_too_many_is_refused(self, gateway: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("devices.sub_devices.configured", lambda: DeviceOptions(max_devices_per_gateway=2))
        find_or_add(gateway.pk, {"a": "default", "b": "default"}, 0)

        with pytest.raises(RefusedError, match="max_devices_per_gateway: 2") as refused:
            find_or_add(gateway.pk, {"a": "default", "c": "default"}, 0)
        assert refused.value.refusal is MessageRefusal.QUOTA_OF_DEVICE

    def test_a_device_that_is_no_gateway_speaks_for_nobody(self, gateway: Device, new_device: MakeStoredDevice) -> None:
        with pytest.raises(RefusedError, match="no gateway") as refused:
            require_gateway(new_device("plain").pk)
        require_gateway(gateway.pk)
        assert refused.value.refusal is MessageRefusal.TOPIC


class TestPresence:
    @pytest.fixture
    def registry(self) -> ConnectionRegistry:
        return ConnectionRegistry(DeviceDirectory(), announce=lambda device_id, connected: None)

    @staticmethod
    def device(number: int) -> Identity:
        return Identity(number, f"device-{number}", profile_of("thingsboard"), 0)

    def test_devices_are_connected_until_they_go_or_their_gateway_does(self, registry: ConnectionRegistry) -> None:
        sub_devices = SubDevices(registry)
        for number in (1, 2, 3, 3):
            sub_devices.connect(self.device(number))
        assert registry.all() == [1, 2, 3]

        sub_devices.disconnect("device-2")
        sub_devices.disconnect("device-2")
        assert registry.all() == [1, 3]

        sub_devices.end()
        assert registry.all() == []

    def test_one_that_is_cut_off_is_forgotten_and_the_others_stay(self, registry: ConnectionRegistry) -> None:
        sub_devices = SubDevices(registry)
        for number in (1, 2):
            sub_devices.connect(self.device(number))

        registry.disconnect({1: "disabled"})

        assert sub_devices.find("device-1") is None
        assert registry.all() == [2]
        with pytest.raises(RefusedError, match="cut off"):
            sub_devices.connect(self.device(1))
