"""What a new user does and sees: a device is added, it publishes, and it is there, live, without a reload."""

import subprocess
from collections.abc import Callable

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from playwright.sync_api import Locator, Page, expect
from websockets.sync.client import connect as connect_websocket

from tests.e2e.conftest import Pages, Site

DEADLINE_MS = 30_000
TOPIC = "v1/devices/me/telemetry"


def by_mosquitto_pub(site: Site, token: str, telemetry: str) -> None:
    address = ["-h", "127.0.0.1", "-p", str(site.mqtt_port)]
    subprocess.run(
        ["mosquitto_pub", *address, "-u", token, "-t", TOPIC, "-q", "1", "-m", telemetry], check=True, timeout=60
    )


def by_paho(site: Site, token: str, telemetry: str) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.username_pw_set(token)
    client.connect("127.0.0.1", site.mqtt_port)
    client.loop_start()
    client.publish(TOPIC, telemetry, qos=1).wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


def by_curl(site: Site, token: str, telemetry: str) -> None:
    assert site.post(token, telemetry) == "200"


def by_websocket(site: Site, token: str, telemetry: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    address = f"ws://127.0.0.1:{site.http_port}/ws/device/"
    with connect_websocket(address, additional_headers=headers) as socket:
        socket.send(telemetry)
        assert socket.recv(timeout=60) == '{"ack":1}'


Publish = Callable[[Site, str, str], None]
WIRES = [by_mosquitto_pub, by_paho, by_curl, by_websocket]


def value_of(page: Page, device: str, key: str) -> Locator:
    shown = page.get_by_role("row").filter(has=page.get_by_role("link", name=device, exact=True))
    return shown.get_by_role("listitem").filter(has_text=key).locator(".value")


def test_the_first_device_appears_on_the_empty_dashboard_by_itself(site: Site, pages: Pages) -> None:
    page = pages.open("/")
    expect(page.get_by_role("heading", name="Send a first reading")).to_be_visible()
    expect(page.locator("#live-state")).to_have_text("Updates: live")

    token = site.add_device("first")
    by_curl(site, token, '{"temperature": 22}')

    expect(value_of(page, "first", "temperature")).to_have_text("22", timeout=DEADLINE_MS)
    expect(page.get_by_role("heading", name="Send a first reading")).to_be_hidden()
    expect(page.locator("#device-count")).to_have_text("1")


@pytest.mark.parametrize("publish", WIRES)
def test_a_reading_by_each_wire_is_on_the_dashboard_and_in_the_admin(
    site: Site, pages: Pages, publish: Publish
) -> None:
    name = publish.__name__.replace("_", "-")
    token = site.add_device(name)
    page = pages.open("/")
    expect(page.locator("#live-state")).to_have_text("Updates: live")

    publish(site, token, '{"temperature": 21.5, "state": "on"}')

    expect(value_of(page, name, "temperature")).to_have_text("21.5", timeout=DEADLINE_MS)
    expect(value_of(page, name, "state")).to_have_text("on")

    publish(site, token, '{"temperature": 23.25}')

    expect(value_of(page, name, "temperature")).to_have_text("23.25", timeout=DEADLINE_MS)

    admin = pages.open("/admin/gateway_devices/device/?q=" + name)
    admin.get_by_role("link", name=name).click()
    admin.get_by_role("link", name="Readings").click()
    admin.get_by_label("Key").first.select_option("temperature")
    admin.get_by_role("button", name="Show").click()
    expect(admin.locator(".reading-value")).to_have_text(["23.25", "21.5"])


def test_a_connection_is_shown_and_so_is_its_end(site: Site, pages: Pages) -> None:
    token = site.add_device("connecting")
    page = pages.open("/")
    badge = page.get_by_role("row").filter(has_text="connecting").locator(".badge")
    expect(badge).to_have_text("Not connected")

    headers = {"Authorization": f"Bearer {token}"}
    with connect_websocket(f"ws://127.0.0.1:{site.http_port}/ws/device/", additional_headers=headers):
        expect(badge).to_have_text("Connected", timeout=DEADLINE_MS)
    expect(badge).to_have_text("Not connected", timeout=DEADLINE_MS)


def test_a_device_is_added_in_the_admin_publishes_and_is_revoked(site: Site, pages: Pages) -> None:
    page = pages.open("/")
    page.get_by_role("link", name="Add a device").click()
    page.get_by_label("Name").fill("from-the-admin")
    page.get_by_role("button", name="Save", exact=True).click()

    token = page.locator("code.token").inner_text()
    expect(page.get_by_text(f"/api/v1/{token}/telemetry")).to_be_visible()
    assert site.post(token, '{"temperature": 20}') == "200"

    page.get_by_role("link", name="Back to the device").click()
    assert token not in page.content()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("is revoked.")).to_be_visible()
    page.wait_for_timeout(2_000)
    assert site.post(token, '{"temperature": 21}') == "401"
