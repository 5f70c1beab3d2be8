"""Claiming: who knows the secret in time becomes the owner, once."""

from typing import Any

import pytest
from django.contrib.auth import get_user_model

from devices.claims import MAX_WRONG_SECRETS, ClaimError, claim, open_for_claiming, release
from devices.device_lock import UnknownDeviceError
from devices.models import ClaimOffer, Device, now_ms
from devices.profiles import Claim, PayloadError, profile_of
from tests.unit.devices.conftest import MakeStoredDevice


class TestClaiming:
    @pytest.fixture
    def device(self, database: str, new_device: MakeStoredDevice) -> Device:
        return new_device("thermo-1")

    @pytest.fixture
    def anna(self, device: Device) -> Any:
        return get_user_model().objects.create_user("anna")

    def test_who_knows_the_secret_becomes_the_owner_and_the_offer_ends(self, device: Device, anna: Any) -> None:
        open_for_claiming(device.pk, "4711", 60_000)

        claimed = claim("thermo-1", "4711", anna)

        device.refresh_from_db()
        assert claimed == device
        assert (device.claimed_by, device.claimed_at) == (anna, claimed.claimed_at)
        assert not ClaimOffer.objects.exists()

    @pytest.mark.parametrize(("name", "secret"), [("thermo-1", "4712"), ("thermo-1", ""), ("thermo-2", "4711")])
    def test_a_wrong_name_and_a_wrong_secret_are_told_alike(
        self, device: Device, anna: Any, name: str, secret: str
    ) -> None:
        open_for_claiming(device.pk, "4711")

        with pytest.raises(ClaimError, match="there is no such device that can be claimed now with this secret"):
            claim(name, secret, anna)

        assert claim("thermo-1", "4711", anna) == device

    def test_the_fifth_wrong_secret_ends_an_offer_until_the_device_makes_another(
        self, device: Device, anna: Any
    ) -> None:
        open_for_claiming(device.pk, "4711")
        for _ in range(MAX_WRONG_SECRETS):
            with pytest.raises(ClaimError):
                claim("thermo-1", "wrong", anna)

        with pytest.raises(ClaimError):
            claim("thermo-1", "4711", anna)

        open_for_claiming(device.pk, "4711")
        assert claim("thermo-1", "4711", anna) == device

    def test_an_offer_ends_with_its_time(self, device: Device, anna: Any) -> None:
        open_for_claiming(device.pk, "4711", 60_000)
        ClaimOffer.objects.update(expires_at_ms=now_ms())

        with pytest.raises(ClaimError):
            claim("thermo-1", "4711", anna)

    def test_without_a_duration_an_offer_is_open_for_a_day(self, device: Device) -> None:
        before = now_ms()
        open_for_claiming(device.pk, "4711")

        assert before + 86_400_000 <= ClaimOffer.objects.get().expires_at_ms <= now_ms() + 86_400_000

    def test_a_device_that_has_an_owner_is_not_claimed_before_it_is_released(self, device: Device, anna: Any) -> None:
        open_for_claiming(device.pk, "4711")
        claim("thermo-1", "4711", anna)
        open_for_claiming(device.pk, "4711")

        with pytest.raises(ClaimError, match="thermo-1 has an owner already"):
            claim("thermo-1", "4711", anna)

        release(device)
        assert claim("thermo-1", "4711", anna) == device

    def test_a_disabled_device_is_not_claimed(self, device: Device, anna: Any) -> None:
        open_for_claiming(device.pk, "4711")
        Device.objects.update(enabled=False)

        with pytest.raises(ClaimError):
            claim("thermo-1", "4711", anna)

    def test_the_secret_is_not_in_the_database(self, device: Device) -> None:
        open_for_claiming(device.pk, "4711")

        assert not any("4711" in str(value) for value in ClaimOffer.objects.values().get().values())

    def test_a_deleted_device_is_not_opened(self, device: Device) -> None:
        with pytest.raises(UnknownDeviceError):
            open_for_claiming(device.pk + 1, "4711")


class TestPayloads:
    @pytest.mark.parametrize(
        ("payload", "expected"),
        [
            (b'{"secretKey": "s", "durationMs": 60000}', Claim("s", 60_000)),
            (b'{"secretKey": "s"}', Claim("s", None)),
            (b'{"durationMs": 1}', Claim("", 1)),
            (b"{}", Claim()),
            (b"", Claim()),
        ],
    )
    def test_a_claim_is_read(self, payload: bytes, expected: Claim) -> None:
        assert profile_of("thingsboard").decode_claim(payload) == expected

    @pytest.mark.parametrize(
        "payload",
        [
            b"[]",
            b"{",
            b'{"secretKey": 1}',
            b'{"secretKey": "%b"}' % (b"s" * 256),
            b'{"durationMs": 0}',
            b'{"durationMs": 2592000001}',
            b'{"durationMs": "60000"}',
            b'{"durationMs": true}',
        ],
    )
    def test_what_is_no_claim_is_refused(self, payload: bytes) -> None:
        with pytest.raises(PayloadError):
            profile_of("thingsboard").decode_claim(payload)
