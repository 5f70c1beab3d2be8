"""Access tokens: issued, looked up, remembered, revoked."""

import asyncio
import hashlib
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from devices.client_certificates import Holder, trust
from devices.credentials import (
    CACHE_S,
    CACHE_SIZE,
    MAX_TOKEN_LENGTH,
    NEGATIVE_CACHE_S,
    NEGATIVE_CACHE_SIZE,
    Answer,
    Denied,
    DeviceDirectory,
    Found,
    Identity,
    Key,
    Question,
    _Kind,
    hash_of,
    issue,
    read_credentials,
    revoke,
    rotate,
    set_enabled,
)
from devices.models import Credential, Device, DisconnectOrder, valid
from devices.profiles import profile_of
from gateway.db import database_sync_to_async
from tests.support.authority import Authority
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
async def directory(clock: Clock) -> AsyncIterator[DeviceDirectory]:
    directory = DeviceDirectory(clock=clock)
    yield directory
    await directory.close()


@pytest.fixture
def device(sqlite_database: Path, new_device: MakeStoredDevice) -> Device:
    return new_device("thermo-1")


VALID = Holder("token …aaaa", None, 7, "thermo-7", True, "thingsboard")


def known(found: Found) -> bool:
    """Whether a device was found that is let in."""
    return isinstance(found, Identity)


def cuts() -> list[tuple[int, str]]:
    return list(DisconnectOrder.objects.order_by("pk").values_list("device_id", "reason"))


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

    def test_rotation_with_an_overlap_leaves_the_tokens_that_there_are_valid_until_its_end(
        self, device: Device
    ) -> None:
        old, before = issue(device), timezone.now()

        new = rotate(device, overlap_s=3600)

        kept = Credential.objects.get(token_sha256=hash_of(old))
        assert kept.revoked_at is not None
        assert before + timedelta(seconds=3600) <= kept.revoked_at <= timezone.now() + timedelta(seconds=3600)
        assert kept.is_valid
        assert Credential.objects.get(token_sha256=hash_of(new)).revoked_at is None
        assert cuts() == [(device.pk, "credentials rotated")]

    def test_a_second_rotation_ends_the_overlap_of_the_first_and_never_makes_it_longer(self, device: Device) -> None:
        issue(device)
        rotate(device, overlap_s=3600)
        [first_end] = Credential.objects.exclude(revoked_at=None).values_list("revoked_at", flat=True)

        rotate(device, overlap_s=7200)
        assert Credential.objects.filter(revoked_at=first_end).count() == 1

        newest = rotate(device)
        assert [each.token_sha256 for each in Credential.objects.filter(valid())] == [hash_of(newest)]

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
    @pytest.fixture
    def device(self, database: str, new_device: MakeStoredDevice) -> Device:
        return new_device("thermo-1")

    async def test_a_valid_token_is_that_of_its_device(self, directory: DeviceDirectory, device: Device) -> None:
        token = await database_sync_to_async(issue)(device)

        identity = await directory.authenticate(token)

        assert isinstance(identity, Identity)
        assert (identity.device_id, identity.name) == (device.pk, "thermo-1")
        assert identity.profile is profile_of("thingsboard")
        assert directory.is_current(identity)

    async def test_several_tokens_of_a_device_are_valid_side_by_side(
        self, directory: DeviceDirectory, device: Device
    ) -> None:
        for _ in range(2):
            assert known(await directory.authenticate(await database_sync_to_async(issue)(device)))

    @pytest.mark.parametrize(
        ("token", "named"),
        [
            ("", "of 0 characters"),
            ("unknown", "of 7 characters"),
            ("unknown-but-long-enough", "…ough"),
            ("nul-and-escape-and-\0\x1b[2J", r"…\x1b[2J"),
            ("grün" * 8, "of 32 characters"),
            ("\ud800" * 32, "of 32 characters"),
            ("x" * MAX_TOKEN_LENGTH, "…xxxx"),
            ("x" * 1_000_000, "of 1000000 characters"),
        ],
    )
    async def test_any_other_text_is_nobodys_and_named_by_its_end_or_its_length(
        self, directory: DeviceDirectory, device: Device, token: str, named: str
    ) -> None:
        assert await directory.authenticate(token) == Denied(f"unknown token {named}")

    async def test_a_token_of_a_disabled_device_says_whose_it_is(
        self, directory: DeviceDirectory, device: Device
    ) -> None:
        token = await database_sync_to_async(issue)(device)
        await database_sync_to_async(set_enabled)(device, False)

        denied = await directory.authenticate(token)

        assert isinstance(denied, Denied)
        assert (str(denied), denied.device_id) == (f"device thermo-1 ({device.pk}) is disabled", device.pk)

    async def test_a_revoked_one_says_whose_it_was_and_since_when(
        self, directory: DeviceDirectory, device: Device
    ) -> None:
        token = await database_sync_to_async(issue)(device)
        await database_sync_to_async(rotate)(device)
        two_hours_ago = timezone.now() - timedelta(hours=2, minutes=5)
        revoked = Credential.objects.exclude(revoked_at=None)
        await database_sync_to_async(revoked.update)(revoked_at=two_hours_ago)

        denied = await directory.authenticate(token)

        assert isinstance(denied, Denied)
        assert str(denied) == f"token …{token[-4:]} of thermo-1 ({device.pk}) was revoked 2 h ago"
        assert denied.device_id == device.pk

    async def test_one_that_is_to_be_revoked_lets_in_until_then_and_is_forgotten_then(
        self, directory: DeviceDirectory, device: Device, clock: Clock
    ) -> None:
        token = await database_sync_to_async(issue)(device)
        end = timezone.now() + timedelta(seconds=100)
        await database_sync_to_async(Credential.objects.update)(revoked_at=end)

        found = await directory.authenticate(token)

        assert isinstance(found, Identity)
        assert found.valid_until == end
        await database_sync_to_async(Credential.objects.update)(revoked_at=timezone.now())
        assert await directory.authenticate(token) is found
        clock.now += 100.1
        assert isinstance(await directory.authenticate(token), Denied)

    async def test_a_device_is_found_by_its_name_if_it_is_enabled(
        self, directory: DeviceDirectory, device: Device
    ) -> None:
        assert known(await directory.named("thermo-1"))
        assert str(await directory.named("nul\0")) == r"there is no device 'nul\x00'"

        await database_sync_to_async(set_enabled)(device, False)
        directory.forget({device.pk})

        assert str(await directory.named("thermo-1")) == f"device thermo-1 ({device.pk}) is disabled"

    async def test_a_certificate_is_that_of_its_device(
        self, directory: DeviceDirectory, device: Device, tmp_path: Path
    ) -> None:
        path, _ = Authority(tmp_path).issue("thermo", "/CN=thermo", "DNS:thermo.example.org")
        unknown = await directory.certified(path.read_text())
        await database_sync_to_async(trust)(device, "san", "DNS:thermo.example.org")
        directory.forget(set())

        assert known(await directory.certified(path.read_text()))
        names = "san DNS:thermo.example.org, cn thermo"
        assert str(unknown) == f"no device has a certificate of these names: {names}"

    def test_a_group_takes_one_query_for_each_kind_of_credential(self, device: Device) -> None:
        tokens = [issue(device) for _ in range(50)]
        names = {Key(_Kind.NAME, name): name for name in ("thermo-1", "thermo-2")}
        questions = {Key(_Kind.TOKEN, hash_of(token)): "" for token in tokens} | names

        with CaptureQueriesContext(connection) as queries:
            answers = read_credentials(questions)

        assert len(queries) == 2
        assert {type(answer) for key, answer in answers.items() if key.kind is _Kind.TOKEN} == {Holder}
        assert answers.keys() == questions.keys()


