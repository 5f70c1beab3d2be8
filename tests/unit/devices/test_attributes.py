"""Attributes of devices: versions, conflicts, bounds; what a device is still to be told."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections

from devices.attributes import (
    ABSENT,
    InvalidKeyError,
    Scope,
    StoredAttribute,
    TooManyAttributesError,
    VersionConflictError,
    delete_attributes,
    get_attributes,
    set_attributes,
)
from devices.device_lock import UnknownDeviceError
from devices.json_text import NoJsonError
from devices.limits import DeviceOptions
from devices.models import Attribute, Device, now_ms
from tests.unit.devices.conftest import MakeStoredDevice

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def device(database: str, new_device: MakeStoredDevice) -> Device:
    return new_device("thermo-1")


def values(device: Device, scope: Scope = Scope.SHARED) -> dict[str, Any]:
    return {key: attribute.value for key, attribute in get_attributes(device.pk, scope).items()}


def untold(device: Device) -> dict[str, str | None]:
    return dict(Attribute.with_deleted.filter(device=device, is_told=False).values_list("key", "value_json"))


class TestValues:
    @pytest.mark.parametrize(
        "value", [None, True, 0, -0.5, 2**70, "", "a\0b", "ü☃", [1, [2]], {"b": 1, "a": {"c": None}}], ids=repr
    )
    def test_any_json_value_is_kept_as_it_is(self, device: Device, value: Any) -> None:
        set_attributes(device.pk, Scope.SERVER, {"key": value})

        assert values(device, Scope.SERVER) == {"key": value}

    def test_an_attribute_knows_its_version_its_time_and_who_has_set_it(self, device: Device) -> None:
        before = now_ms()

        versions = set_attributes(device.pk, Scope.SHARED, {"period_s": 30}, by="anna")

        stored = get_attributes(device.pk, Scope.SHARED)["period_s"]
        assert stored == StoredAttribute(30, versions["period_s"], stored.changed_at_ms, "anna")
        assert before <= stored.changed_at_ms <= now_ms()

    def test_the_scopes_do_not_know_each_other(self, device: Device) -> None:
        for scope in Scope:
            set_attributes(device.pk, scope, {"key": scope.value})

        assert [values(device, scope) for scope in Scope] == [{"key": scope.value} for scope in Scope]

    def test_only_the_keys_that_are_asked_for_are_returned(self, device: Device) -> None:
        set_attributes(device.pk, Scope.SHARED, {"a": 1, "b": 2, "c": 3})

        assert set(get_attributes(device.pk, Scope.SHARED, ["c", "a", "z"])) == {"a", "c"}

    def test_deleting_says_what_was_there(self, device: Device) -> None:
        set_attributes(device.pk, Scope.SERVER, {"a": 1, "b": 2})

        assert delete_attributes(device.pk, Scope.SERVER, ["a", "z"]) == {"a"}
        assert values(device, Scope.SERVER) == {"b": 2}

    @pytest.mark.parametrize("key", ["", "k" * 256, "a\0b"])
    def test_a_key_that_is_none_is_refused_and_nothing_is_changed(self, device: Device, key: str) -> None:
        with pytest.raises(InvalidKeyError):
            set_attributes(device.pk, Scope.SHARED, {"good": 1, key: 2})

        assert values(device) == {}

    @pytest.mark.parametrize("value", [object(), "\ud800"], ids=["object", "surrogate"])
    def test_a_value_that_is_no_json_is_refused(self, device: Device, value: object) -> None:
        with pytest.raises(NoJsonError):
            set_attributes(device.pk, Scope.SHARED, {"key": value})

    def test_a_value_that_is_nested_too_deeply_is_refused(self, device: Device) -> None:
        value: Any = 1
        for _ in range(33):
            value = [value]

        with pytest.raises(NoJsonError, match="at most 32 levels"):
            set_attributes(device.pk, Scope.SHARED, {"key": value})

    def test_an_unknown_device_has_none(self, device: Device) -> None:
        with pytest.raises(UnknownDeviceError):
            set_attributes(device.pk + 1, Scope.SHARED, {"key": 1})

    def test_attributes_go_with_their_device(self, device: Device) -> None:
        set_attributes(device.pk, Scope.SHARED, {"told": 1, "deleted": 2})
        delete_attributes(device.pk, Scope.SHARED, ["deleted"])

        device.delete()

        assert not Attribute.with_deleted.exists()


class TestVersions:
    def test_each_change_has_a_greater_version(self, device: Device) -> None:
        versions = [set_attributes(device.pk, Scope.SHARED, {"key": number})["key"] for number in range(5)]

        assert versions == sorted(set(versions))

    def test_what_is_set_to_the_value_that_it_has_keeps_its_version_and_is_not_told_again(self, device: Device) -> None:
        first = set_attributes(device.pk, Scope.SHARED, {"key": [1]})
        Attribute.objects.update(is_told=True)

        assert set_attributes(device.pk, Scope.SHARED, {"key": [1]}) == first
        assert untold(device) == {}

    def test_one_that_was_deleted_and_set_again_never_has_a_version_that_it_had(self, device: Device) -> None:
        first = set_attributes(device.pk, Scope.SERVER, {"key": 1})["key"]
        delete_attributes(device.pk, Scope.SERVER, ["key"])
        set_attributes(device.pk, Scope.SERVER, {"key": 1})

        with pytest.raises(VersionConflictError):
            set_attributes(device.pk, Scope.SERVER, {"key": 2}, seen_versions={"key": first - 1})

    def test_who_was_overtaken_is_told_the_version_and_changes_nothing(self, device: Device) -> None:
        seen = set_attributes(device.pk, Scope.SHARED, {"a": 1, "b": 1})
        now = set_attributes(device.pk, Scope.SHARED, {"b": 2}, seen_versions=seen)["b"]

        with pytest.raises(VersionConflictError) as conflict:
            set_attributes(device.pk, Scope.SHARED, {"a": 3, "b": 3}, seen_versions=seen)

        assert (conflict.value.key, conflict.value.version) == ("b", now)
        assert values(device) == {"a": 1, "b": 2}

    def test_who_expects_none_to_be_there_conflicts_with_one_that_is(self, device: Device) -> None:
        set_attributes(device.pk, Scope.SHARED, {"key": 1}, seen_versions={"key": ABSENT})

        with pytest.raises(VersionConflictError, match="was changed meanwhile"):
            set_attributes(device.pk, Scope.SHARED, {"key": 2}, seen_versions={"key": ABSENT})

    def test_deleting_what_was_changed_meanwhile_conflicts(self, device: Device) -> None:
        seen = set_attributes(device.pk, Scope.SHARED, {"key": 1})
        set_attributes(device.pk, Scope.SHARED, {"key": 2})

        with pytest.raises(VersionConflictError):
            delete_attributes(device.pk, Scope.SHARED, ["key"], seen_versions=seen)

    def test_one_of_many_who_have_seen_the_same_version_changes_it(self, device: Device) -> None:
        seen = set_attributes(device.pk, Scope.SHARED, {"key": 0})

        def change(number: int) -> int | None:
            try:
                set_attributes(device.pk, Scope.SHARED, {"key": number}, seen_versions=seen)
            except VersionConflictError:
                return None
            finally:
                connections.close_all()
            return number

        with ThreadPoolExecutor(4) as threads:
            won = [number for number in threads.map(change, range(1, 9)) if number]

        assert [values(device)["key"]] == won


class TestBounds:
    @pytest.fixture(autouse=True)
    def options(self, monkeypatch: pytest.MonkeyPatch) -> None:
        narrow = DeviceOptions(max_attributes_per_device=3, max_attribute_bytes_per_device=100)
        monkeypatch.setattr("devices.attributes.configured", lambda: narrow)

    def test_one_attribute_too_many_is_refused_and_none_of_the_change_is_done(self, device: Device) -> None:
        set_attributes(device.pk, Scope.SHARED, {"a": 1, "b": 2})

        with pytest.raises(TooManyAttributesError, match="max_attributes_per_device"):
            set_attributes(device.pk, Scope.SHARED, {"a": 5, "c": 3, "d": 4})

        assert values(device) == {"a": 1, "b": 2}

    def test_one_byte_too_many_is_refused(self, device: Device) -> None:
        set_attributes(device.pk, Scope.SHARED, {"key": "ü" * 47 + "u"})

        with pytest.raises(TooManyAttributesError, match="max_attribute_bytes_per_device"):
            set_attributes(device.pk, Scope.SHARED, {"key": "ü" * 48})

    def test_another_scope_has_its_own_room(self, device: Device) -> None:
        set_attributes(device.pk, Scope.CLIENT, {"a": 1, "b": 2, "c": 3})

        assert set(set_attributes(device.pk, Scope.SHARED, {"a": 1, "b": 2, "c": 3})) == {"a", "b", "c"}

    def test_a_deletion_makes_room(self, device: Device) -> None:
        set_attributes(device.pk, Scope.SERVER, {"a": 1, "b": 2, "c": 3})
        delete_attributes(device.pk, Scope.SERVER, ["a"])

        assert set(set_attributes(device.pk, Scope.SERVER, {"d": 1})) == {"d"}


class TestWhatTheDeviceIsToBeTold:
    def test_a_change_of_a_shared_attribute_waits_and_of_the_others_none(self, device: Device) -> None:
        for scope in Scope:
            set_attributes(device.pk, scope, {scope.value: 1})

        assert untold(device) == {"shared": "1"}

    def test_a_deletion_waits_and_is_not_seen_as_an_attribute(self, device: Device) -> None:
        set_attributes(device.pk, Scope.SHARED, {"key": 1})
        delete_attributes(device.pk, Scope.SHARED, ["key"])

        assert untold(device) == {"key": None}
        assert values(device) == {}
        assert not device.attributes.exists()
