"""Access tokens: issued, looked up, remembered, revoked."""

import asyncio
import hashlib
import re
from pathlib import Path

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from devices.credentials import (
    CACHE_S,
    CACHE_SIZE,
    MAX_TOKEN_LENGTH,
    NEGATIVE_CACHE_S,
    Directory,
    hash_of,
    issue,
    revoke,
    rotate,
    set_enabled,
)
from devices.models import ConnectionCut, Credential, Device
from devices.profiles import PROFILES
from gateway.db import database_sync_to_async
from tests.unit.devices.conftest import MakeStoredDevice


class Clock:
    """Time by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(clock: Clock) -> Directory:
    return Directory(clock=clock)


@pytest.fixture
def device(sqlite_database: Path, new_device: MakeStoredDevice) -> Device:
    return new_device("thermo-1")


def cuts() -> list[tuple[int, str]]:
    return list(ConnectionCut.objects.order_by("pk").values_list("device_id", "reason"))


class TestTokens:
    def test_a_token_is_letters_and_digits_and_never_the_same(self, device: Device) -> None:
        tokens = {issue(device) for _ in range(20)}

        assert len(tokens) == 20
        assert all(re.fullmatch(r"[A-Za-z0-9]{32}", token) for token in tokens)

    def test_only_its_hash_and_its_last_four_characters_are_kept(self, device: Device) -> None:
        token = issue(device)

        stored = Credential.objects.values().get()
        assert stored["token_sha256"] == hashlib.sha256(token.encode()).hexdigest()
        assert stored["hint"] == token[-4:]
        assert not any(token in str(value) for value in stored.values())

    def test_rotation_revokes_all_and_issues_one(self, device: Device) -> None:
        old = [issue(device), issue(device)]

        new = rotate(device)

        valid = list(Credential.objects.filter(revoked_at=None).values_list("token_sha256", flat=True))
        assert valid == [hash_of(new)]
        assert new not in old
        assert cuts() == [(device.pk, "credentials rotated")]

    def test_revocation_and_disabling_order_a_cut(self, device: Device) -> None:
        issue(device)

        revoke(Credential.objects.get())
        set_enabled(device, False)

        assert cuts() == [(device.pk, "credential revoked"), (device.pk, "disabled")]

    def test_what_is_revoked_twice_keeps_its_first_time(self, device: Device) -> None:
        issue(device)
        revoke(Credential.objects.get())
        first = Credential.objects.get().revoked_at

        revoke(Credential.objects.get())

        assert Credential.objects.get().revoked_at == first

    def test_the_deletion_of_a_device_orders_a_cut_that_outlives_it(self, device: Device) -> None:
        pk = device.pk

        device.delete()

        assert cuts() == [(pk, "deleted")]


class TestLookingUp:
    async def test_a_valid_token_is_that_of_its_device(self, directory: Directory, device: Device) -> None:
        token = await database_sync_to_async(issue)(device)

        identity = await directory.authenticate(token)

        assert identity is not None
        assert (identity.device_id, identity.name) == (device.pk, "thermo-1")
        assert identity.profile is PROFILES["thingsboard"]
        assert directory.is_current(identity)

    async def test_several_tokens_of_a_device_are_valid_side_by_side(
        self, directory: Directory, device: Device
    ) -> None:
        for _ in range(2):
            assert await directory.authenticate(await database_sync_to_async(issue)(device)) is not None

    @pytest.mark.parametrize("token", ["", "unknown", "nul\0", "grün", "x" * MAX_TOKEN_LENGTH, "x" * 1_000_000])
    async def test_any_other_text_is_nobodys(self, directory: Directory, device: Device, token: str) -> None:
        assert await directory.authenticate(token) is None

    async def test_that_of_a_disabled_device_is_nobodys(self, directory: Directory, device: Device) -> None:
        token = await database_sync_to_async(issue)(device)
        await database_sync_to_async(set_enabled)(device, False)

        assert await directory.authenticate(token) is None

    async def test_a_revoked_one_is_nobodys(self, directory: Directory, device: Device) -> None:
        token = await database_sync_to_async(issue)(device)
        await database_sync_to_async(rotate)(device)

        assert await directory.authenticate(token) is None

    def test_it_takes_one_query_through_a_unique_index(self, device: Device) -> None:
        token = issue(device)

        with CaptureQueriesContext(connection) as queries:
            from devices.credentials import _by_token

            assert _by_token(hash_of(token), 0) is not None

        assert len(queries) == 1


class TestRemembering:
    async def test_a_known_token_for_minutes(self, directory: Directory, device: Device, clock: Clock) -> None:
        token = await database_sync_to_async(issue)(device)
        await directory.authenticate(token)
        await database_sync_to_async(Credential.objects.all().delete)()  # behind the directory's back

        clock.now += CACHE_S - 1
        assert await directory.authenticate(token) is not None
        clock.now += 2
        assert await directory.authenticate(token) is None

    async def test_an_unknown_one_for_seconds(self, directory: Directory, device: Device, clock: Clock) -> None:
        assert await directory.authenticate("a" * 32) is None
        await database_sync_to_async(Credential.objects.create)(device=device, token_sha256=hash_of("a" * 32), hint="a")

        assert await directory.authenticate("a" * 32) is None
        clock.now += NEGATIVE_CACHE_S + 1
        assert await directory.authenticate("a" * 32) is not None

    async def test_a_cut_forgets_the_device_and_every_unknown_token(
        self, directory: Directory, device: Device, new_device: MakeStoredDevice
    ) -> None:
        token = await database_sync_to_async(issue)(device)
        other = await database_sync_to_async(new_device)("thermo-2")
        other_token = await database_sync_to_async(issue)(other)
        for known in (token, other_token, "unknown"):
            await directory.authenticate(known)
        await database_sync_to_async(Credential.objects.all().delete)()

        directory.forget({device.pk})

        assert await directory.authenticate(token) is None
        assert await directory.authenticate(other_token) is not None
        await database_sync_to_async(Credential.objects.create)(device=other, token_sha256=hash_of("unknown"), hint="n")
        assert await directory.authenticate("unknown") is not None

    async def test_the_memory_is_bounded_and_the_oldest_goes_first(
        self, directory: Directory, device: Device, clock: Clock
    ) -> None:
        token = await database_sync_to_async(issue)(device)
        await directory.authenticate(token)

        for number in range(CACHE_SIZE):
            directory._remember(str(number), None)

        assert len(directory._cache) == CACHE_SIZE
        assert hash_of(token) not in directory._cache


class TestCutWhileLookingUp:
    """A lookup that began before a cut may have read what was true before it."""

    async def test_the_identity_is_not_current_and_not_remembered(self, directory: Directory, device: Device) -> None:
        token = await database_sync_to_async(issue)(device)

        looking_up = asyncio.create_task(directory.authenticate(token))
        await asyncio.sleep(0)  # it has begun
        directory.forget({device.pk})
        identity = await looking_up

        assert identity is not None
        assert not directory.is_current(identity)
        again = await directory.authenticate(token)
        assert again is not None
        assert directory.is_current(again)

    async def test_that_of_another_device_stays_current(self, directory: Directory, device: Device) -> None:
        token = await database_sync_to_async(issue)(device)

        looking_up = asyncio.create_task(directory.authenticate(token))
        await asyncio.sleep(0)
        directory.forget({device.pk + 1})
        identity = await looking_up

        assert identity is not None
        assert directory.is_current(identity)

    async def test_an_identity_from_before_is_never_current_again(self, directory: Directory, device: Device) -> None:
        identity = await directory.authenticate(await database_sync_to_async(issue)(device))
        assert identity is not None

        directory.forget({device.pk})
        directory.forget({device.pk + 1})

        assert not directory.is_current(identity)