class TestRemembering:
    async def test_a_known_token_for_minutes(self, directory: DeviceDirectory, device: Device, clock: Clock) -> None:
        token = await database_sync_to_async(issue)(device)
        await directory.authenticate(token)
        await database_sync_to_async(Credential.objects.all().delete)()  # behind the directory's back

        clock.now += CACHE_S - 1
        assert known(await directory.authenticate(token))
        clock.now += 2
        assert not known(await directory.authenticate(token))

    async def test_an_unknown_one_for_seconds(self, directory: DeviceDirectory, device: Device, clock: Clock) -> None:
        assert not known(await directory.authenticate("a" * 32))
        await database_sync_to_async(Credential.objects.create)(device=device, token_sha256=hash_of("a" * 32), hint="a")

        assert not known(await directory.authenticate("a" * 32))
        clock.now += NEGATIVE_CACHE_S + 1
        assert known(await directory.authenticate("a" * 32))

    async def test_another_database_makes_it_forget_every_device_and_what_is_being_looked_up(self) -> None:
        directory = DeviceDirectory()
        identity = Identity(7, "thermo-1", profile_of("thingsboard"), directory.generation)
        assert directory.is_current(identity)

        directory.forget_all()

        assert not directory.is_current(identity)
        assert directory.is_current(Identity(7, "thermo-1", profile_of("thingsboard"), directory.generation))

    async def test_a_cut_forgets_the_device_and_every_unknown_token(
        self, directory: DeviceDirectory, device: Device, new_device: MakeStoredDevice
    ) -> None:
        token = await database_sync_to_async(issue)(device)
        other = await database_sync_to_async(new_device)("thermo-2")
        other_token = await database_sync_to_async(issue)(other)
        for each in (token, other_token, "unknown"):
            await directory.authenticate(each)
        await database_sync_to_async(Credential.objects.all().delete)()

        directory.forget({device.pk})

        assert not known(await directory.authenticate(token))
        assert known(await directory.authenticate(other_token))
        await database_sync_to_async(Credential.objects.create)(device=other, token_sha256=hash_of("unknown"), hint="n")
        assert known(await directory.authenticate("unknown"))

    async def test_the_memories_are_bounded_and_wrong_tokens_push_out_no_valid_one(self, clock: Clock) -> None:
        asked = Counter[str]()

        def read(questions: dict[Key, Question]) -> dict[Key, Answer]:
            asked.update(key.value for key in questions)
            return {key: VALID if key.value == hash_of("valid") else "unknown" for key in questions}

        directory = DeviceDirectory(clock=clock, read=read)
        await directory.authenticate("valid")
        for number in range(NEGATIVE_CACHE_SIZE + 10):
            await directory.authenticate(f"guess-{number}")

        assert known(await directory.authenticate("valid"))
        assert asked[hash_of("valid")] == 1
        assert len(directory._denied) == NEGATIVE_CACHE_SIZE
        await directory.authenticate("guess-0")
        assert asked[hash_of("guess-0")] == 2
        for number in range(CACHE_SIZE):
            directory._remember(Key(_Kind.TOKEN, str(number)), Identity(number, "", profile_of("thingsboard"), 0))
        assert len(directory._known) == CACHE_SIZE
        await directory.close()


