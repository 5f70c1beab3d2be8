"""The page of one device and the history that its charts draw."""

import json
import re

import pytest
from django.test import Client

from devices import credentials
from devices.attributes import set_attributes
from devices.commands import cancel, create
from devices.dashboard.device_list import KEYS_PER_DEVICE
from devices.dashboard.views import COMMANDS, REFUSALS
from devices.models import Attribute, Device, Key, LatestValue, Reading, RecordedRefusal, now_ms
from tests.unit.devices.dashboard.conftest import MakeDevice


@pytest.fixture
def device(make_device: MakeDevice) -> Device:
    return make_device("thermo-1", values={"temperature": 21.5})


def store(device: Device, ts: int, number: float | None, text: str | None = None, key: str = "temperature") -> None:
    found, _ = Key.objects.get_or_create(name=key)
    Reading.objects.create(device=device, key=found, ts=ts, seq=0, received=ts, number=number, text=text)


def test_the_page_shows_the_ends_of_valid_tokens_only(watching: Client, device: Device) -> None:
    valid = credentials.issue(device)
    revoked = credentials.issue(device)
    credentials.revoke(device.credentials.get(hint=revoked[-4:]))

    page = watching.get(f"/devices/{device.pk}/").content.decode()

    assert f"…{valid[-4:]}" in page
    assert f"…{revoked[-4:]}" not in page
    assert valid not in page


def test_the_page_shows_the_last_refusals_as_text(watching: Client, device: Device, make_device: MakeDevice) -> None:
    for number in range(REFUSALS + 1):
        refuse(device, f"reason {number:02}", sample=b"<b>{", fault=3)
    refuse(make_device("thermo-2"), "that of another device")

    page = watching.get(f"/devices/{device.pk}/").content.decode()

    assert re.findall(r"reason (\d\d)", page) == [f"{number:02}" for number in range(REFUSALS, 0, -1)]
    assert "publish x from 192.0.2.1 (mqtt 0x99)" in page
    assert "&lt;b&gt;▸{" in page
    assert "that of another device" not in page


def test_a_device_that_was_refused_nothing_has_no_table_of_it(watching: Client, device: Device) -> None:
    assert "Refused" not in watching.get(f"/devices/{device.pk}/").content.decode()


def test_the_page_shows_attributes_and_what_became_of_commands_as_text(watching: Client, device: Device) -> None:
    set_attributes(device.pk, Attribute.Scope.SHARED, {"interval<": "<b>"})
    set_attributes(device.pk, Attribute.Scope.CLIENT, {"firmware": "x" * 1_000})
    for number in range(COMMANDS + 1):
        command = create(device, f"reboot<{number:02}")
    cancel(command.uuid, by="somebody")

    page = watching.get(f"/devices/{device.pk}/").content.decode()

    assert "interval&lt;" in page
    assert "&lt;b&gt;" in page
    assert page.count("the device does not know yet") == 1
    assert "x" * 201 not in page
    assert re.findall(r"reboot&lt;(\d\d)", page) == [f"{number:02}" for number in range(COMMANDS, 0, -1)]
    assert page.count("cancelled by somebody") == 1


def test_a_device_without_attributes_and_commands_has_no_tables_of_them(watching: Client, device: Device) -> None:
    page = watching.get(f"/devices/{device.pk}/").content.decode()

    assert 'aria-label="Attributes"' not in page
    assert 'aria-label="Commands"' not in page


def refuse(device: Device, reason: str, **sent: object) -> None:
    RecordedRefusal.objects.create(
        device=device,
        wire="mqtt",
        address="192.0.2.1",
        kind="payload",
        what="publish x",
        code=0x99,
        reason=reason,
        at_ms=now_ms(),
        **sent,
    )


def test_the_range_of_the_address_is_the_one_chosen(watching: Client, device: Device) -> None:
    page = watching.get(f"/devices/{device.pk}/?range=7d").content.decode()

    assert 'value="7d" checked' in page


