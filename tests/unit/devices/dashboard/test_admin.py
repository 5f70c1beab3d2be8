"""The admin: devices and their tokens are managed, readings are looked at."""

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import get_resolver

from devices import credentials
from devices.models import Credential, Device, DeviceType, DisconnectOrder, GatewayInstance, Key, LatestValue, Reading
from tests.support.addresses import addresses, arguments_for
from tests.unit.devices.dashboard.conftest import MakeDevice

CHANGELIST = "/admin/gateway_devices/device/"
VALUE = re.compile(r'reading-value"><span class="value">([^<]+)</span>')
TOKEN = re.compile(r'<code class="token"[^>]*>([A-Za-z0-9]{20,64})</code>')


@pytest.fixture
def device(make_device: MakeDevice) -> Device:
    return make_device("thermo-1")


def add_path(device: Device, page: str) -> str:
    return f"{CHANGELIST}{device.pk}/{page}"


def test_adding_a_device_issues_a_token_and_shows_the_lines_for_a_first_reading(operator: Client) -> None:
    device_type = DeviceType.objects.create(name="climate")

    response = operator.post(f"{CHANGELIST}add/", {"name": "thermo-1", "type": device_type.pk})

    page = response.content.decode()
    (token,) = TOKEN.findall(page)
    assert f"-u {token} -t v1/devices/me/telemetry" in page
    assert f"/api/v1/{token}/telemetry" in page
    assert "no-store" in response["Cache-Control"]
    credential = Credential.objects.get(device__name="thermo-1")
    assert credential.token_sha256 == credentials.hash_of(token)


def test_a_token_is_kept_nowhere_once_it_is_shown(operator: Client, device: Device) -> None:
    response = operator.post(add_path(device, "issue/"))

    (token,) = TOKEN.findall(response.content.decode())
    assert token not in operator.get(add_path(device, "change/")).content.decode()
    assert all(token not in str(session.get_decoded()) for session in Session.objects.all())
    assert all(token not in cookie.value for cookie in operator.cookies.values())
    assert all(token not in str(entry.change_message) for entry in LogEntry.objects.all())


def test_a_name_that_is_taken_adds_no_device_and_no_token(operator: Client, device: Device) -> None:
    response = operator.post(f"{CHANGELIST}add/", {"name": device.name, "type": device.type_id})

    assert "already exists" in response.content.decode()
    assert Credential.objects.count() == 0


def test_rotating_revokes_all_tokens_cuts_connections_and_shows_the_new_one(operator: Client, device: Device) -> None:
    old = credentials.issue(device)

    response = operator.post(add_path(device, "rotate/"))

    (token,) = TOKEN.findall(response.content.decode())
    assert token != old
    assert [credential.hint for credential in device.credentials.filter(revoked_at=None)] == [token[-4:]]
    assert DisconnectOrder.objects.filter(device=device).exists()


def test_revoking_one_token_leaves_the_others(operator: Client, device: Device) -> None:
    first, second = credentials.issue(device), credentials.issue(device)
    credential = device.credentials.get(token_sha256=credentials.hash_of(first))

    response = operator.post(add_path(device, f"revoke/{credential.pk}/"), follow=True)

    assert f"…{first[-4:]} is revoked" in response.content.decode()
    assert [credential.hint for credential in device.credentials.filter(revoked_at=None)] == [second[-4:]]
    assert DisconnectOrder.objects.filter(device=device).exists()


def test_the_page_of_a_device_shows_its_user_names_and_no_password(operator: Client, device: Device) -> None:
    password = credentials.issue_password(device, "plant-7", client_id="sensor")

    page = operator.get(add_path(device, "change/")).content.decode()

    assert "plant-7" in page
    assert password not in page
    assert "pbkdf2" not in page


@pytest.mark.parametrize("page", ["issue/", "rotate/"])
def test_looking_at_an_address_changes_nothing(operator: Client, device: Device, page: str) -> None:
    assert operator.get(add_path(device, page)).status_code == 405
    assert Credential.objects.count() == 0


def test_a_token_of_another_device_is_not_found(operator: Client, device: Device, make_device: MakeDevice) -> None:
    credentials.issue(device)
    other = make_device("other")

    assert operator.post(add_path(other, f"revoke/{device.credentials.get().pk}/")).status_code == 404


@pytest.mark.parametrize("action", ["issue_tokens", "rotate_tokens"])
def test_tokens_of_many_devices_are_shown_on_one_page(operator: Client, make_device: MakeDevice, action: str) -> None:
    chosen = [make_device(f"device-{number}").pk for number in range(3)]

    response = operator.post(CHANGELIST, {"action": action, "_selected_action": chosen})

    assert len(set(TOKEN.findall(response.content.decode()))) == 3