class SlowDatabase:
    """Answers that a token is valid, when it is let."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.gate = threading.Event()

    def read(self, questions: dict[Key, Question]) -> dict[Key, Answer]:
        self.asked.set()
        assert self.gate.wait(60)
        return dict.fromkeys(questions, VALID)


class TestCutWhileLookingUp:
    """A look-up that began before a cut may have read what was true before it."""

    @pytest.fixture
    def slow(self) -> SlowDatabase:
        return SlowDatabase()

    @pytest.fixture
    async def directory(self, slow: SlowDatabase) -> AsyncIterator[DeviceDirectory]:
        directory = DeviceDirectory(read=slow.read)
        yield directory
        await directory.close()

    async def look_up(self, directory: DeviceDirectory, slow: SlowDatabase, *, cut: int) -> Identity:
        """What is found of a look-up during which a device is cut."""
        looking_up = asyncio.create_task(directory.authenticate("a" * 32))
        while not slow.asked.is_set():
            await asyncio.sleep(0)
        directory.forget({cut})
        slow.gate.set()
        identity = await looking_up
        assert isinstance(identity, Identity)
        return identity

    async def test_the_identity_is_not_current_and_not_remembered(
        self, directory: DeviceDirectory, slow: SlowDatabase
    ) -> None:
        identity = await self.look_up(directory, slow, cut=VALID.device_id)

        assert not directory.is_current(identity)
        again = await directory.authenticate("a" * 32)
        assert isinstance(again, Identity)
        assert directory.is_current(again)

    async def test_an_identity_of_another_device_stays_current(
        self, directory: DeviceDirectory, slow: SlowDatabase
    ) -> None:
        identity = await self.look_up(directory, slow, cut=VALID.device_id + 1)

        assert directory.is_current(identity)

    async def test_one_that_waits_while_a_device_is_cut_is_looked_up_after_it(
        self, directory: DeviceDirectory, slow: SlowDatabase
    ) -> None:
        first = asyncio.create_task(directory.authenticate("a" * 32))
        while not slow.asked.is_set():
            await asyncio.sleep(0)
        waiting = asyncio.create_task(directory.authenticate("b" * 32))
        await asyncio.sleep(0)

        directory.forget({VALID.device_id})
        slow.gate.set()

        before, after = await first, await waiting
        assert isinstance(before, Identity)
        assert isinstance(after, Identity)
        assert not directory.is_current(before)
        assert directory.is_current(after)

    async def test_an_identity_from_before_is_never_current_again(
        self, directory: DeviceDirectory, slow: SlowDatabase
    ) -> None:
        slow.gate.set()
        identity = await directory.authenticate("a" * 32)
        assert isinstance(identity, Identity)

        directory.forget({VALID.device_id})
        directory.forget({VALID.device_id + 1})

        assert not directory.is_current(identity)
