"""User names and passwords of devices: issued, checked, remembered, rotated."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone
from prometheus_client import REGISTRY

from devices.credentials import (
    Denied,
    DeviceDirectory,
    Identity,
    UsedNameError,
    issue_password,
    revoke,
    rotate_password,
)
from devices.models import Device, PasswordLogin
from devices.password_logins import PasswordChecks, UserName, hash_of_password
from gateway.db import database_sync_to_async
from tests.unit.devices.conftest import MakeStoredDevice

SENSOR = UserName("plant", "sensor")


@pytest.fixture
def device(database: str, new_device: MakeStoredDevice) -> Device:
    return new_device("thermo-1")


@pytest.fixture
async def directory(device: Device) -> AsyncIterator[DeviceDirectory]:
    directory = DeviceDirectory()
    yield directory
    await directory.close()


def checks() -> float:
    return REGISTRY.get_sample_value("gateway_device_password_checks_total") or 0.0


class TestIssuing:
    def test_a_password_that_is_made_here_is_random_and_not_stored(self, device: Device) -> None:
        password = issue_password(device, "plant")

        assert len(password) == 32
        assert password not in str(PasswordLogin.objects.values().get())

    def test_a_user_name_is_of_one_device_unless_the_client_identifiers_differ(self, device: Device) -> None:
        issue_password(device, "plant")
        issue_password(device, "plant", client_id="sensor")

        with pytest.raises(UsedNameError):
            issue_password(device, "plant")

    @pytest.mark.parametrize(
        ("username", "password", "client_id"),
        [("", "p", ""), ("u" * 256, "p", ""), ("nul\0", "p", ""), ("u", "p" * 256, ""), ("u", "p", "c" * 256)],
    )
    def test_names_and_passwords_have_a_length(
        self, device: Device, username: str, password: str, client_id: str
    ) -> None:
        with pytest.raises(ValidationError):
            issue_password(device, username, password, client_id=client_id)


class TestLoggingIn:
    async def test_the_password_of_the_user_name_lets_the_device_in(
        self, directory: DeviceDirectory, device: Device
    ) -> None:
        password = await database_sync_to_async(issue_password)(device, "plant")

        found = await directory.logged_in(SENSOR, password.encode())

        assert isinstance(found, Identity)
        assert found.device_id == device.pk

    async def test_a_wrong_password_says_whose_to_the_log(self, directory: DeviceDirectory, device: Device) -> None:
        await database_sync_to_async(issue_password)(device, "plant")

        denied = await directory.logged_in(SENSOR, b"wrong")

        assert isinstance(denied, Denied)
        assert str(denied) == f"wrong password of user name plant of thermo-1 ({device.pk})"
        assert denied.device_id == device.pk

    async def test_nobody_is_found_by_an_unknown_user_name_and_it_is_hashed_all_the_same(
        self, directory: DeviceDirectory
    ) -> None:
        before = checks()

        assert await directory.logged_in(SENSOR, b"wrong") is None

        assert checks() == before + 1

    async def test_a_client_identifier_that_was_given_is_asked_for(
        self, directory: DeviceDirectory, device: Device
    ) -> None:
        password = await database_sync_to_async(issue_password)(device, "plant", client_id="sensor")

        assert isinstance(await directory.logged_in(SENSOR, password.encode()), Identity)
        assert await directory.logged_in(UserName("plant", "other"), password.encode()) is None

    async def test_a_password_that_was_right_is_not_hashed_again(
        self, directory: DeviceDirectory, device: Device
    ) -> None:
        password = await database_sync_to_async(issue_password)(device, "plant")
        await directory.logged_in(SENSOR, password.encode())
        before = checks()

        directory.forget_all()  # so that it is looked up anew

        assert isinstance(await directory.logged_in(SENSOR, password.encode()), Identity)
        assert checks() == before

    async def test_in_an_overlap_both_passwords_are_right_and_the_old_one_has_an_end(
        self, directory: DeviceDirectory, device: Device
    ) -> None:
        old = await database_sync_to_async(issue_password)(device, "plant")
        login = await PasswordLogin.objects.select_related("device").aget()
        before = timezone.now()

        new = await database_sync_to_async(rotate_password)(login, overlap_s=60)

        found_old = await directory.logged_in(SENSOR, old.encode())
        found_new = await directory.logged_in(SENSOR, new.encode())
        assert isinstance(found_old, Identity)
        assert found_old.valid_until is not None
        assert found_old.valid_until >= before + timedelta(seconds=60)
        assert isinstance(found_new, Identity)
        assert found_new.valid_until is None

    async def test_a_revoked_password_lets_nobody_in(self, directory: DeviceDirectory, device: Device) -> None:
        password = await database_sync_to_async(issue_password)(device, "plant")
        login = await PasswordLogin.objects.select_related("device").aget()
        await database_sync_to_async(revoke)(login)

        denied = await directory.logged_in(SENSOR, password.encode())

        assert str(denied).startswith(f"password of user name plant of thermo-1 ({device.pk}) was revoked")


class TestChecks:
    @pytest.mark.parametrize(
        ("stored", "slow"),
        [([], 1), ([hash_of_password("right", is_random=True)], 1), ([hash_of_password("right", is_random=False)], 1)],
        ids=["no user name", "random", "chosen"],
    )
    async def test_a_check_that_fails_costs_one_slow_hash(self, stored: list[str], slow: int) -> None:
        hashed: list[str] = []

        def never(password: bytes, password_hash: str) -> bool:
            hashed.append(password_hash)
            return False

        checking = PasswordChecks(never)

        assert await checking.fitting("seal", b"wrong", stored, "address") is None

        await checking.close()
        assert len([each for each in hashed if not each.startswith("pbkdf2_sha256$1$")]) == slow