def test_disabling_cuts_a_device_off_and_enabling_lets_it_in(operator: Client, device: Device) -> None:
    operator.post(CHANGELIST, {"action": "disable_devices", "_selected_action": [device.pk]})
    device.refresh_from_db()
    assert not device.enabled
    assert DisconnectOrder.objects.count() == 1

    operator.post(CHANGELIST, {"action": "enable_devices", "_selected_action": [device.pk]})
    device.refresh_from_db()
    assert device.enabled


def test_a_change_that_matters_to_connections_cuts_them_and_another_does_not(operator: Client, device: Device) -> None:
    management = management_forms()
    unchanged = {"type": device.type_id, "enabled": "on", **management}

    operator.post(add_path(device, "change/"), {"name": "renamed", **unchanged})
    device.refresh_from_db()
    assert (device.name, DisconnectOrder.objects.count()) == ("renamed", 0)

    operator.post(add_path(device, "change/"), {"name": "renamed", "type": device.type_id, **management})
    assert DisconnectOrder.objects.count() == 1


def management_forms(**certificate: str) -> dict[str, Any]:
    """What a device's page sends besides its own fields; with the name in certificates that is added."""
    counts = {"credentials-TOTAL_FORMS": 0, "credentials-INITIAL_FORMS": 0}
    counts |= {"password_logins-TOTAL_FORMS": 0, "password_logins-INITIAL_FORMS": 0}
    counts |= {"certificate_names-TOTAL_FORMS": int(bool(certificate)), "certificate_names-INITIAL_FORMS": 0}
    return counts | {f"certificate_names-0-{name}": value for name, value in certificate.items()}


class TestCertificates:
    FINGERPRINT = ":".join(["AB"] * 32)

    def add(self, operator: Client, device: Device, kind: str, value: str) -> Any:
        form = {
            "name": device.name,
            "type": device.type_id,
            "enabled": "on",
            **management_forms(kind=kind, value=value),
        }
        return operator.post(add_path(device, "change/"), form)

    def test_a_name_is_added_in_the_form_in_which_it_is_looked_for(self, operator: Client, device: Device) -> None:
        assert self.add(operator, device, "fingerprint", self.FINGERPRINT).status_code == 302

        assert [str(name) for name in device.certificate_names.all()] == ["fingerprint " + "ab" * 32]
        assert "ab" * 32 in operator.get(add_path(device, "change/")).content.decode()

    @pytest.mark.parametrize(("kind", "value"), [("fingerprint", "AB:CD"), ("san", "sensor-7"), ("san", "IP:nowhere")])
    def test_one_that_no_certificate_has_is_refused(
        self, operator: Client, device: Device, kind: str, value: str
    ) -> None:
        answer = self.add(operator, device, kind, value)

        assert answer.status_code == 200
        assert 'class="errorlist"' in answer.content.decode()
        assert not device.certificate_names.exists()

    def test_two_devices_cannot_have_one_name(self, operator: Client, device: Device, make_device: MakeDevice) -> None:
        self.add(operator, make_device("other"), "cn", "sensor-7")

        assert self.add(operator, device, "cn", "sensor-7").status_code == 200
        assert not device.certificate_names.exists()

    def test_revoking_one_cuts_the_connections_and_frees_the_name(
        self, operator: Client, device: Device, make_device: MakeDevice
    ) -> None:
        self.add(operator, device, "cn", "sensor-7")
        name = device.certificate_names.get()

        answer = operator.post(add_path(device, f"distrust/{name.pk}/"))

        assert answer.status_code == 302
        assert [order.reason for order in DisconnectOrder.objects.all()] == ["certificate revoked"]
        assert self.add(operator, make_device("other"), "cn", "sensor-7").status_code == 302

    def test_who_may_only_look_cannot(self, operator: Client, device: Device) -> None:
        self.add(operator, device, "cn", "sensor-7")
        name = device.certificate_names.get()
        viewer = Client()
        user = User.objects.create_user("viewer", is_staff=True)
        user.user_permissions.add(Permission.objects.get(codename="view_device"))
        viewer.force_login(user)

        assert "sensor-7" in viewer.get(add_path(device, "change/")).content.decode()
        assert viewer.post(add_path(device, f"distrust/{name.pk}/")).status_code in (403, 404)
        assert not DisconnectOrder.objects.exists()


