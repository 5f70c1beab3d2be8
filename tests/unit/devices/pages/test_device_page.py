"""The page of one device and the history that its charts draw."""

import pytest
from django.test import Client

from devices import credentials
from devices.models import Device, Key, Reading, now_ms
from tests.unit.devices.pages.conftest import MakeDevice


@pytest.fixture
def device(make_device: MakeDevice) -> Device:
    return make_device("thermo-1", values={"temperature": 21.5})


def store(device: Device, ts: int, number: float | None, text: str | None = None, key: str = "temperature") -> None:
    found, _ = Key.objects.get_or_create(name=key)
    Reading.objects.create(device=device, key=found, ts=ts, seq=0, received=ts, number=number, text=text)


def test_it_shows_the_ends_of_valid_tokens_only(watching: Client, device: Device) -> None:
    valid = credentials.issue(device)
    revoked = credentials.issue(device)
    credentials.revoke(device.credentials.get(hint=revoked[-4:]))

    page = watching.get(f"/devices/{device.pk}/").content.decode()

    assert f"…{valid[-4:]}" in page
    assert f"…{revoked[-4:]}" not in page
    assert valid not in page


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
