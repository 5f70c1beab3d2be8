"""Deleting in the admin: by whom, of what, with a question before, and the record that stays."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from devices import deletion
from devices.admin import DEVICES_PER_TRANSACTION
from devices.models import Deletion, Device, DeviceType, DisconnectOrder, Key, LatestValue, Reading
from tests.unit.devices.dashboard.conftest import MakeDevice

CHANGELIST = "/admin/gateway_devices/device/"
MINUTE = 60_000


@pytest.fixture
def device(make_device: MakeDevice) -> Device:
    device = make_device("thermo-1")
    key = Key.objects.create(name="t")
    Reading.objects.bulk_create(
        Reading(device=device, key=key, ts=number * MINUTE, seq=0, received=1, number=number) for number in range(10)
    )
    LatestValue.objects.create(device=device, key=key, ts=9 * MINUTE, received=9 * MINUTE, number=9.0)
    return device


def address(device: Device) -> str:
    return f"{CHANGELIST}{device.pk}/readings/delete/"


def staff(*codenames: str, csrf: bool = False) -> Client:
    user = User.objects.create_user("clerk", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(codename__in=codenames, content_type__app_label="gateway_devices")
    )
    client = Client(enforce_csrf_checks=csrf)
    client.force_login(user)
    return client


def delete_all() -> None:
    while deletion.delete_slice(1_000) is not None:
        pass


def test_who_may_delete_readings_chooses_is_asked_and_has_them_deleted(device: Device) -> None:
    client = staff("view_device", "delete_reading", "view_deletion")
    page = client.get(f"{CHANGELIST}{device.pk}/readings/").content.decode()
    assert f'action="{address(device)}"' in page
    chosen = {"key": "t", "since": "1970-01-01T00:03", "until": "1970-01-01T00:05"}

    question = client.post(address(device), chosen).content.decode()
    assert "t of thermo-1 from 1970-01-01 00:03:00 UTC until 1970-01-01 00:06:00 UTC" in question
    assert not Deletion.objects.exists()

    answer = client.post(address(device), {**chosen, "sure": "yes"}, follow=True).content.decode()
    assert "/admin/gateway_devices/deletion/" in answer
    assert "waits" in client.get("/admin/gateway_devices/deletion/").content.decode()
    delete_all()

    assert sorted(Reading.objects.values_list("number", flat=True)) == [0, 1, 2, 6, 7, 8, 9]
    assert "done" in client.get("/admin/gateway_devices/deletion/").content.decode()
    what = "t of thermo-1 from 1970-01-01 00:03:00 UTC until 1970-01-01 00:06:00 UTC"
    assert [(entry.user.get_username(), entry.change_message) for entry in LogEntry.objects.order_by("pk")] == [
        ("clerk", f"Ordered readings to be deleted: {what}."),
        ("clerk", f"Deleted 3 readings: {what}."),
    ]


def test_all_keys_of_all_times_can_be_deleted(operator: Client, device: Device) -> None:
    operator.post(address(device), {"key": "", "since": "", "until": "", "sure": "yes"})
    delete_all()

    assert not Reading.objects.exists()
    assert not LatestValue.with_future.exists()
    assert Device.objects.exists()


@pytest.mark.parametrize(
    ("permissions", "status"),
    [
        ([], 404),
        (["view_device"], 403),
        (["view_device", "change_device", "delete_device"], 403),
        (["delete_reading"], 404),
    ],
)
def test_nobody_else_may(device: Device, permissions: list[str], status: int) -> None:
    client = staff(*permissions)

    assert client.post(address(device), {"key": "t", "sure": "yes"}).status_code in (status, 403)
    assert "Delete readings" not in client.get(f"{CHANGELIST}{device.pk}/readings/").content.decode()
    assert not Deletion.objects.exists()


def test_a_page_of_somebody_else_cannot_have_readings_deleted(device: Device) -> None:
    client = staff("view_device", "delete_reading", csrf=True)

    assert client.post(address(device), {"key": "t", "sure": "yes"}).status_code == 403
    assert not Deletion.objects.exists()


def test_looking_at_the_address_deletes_nothing(operator: Client, device: Device) -> None:
    assert operator.get(f"{address(device)}?sure=yes").status_code == 405
    assert not Deletion.objects.exists()


@pytest.mark.parametrize(
    "chosen",
    [
        {"key": "nope"},
        {"key": "other"},
        {"key": "\0"},
        {"key": "t", "since": "yesterday"},
        {"key": "t", "until": "2026-13-01T00:00"},
        {"key": "t", "since": "2026-01-02T00:00", "until": "2026-01-01T00:00"},
    ],
)
def test_what_is_not_understood_deletes_nothing_and_is_said(
    operator: Client, device: Device, chosen: dict[str, Any]
) -> None:
    Key.objects.create(name="other")

    page = operator.post(address(device), {**chosen, "sure": "yes"}, follow=True).content.decode()

    assert 'class="error"' in page
    assert not Deletion.objects.exists()


def test_the_record_cannot_be_changed_or_deleted(operator: Client, device: Device) -> None:
    order = deletion.delete_readings(device)

    assert operator.post(f"/admin/gateway_devices/deletion/{order.pk}/delete/", {"post": "yes"}).status_code == 403
    assert operator.get("/admin/gateway_devices/deletion/add/").status_code == 403


@pytest.mark.parametrize("how", ["page", "action"])
def test_a_device_that_is_deleted_is_gone_at_once_and_the_record_says_by_whom_and_how_far(
    operator: Client, device: Device, how: str
) -> None:
    if how == "page":
        answer = operator.post(f"{CHANGELIST}{device.pk}/delete/", {"post": "yes"}, follow=True)
    else:
        form = {"action": "delete_selected", "_selected_action": [device.pk], "post": "yes"}
        answer = operator.post(CHANGELIST, form, follow=True)

    assert "Readings are deleted in the background" in answer.content.decode()
    assert not Device.objects.exists()
    assert Reading.objects.count() == 10
    assert DisconnectOrder.objects.get().device_id == device.pk
    delete_all()
    assert not Reading.objects.exists()
    order = Deletion.objects.get()
    assert (order.deleted, str(order), str(order.requested_by)) == (10, "all keys of thermo-1", "operator")


@pytest.mark.parametrize("action", ["disable_devices", "enable_devices", "delete_selected"])
def test_what_is_done_with_many_devices_takes_few_transactions(operator: Client, action: str) -> None:
    kind = DeviceType.objects.create(name="default")
    Device.objects.bulk_create(Device(name=f"device-{number}", type=kind) for number in range(250))
    form = {"action": action, "_selected_action": list(Device.objects.values_list("pk", flat=True)), "post": "yes"}

    with CaptureQueriesContext(connection) as queries:
        operator.post(CHANGELIST, form)

    begun = [query for query in queries if query["sql"].startswith("SAVEPOINT")]
    assert len(begun) <= 3 * -(-250 // DEVICES_PER_TRANSACTION)
    assert DisconnectOrder.objects.count() == 250
    if action != "delete_selected":
        assert len(queries) < 60
        assert LogEntry.objects.count() == 250
        assert not Device.objects.exclude(enabled=action == "enable_devices").exists()