def test_the_list_finds_filters_and_sorts(
    operator: Client, make_device: MakeDevice, living_gateway: GatewayInstance
) -> None:
    make_device("here", connected_to=living_gateway)
    make_device("away", type_name="climate", enabled=False)

    def shown(query: str) -> list[str]:
        page = operator.get(f"{CHANGELIST}?{query}").content.decode()
        return [name for name in ("here", "away") if f">{name}</span></a>" in page]

    assert shown("") == ["here", "away"]
    assert shown("q=aw") == ["away"]
    assert shown("connected=yes") == ["here"]
    assert shown("connected=no") == ["away"]
    assert shown("enabled__exact=0") == ["away"]
    assert shown("o=4.5") == ["here", "away"]


def test_deleting_a_device_names_it_without_reading_its_readings(
    operator: Client, device: Device, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(12):
        page = operator.get(add_path(device, "delete/")).content.decode()

    assert "thermo-1, with its access tokens and all of its readings" in page
    operator.post(add_path(device, "delete/"), {"post": "yes"})
    assert not Device.objects.exists()
    assert [order.device_id for order in DisconnectOrder.objects.all()] == [device.pk]


def test_the_first_device_needs_no_type_made_first(operator: Client) -> None:
    page = operator.get(f"{CHANGELIST}add/").content.decode()

    assert f'<option value="{DeviceType.objects.get().pk}" selected>default</option>' in page


def test_readings_are_shown_a_page_at_a_time_newest_first(operator: Client, device: Device) -> None:
    key = Key.objects.create(name="temperature")
    LatestValue.objects.create(device=device, key=key, ts=249, received=1, number=249.5)
    Reading.objects.bulk_create(
        Reading(device=device, key=key, ts=ts // 2, seq=ts % 2, received=1, number=ts + 0.5) for ts in range(250)
    )

    def values(address: str) -> list[float]:
        page = operator.get(address).content.decode()
        return [float(value) for value in VALUE.findall(page)]

    address = add_path(device, "readings/")
    seen = []
    while True:
        seen.append(values(address))
        older = re.search(r'href="(\?[^"]*)">Older', operator.get(address).content.decode())
        if older is None:
            break
        address = add_path(device, "readings/") + older.group(1).replace("&amp;", "&")

    assert [len(page) for page in seen] == [100, 100, 50]
    assert [value for page in seen for value in page] == [ts + 0.5 for ts in reversed(range(250))]


def test_readings_can_be_narrowed_to_a_key_and_a_time(operator: Client, device: Device) -> None:
    minute = 60_000
    for name, text in (("temperature", None), ("state", '"on"')):
        key = Key.objects.create(name=name)
        LatestValue.objects.create(device=device, key=key, ts=1, received=1, number=1.0)
        for index in range(5):
            Reading.objects.create(
                device=device, key=key, ts=index * minute, seq=0, received=1, number=None if text else index, text=text
            )

    page = operator.get(add_path(device, "readings/?key=temperature&since=1970-01-01T00:01&until=1970-01-01T00:02"))

    assert VALUE.findall(page.content.decode()) == ["2", "1"]
    state = operator.get(add_path(device, "readings/?key=state")).content.decode()
    assert VALUE.findall(state) == ["on"] * 5


def test_a_broken_filter_is_left_out(operator: Client, device: Device) -> None:
    assert operator.get(add_path(device, "readings/?since=yesterday&before=x&key=nope")).status_code == 200


def test_staff_without_permission_see_and_change_nothing(client: Client, device: Device) -> None:
    client.force_login(User.objects.create_user("clerk", is_staff=True))

    assert client.get(add_path(device, "readings/")).status_code in (403, 404)
    assert client.post(add_path(device, "issue/")).status_code in (403, 404)
    assert Credential.objects.count() == 0


def test_a_type_offers_the_payload_profiles_that_there_are(operator: Client) -> None:
    page = operator.get("/admin/gateway_devices/devicetype/add/").content.decode()

    assert '<option value="thingsboard" selected>' in page


def test_no_page_turns_its_text_around_because_of_a_name(operator: Client) -> None:
    DeviceType.objects.create(name="\u202eepyt")
    added = operator.post(f"{CHANGELIST}add/", {"name": "\u202eecived", "type": DeviceType.objects.get().pk})
    pages = {"the token": added.content.decode()}
    paths = list(addresses(get_resolver().url_patterns, arguments_for(Device.objects.get().pk)))
    for path in paths:
        answer = operator.get(path)
        if answer.status_code == 200 and answer["Content-Type"].startswith("text/html"):
            pages[path] = answer.content.decode()

    shown = {path: re.sub(r'value="[^"]*"', "", page) for path, page in pages.items()}  # what is edited is as it is
    assert [path for path, page in shown.items() if "\u202e" in page] == []
    assert sum("\\u202eecived" in page for page in shown.values()) > 6
