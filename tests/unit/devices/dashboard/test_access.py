"""Who may look at what, and under which policy browsers show it."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from devices.models import Device
from tests.unit.devices.dashboard.conftest import MakeDevice


@pytest.fixture
def device(make_device: MakeDevice) -> Device:
    return make_device("thermo-1")


@pytest.mark.parametrize("path", ["/", "/devices/{}/", "/devices/{}/history?key=t&range=1h"])
def test_every_page_asks_strangers_to_log_in(client: Client, device: Device, path: str) -> None:
    path = path.format(device.pk)

    response = client.get(path)

    assert response.status_code == 302
    assert response["Location"].startswith("/login/?next=")


@pytest.mark.parametrize("path", ["/", "/devices/{}/", "/devices/{}/history?key=t&range=1h"])
def test_every_page_is_refused_to_a_user_without_the_permission_to_view_devices(
    client: Client, device: Device, path: str
) -> None:
    client.force_login(User.objects.create_user("nobody"))

    response = client.get(path.format(device.pk))

    assert response.status_code == 403
    assert "Can view device" in response.content.decode()


def test_the_permission_to_view_devices_is_enough_to_watch(watching: Client, device: Device) -> None:
    assert watching.get("/").status_code == 200
    assert watching.get(f"/devices/{device.pk}/").status_code == 200


def test_a_device_that_does_not_exist_is_not_found(watching: Client) -> None:
    assert watching.get("/devices/4711/").status_code == 404
    assert watching.get("/devices/4711/history?key=t&range=1h").status_code == 404


def test_logging_in_leads_to_the_page_that_was_asked_for(client: Client, watcher: User, device: Device) -> None:
    page = f"/devices/{device.pk}/"

    response = client.post("/login/", {"username": "watcher", "password": "correct horse", "next": page})

    assert response["Location"] == page


def test_logging_in_does_not_lead_to_another_site(client: Client, watcher: User) -> None:
    fields = {"username": "watcher", "password": "correct horse", "next": "https://evil.example/"}

    assert client.post("/login/", fields)["Location"] == "/"


def test_a_wrong_password_is_said_so_without_saying_what_was_wrong(client: Client, watcher: User) -> None:
    response = client.post("/login/", {"username": "watcher", "password": "wrong", "next": ""})

    assert response.status_code == 200
    assert "correct username and password" in response.content.decode()


def test_logging_out_takes_a_post(watching: Client) -> None:
    assert watching.get("/logout/").status_code == 405
    assert watching.post("/logout/")["Location"] == "/login/"
    assert watching.get("/").status_code == 302


@pytest.mark.parametrize("path", ["/", "/login/", "/admin/", "/admin/login/", "/no/such/page"])
def test_every_response_forbids_what_is_inline_or_from_elsewhere(operator: Client, path: str) -> None:
    policy = operator.get(path)["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
