"""Provisioning: who gets a credential by the key and the secret of a type, and who does not."""

from typing import Any

import pytest

from devices.credentials import hash_of, issue, issue_password, revoke
from devices.limits import DeviceOptions
from devices.models import CertificateName, Credential, Device, DeviceType, PasswordLogin
from devices.profiles import PayloadError
from devices.profiles.provisioning import Provisioned, ProvisionRequest, decode_request, encode_success
from devices.provisioning import ProvisioningError, Strategy, disable, enable, provision
from devices.refusals import ProvisioningRefusal
from tests.unit.devices.conftest import MakeStoredDevice

TOKEN = "GivenByTheFirmware-1"


@pytest.fixture
def device_type(database: str) -> DeviceType:
    return DeviceType.objects.get_or_create(name="default")[0]


@pytest.fixture
def keys(device_type: DeviceType) -> tuple[str, str]:
    return enable(device_type, Strategy.CREATE)


def asked(keys: tuple[str, str], name: str = "new", **fields: Any) -> ProvisionRequest:
    return ProvisionRequest(device_name=name, provision_device_key=keys[0], provision_device_secret=keys[1], **fields)


class TestCreating:
    def test_a_device_is_made_with_a_token_that_is_its_own(self, keys: tuple[str, str]) -> None:
        provisioned = provision(asked(keys))

        [credential] = Credential.objects.select_related("device")
        assert isinstance(provisioned.value, str)
        assert (provisioned.credentials_type, credential.device.name) == ("ACCESS_TOKEN", "new")
        assert credential.token_sha256 == hash_of(provisioned.value)

    def test_a_device_without_a_name_gets_one(self, keys: tuple[str, str]) -> None:
        provision(asked(keys, ""))
        provision(asked(keys, ""))

        assert [len(name) for name in Device.objects.values_list("name", flat=True)] == [len("default-") + 20] * 2

    def test_a_token_that_is_given_is_taken(self, keys: tuple[str, str]) -> None:
        assert provision(asked(keys, token=TOKEN)).value == TOKEN
        assert Credential.objects.get().token_sha256 == hash_of(TOKEN)

    def test_a_user_name_and_a_password_are_made_or_taken(self, keys: tuple[str, str]) -> None:
        made = provision(asked(keys, "made", credentials_type="MQTT_BASIC")).value
        given = {"username": "u", "password": "p", "client_id": "c"}
        taken = provision(asked(keys, "taken", credentials_type="MQTT_BASIC", **given)).value

        assert isinstance(made, dict)
        assert (made["userName"], made["clientId"], len(made["password"])) == ("made", "", 32)
        assert taken == {"clientId": "c", "userName": "u", "password": "p"}
        assert sorted(PasswordLogin.objects.values_list("username", "client_id")) == [("made", ""), ("u", "c")]

    def test_a_certificate_is_trusted_by_its_fingerprint(self, keys: tuple[str, str]) -> None:
        provision(asked(keys, credentials_type="X509_CERTIFICATE", hash="AB" * 32))

        assert CertificateName.objects.get().value == "ab" * 32


