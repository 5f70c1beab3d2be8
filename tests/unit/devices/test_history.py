"""History: what a chart is given for a range of time, by each database."""

import pytest

from devices.history import Bucket, end_of, history
from devices.limits import DeviceOptions
from devices.models import Device, DeviceType, Key, LatestValue, Reading

MINUTE = 60_000


@pytest.fixture
def device(database: str) -> Device:
    return Device.objects.create(name="thermo-1", type=DeviceType.objects.create(name="default"))


def store(device: Device, key: str, *points: tuple[int, float | None], text: str | None = None) -> None:
    """Stores points (ts, number)."""
    stored_key, _ = Key.objects.get_or_create(name=key)
    Reading.objects.bulk_create(
        Reading(device_id=device.pk, key_id=stored_key.pk, ts=ts, seq=seq, received=ts, number=number, text=text)
        for seq, (ts, number) in enumerate(points)
    )


def test_a_bucket_has_mean_minimum_maximum_and_count_and_the_time_of_its_newest_reading(device: Device) -> None:
    store(device, "temperature", (0, 10.0), (20_000, 20.0), (50_000, 60.0), (MINUTE, 5.0))

    assert history(device.pk, "temperature", 0, 2 * MINUTE, 2) == [
        Bucket(ts=50_000, mean=30.0, minimum=10.0, maximum=60.0, count=3),
        Bucket(ts=MINUTE, mean=5.0, minimum=5.0, maximum=5.0, count=1),
    ]


def test_the_range_has_its_start_and_not_its_end(device: Device) -> None:
    store(device, "temperature", (999, 1.0), (1_000, 2.0), (1_999, 3.0), (2_000, 4.0))

    assert [bucket.mean for bucket in history(device.pk, "temperature", 1_000, 2_000, 1_000)] == [2.0, 3.0]


def test_a_gap_stays_a_gap(device: Device) -> None:
    store(device, "temperature", (0, 1.0), (9 * MINUTE, 2.0))

    assert [bucket.ts for bucket in history(device.pk, "temperature", 0, 10 * MINUTE, 10)] == [0, 9 * MINUTE]


def test_there_are_never_more_buckets_than_asked_for(device: Device) -> None:
    store(device, "temperature", *((ts, float(ts)) for ts in range(0, 1_000, 7)))

    for buckets in (1, 2, 3, 7, 99, 142, 143, 144, 1_000):
        found = history(device.pk, "temperature", 0, 1_000, buckets)
        assert len(found) <= buckets
        assert sum(bucket.count for bucket in found) == 143
        assert found == sorted(found, key=lambda bucket: bucket.ts)


def test_what_has_no_number_is_left_out(device: Device) -> None:
    store(device, "state", (1, None), (2, None), text='"open"')

    assert history(device.pk, "state", 0, 10, 5) == []


def test_a_boolean_is_drawn_as_0_and_1(device: Device) -> None:
    store(device, "on", (1, 1.0), text="true")

    assert history(device.pk, "on", 0, 10, 1) == [Bucket(1, 1.0, 1.0, 1.0, 1)]


def test_another_device_or_key_and_a_key_that_there_is_not_do_not_count(device: Device) -> None:
    other = Device.objects.create(name="thermo-2", type=device.type)
    store(other, "temperature", (1, 1.0))
    store(device, "humidity", (1, 1.0))

    assert history(device.pk, "temperature", 0, 10, 1) == []
    assert history(device.pk, "absent", 0, 10, 1) == []


@pytest.mark.parametrize(
    ("ahead_ms", "ends"),
    [
        (-5 * MINUTE, 0),
        (5 * MINUTE, 5 * MINUTE + 1),
        (DeviceOptions().max_clock_skew_ms, DeviceOptions().max_clock_skew_ms + 1),
        (DeviceOptions().max_clock_skew_ms + 1, 0),
    ],
)
def test_a_chart_ends_now_or_with_the_latest_value_of_a_clock_that_is_ahead(
    device: Device, ahead_ms: int, ends: int
) -> None:
    now_ms = 1_700_000_000_000
    key = Key.objects.create(name="t")
    LatestValue.objects.create(device=device, key=key, ts=now_ms + ahead_ms, received=now_ms, number=1.0)

    assert end_of(device.pk, "t", now_ms) == now_ms + ends
    assert end_of(device.pk, "absent", now_ms) == now_ms


@pytest.mark.parametrize(("start_ms", "end_ms", "buckets"), [(10, 10, 1), (10, 9, 1), (0, 10, 0)])
def test_an_empty_range_is_refused(start_ms: int, end_ms: int, buckets: int) -> None:
    with pytest.raises(ValueError, match="start_ms < end_ms"):
        history(1, "temperature", start_ms, end_ms, buckets)