@pytest.mark.parametrize(
    ("name", "length_ms"),
    [
        ("15m", 900_000),
        ("1h", 3_600_000),
        ("6h", 21_600_000),
        ("24h", 86_400_000),
        ("7d", 604_800_000),
        ("30d", 2_592_000_000),
    ],
)
def test_each_range_is_cut_into_at_most_six_hundred_buckets(
    watching: Client, device: Device, name: str, length_ms: int
) -> None:
    now = now_ms()
    for index in range(1_300):
        store(device, now - index * (length_ms // 1_300) - 50, float(index))

    history = watching.get(f"/devices/{device.pk}/history?key=temperature&range={name}").json()

    assert history["end"] - history["start"] == length_ms
    assert history["bucket_ms"] * 600 == length_ms
    assert 500 < len(history["points"]) <= 601
    assert sum(point[4] for point in history["points"]) > 1_290


def test_a_point_has_time_mean_minimum_maximum_and_count(watching: Client, device: Device) -> None:
    now = now_ms()
    store(device, now - 3_000_000, 1.0)
    store(device, now - 2_999_999, 4.0)

    points = watching.get(f"/devices/{device.pk}/history?key=temperature&range=30d").json()["points"]

    assert points == [[now - 2_999_999, 2.5, 1.0, 4.0, 2]]


def test_text_is_not_drawn(watching: Client, device: Device) -> None:
    store(device, now_ms() - 1_000, None, '"on"', key="state")

    assert watching.get(f"/devices/{device.pk}/history?key=state&range=1h").json()["points"] == []


def test_a_key_that_is_not_there_has_no_points(watching: Client, device: Device) -> None:
    assert watching.get(f"/devices/{device.pk}/history?key=nope&range=1h").json()["points"] == []


@pytest.mark.parametrize("query", ["", "key=temperature", "range=1h", "key=temperature&range=2h"])
def test_a_history_without_a_key_and_a_known_range_is_refused(watching: Client, device: Device, query: str) -> None:
    response = watching.get(f"/devices/{device.pk}/history?{query}")

    assert response.status_code == 400
    assert "15m" in response.json()["error"]


def test_a_long_value_is_cut_and_whole_at_an_address_of_its_own(watching: Client, make_device: MakeDevice) -> None:
    whole = json.dumps("<script>" * 40_000)
    device = make_device("big", values={"a&b": whole})

    page = watching.get(f"/devices/{device.pk}/")
    answer = watching.get(f"/devices/{device.pk}/value?key=a%26b")

    assert len(page.content) < 30_000
    assert f'href="/devices/{device.pk}/value?key=a%26b">all 320 kB</a>' in page.content.decode()
    assert answer.content.decode() == whole
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer["Content-Security-Policy"]
    assert answer["Content-Disposition"] == 'inline; filename="value.txt"'


def test_the_whole_of_a_reading_of_the_past_is_there_too(watching: Client, device: Device) -> None:
    store(device, 5, None, '{"deep":' * 900 + "1" + "}" * 900, key="deep")

    assert watching.get(f"/devices/{device.pk}/value?key=deep&ts=5&seq=0").content.startswith(b'{"deep":{"deep":')
    assert watching.get(f"/devices/{device.pk}/value?key=temperature").content == b"21.5"


@pytest.mark.parametrize("query", ["", "key=no", "key=%00", "key=temperature&ts=x&seq=0", "key=temperature&ts=1&seq=9"])
def test_a_value_that_there_is_not_is_404(watching: Client, device: Device, query: str) -> None:
    assert watching.get(f"/devices/{device.pk}/value?{query}").status_code == 404


def test_a_value_is_shown_only_to_who_may_look(client: Client, device: Device) -> None:
    assert client.get(f"/devices/{device.pk}/value?key=temperature").status_code == 302


def test_the_devices_state_is_beside_its_name_and_the_state_of_the_updates_is_not(
    watching: Client, device: Device
) -> None:
    Device.objects.update(disconnected_at_ms=2_000, clock_skew_ms=2_300_000_000_000)

    page = watching.get(f"/devices/{device.pk}/").content.decode()

    topbar, _, rest = page.partition("</header>")
    assert 'id="live-state"' in topbar
    assert 'id="live-state"' not in rest
    head = rest.partition('class="device-grid"')[0]
    assert "Not connected" in head
    assert 'id="since" data-format="since" data-ms="2000"' in head
    assert "Clock is 72 years ahead" in head


def test_keys_of_which_there_are_only_readings_of_the_future_are_named(watching: Client, device: Device) -> None:
    assert "Keys ahead of the clock" not in watching.get(f"/devices/{device.pk}/").content.decode()
    key = Key.objects.create(name="ear<ly")
    LatestValue.objects.create(device=device, key=key, ts=4_000_000_000_000, received=now_ms(), number=21.5)

    page = watching.get(f"/devices/{device.pk}/").content.decode()
    searched = watching.get(f"/devices/{device.pk}/?q=other").content.decode()

    assert re.search(r"Keys ahead of the clock</dt><dd [^>]*><span class=\"key\">ear&lt;ly</span></dd>", page)
    assert "Keys ahead of the clock" not in searched


def test_keys_that_are_not_shown_are_counted_and_can_be_searched(watching: Client, make_device: MakeDevice) -> None:
    device = make_device("many", values={f"key-{number:03}": number for number in range(KEYS_PER_DEVICE + 200)})

    page = watching.get(f"/devices/{device.pk}/").content.decode()
    found = watching.get(f"/devices/{device.pk}/?q=KEY-69").content.decode()

    assert "500 of 700 keys are here. Search finds the others." in page
    assert found.count('<th role="rowheader"') == 10 + 1  # and the template of a row
    assert "/ws/live/" in found
    assert f'data-socket="/ws/live/{device.pk}/?q=KEY-69"' in found