class TestRefusing:
    def refused(self, request: ProvisionRequest) -> Any:
        before = Device.objects.count(), Credential.objects.count()
        with pytest.raises(ProvisioningError) as refused:
            provision(request)
        assert (Device.objects.count(), Credential.objects.count()) == before
        return refused.value.refusal

    def test_an_unknown_key_and_a_wrong_secret_are_told_alike(self, keys: tuple[str, str]) -> None:
        assert self.refused(asked((keys[0], "wrong"))) is ProvisioningRefusal.UNKNOWN
        assert self.refused(asked(("wrong", keys[1]))) is ProvisioningRefusal.UNKNOWN
        assert self.refused(asked((keys[0], ""))) is ProvisioningRefusal.UNKNOWN

    def test_a_new_key_ends_the_one_before_and_so_does_switching_off(
        self, device_type: DeviceType, keys: tuple[str, str]
    ) -> None:
        newer = enable(device_type, Strategy.CREATE)
        assert self.refused(asked(keys)) is ProvisioningRefusal.UNKNOWN

        disable(device_type)
        assert self.refused(asked(newer)) is ProvisioningRefusal.UNKNOWN

    def test_a_name_that_has_a_credential_is_used(self, keys: tuple[str, str], new_device: MakeStoredDevice) -> None:
        issue(new_device("token"))
        issue_password(new_device("password"), "u")

        assert self.refused(asked(keys, "token")) is ProvisioningRefusal.NAME
        assert self.refused(asked(keys, "password")) is ProvisioningRefusal.NAME

    def test_a_device_whose_credential_was_revoked_does_not_let_itself_in_again(self, keys: tuple[str, str]) -> None:
        provision(asked(keys))
        revoke(Credential.objects.get())

        assert self.refused(asked(keys)) is ProvisioningRefusal.NAME

    def test_an_imported_device_gets_a_credential_once_and_one_that_was_not_gets_none(
        self, device_type: DeviceType, new_device: MakeStoredDevice
    ) -> None:
        keys = enable(device_type, Strategy.IMPORTED)
        new_device("imported")

        assert self.refused(asked(keys, "unknown")) is ProvisioningRefusal.NAME
        assert provision(asked(keys, "imported")).credentials_type == "ACCESS_TOKEN"
        assert self.refused(asked(keys, "imported")) is ProvisioningRefusal.NAME

    def test_a_device_of_another_type_is_none_of_this_one(
        self, keys: tuple[str, str], new_device: MakeStoredDevice
    ) -> None:
        device = new_device("other")
        Device.objects.filter(pk=device.pk).update(type=DeviceType.objects.create(name="other"))

        assert self.refused(asked(keys, "other")) is ProvisioningRefusal.NAME

    def test_a_full_fleet_gets_no_further_device(
        self, keys: tuple[str, str], new_device: MakeStoredDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("devices.provisioning.configured", lambda: DeviceOptions(max_devices=1))
        new_device("first")

        assert self.refused(asked(keys)) is ProvisioningRefusal.FULL
        assert provision(asked(keys, "first"))

    @pytest.mark.parametrize(
        "fields",
        [
            {"token": "short"},
            {"token": "t" * 129},
            {"token": "with a blank and more"},
            {"credentials_type": "MQTT_BASIC", "username": "u" * 256},
            {"credentials_type": "MQTT_BASIC", "username": "nul\0"},
            {"credentials_type": "X509_CERTIFICATE"},
            {"credentials_type": "X509_CERTIFICATE", "hash": "no fingerprint"},
            {"name": "n" * 201},
            {"name": "nul\0"},
        ],
        ids=repr,
    )
    def test_a_bad_credential_or_name_leaves_nothing_behind(
        self, keys: tuple[str, str], fields: dict[str, Any]
    ) -> None:
        assert self.refused(asked(keys, **fields)) is ProvisioningRefusal.CREDENTIAL

    def test_a_token_in_use_is_refused(self, keys: tuple[str, str]) -> None:
        provision(asked(keys, "first", token=TOKEN))

        assert self.refused(asked(keys, "second", token=TOKEN)) is ProvisioningRefusal.CREDENTIAL


class TestPayloads:
    def test_a_request_is_read_as_thingsboard_writes_it(self) -> None:
        assert decode_request(
            b'{"deviceName": "n", "provisionDeviceKey": "k", "provisionDeviceSecret": "s", "gateway": true,'
            b' "credentialsType": "MQTT_BASIC", "clientId": "c", "username": "u", "password": "p"}'
        ) == asked(
            ("k", "s"), "n", credentials_type="MQTT_BASIC", client_id="c", username="u", password="p", gateway=True
        )

    @pytest.mark.parametrize(
        "payload",
        [b"", b"{", b"[]", b"{}", b'{"deviceName": "n"}', b'{"deviceName": 1}', b"\xff", b"[" * 10_000],
        ids=repr,
    )
    def test_what_is_no_request_to_be_provisioned_is_refused(self, payload: bytes) -> None:
        with pytest.raises(PayloadError):
            decode_request(payload)

    def test_success_is_told_as_thingsboard_tells_it(self) -> None:
        assert encode_success(Provisioned("ACCESS_TOKEN", "TOKEN")) == (
            b'{"credentialsValue":"TOKEN","credentialsType":"ACCESS_TOKEN","status":"SUCCESS"}'
        )
