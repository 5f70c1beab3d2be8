"""What the pages ask a database for, the same on each."""

import pytest

from devices.dashboard.device_list import DeviceListQuery, read_device, read_device_list
from devices.models import Device, DeviceType, Key, LatestValue
from devices.queries import CodePoints, heads
from devices.values import HEAD, Value

NAMES = [
    "Сенсор-7",
    "plant-1/line-8/DOOR-00098",
    "plant-2/line-8/door-00001",
    "Ölmühle",
    "a.c",
    "abc",
    "100%",
    "a_b",
    "[x]",
]


@pytest.fixture
def names(database: str) -> None:
    kind = DeviceType.objects.create(name="Überwachung")
    Device.objects.bulk_create(Device(name=name, type=kind) for name in NAMES)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("сенсор", ["Сенсор-7"]),
        ("сенсор".upper(), ["Сенсор-7"]),
        ("ölMÜHLE", ["Ölmühle"]),
        ("door PLANT-1", ["plant-1/line-8/DOOR-00098"]),
        ("ÜBERWACHUNG door 0009", ["plant-1/line-8/DOOR-00098"]),
        ("a.c", ["a.c"]),
        ("%", ["100%"]),
        ("_", ["a_b"]),
        ("[ab]", []),
        ("\\d", []),
        ("***:x", []),
        ("(", []),
        ("", sorted(NAMES)),
    ],
)
def test_devices_are_found_by_their_words_in_any_case(names: None, text: str, found: list[str]) -> None:
    assert sorted(device["name"] for device in read_device_list(DeviceListQuery(q=text)).devices) == found


def test_keys_come_in_the_order_of_their_code_points(database: str) -> None:
    device = Device.objects.create(name="d", type=DeviceType.objects.create(name="default"))
    for key in (keys := ["a", "B", "b", "ä", "Z", "_", "1", "é", "zz", "я", "\U0001f600"]):
        LatestValue.objects.create(device=device, key=Key.objects.create(name=key), ts=1, received=1, number=1.0)

    assert list(Key.objects.order_by(CodePoints("name")).values_list("name", flat=True)) == sorted(keys)
    assert list(read_device_list(DeviceListQuery()).devices[0]["values"]) == sorted(keys)[:6]
    facts = read_device(device.pk)
    assert facts is not None
    assert list(facts["values"]) == sorted(keys)


@pytest.mark.parametrize("text", ["x" * 250_000, "ü" * 250_000, "\U0001f600" * 300, "short", None])
def test_the_database_cuts_a_text_and_counts_its_bytes(database: str, text: str | None) -> None:
    device = Device.objects.create(name="d", type=DeviceType.objects.create(name="default"))
    LatestValue.objects.create(
        device=device, key=Key.objects.create(name="k"), ts=5, received=5, number=None, text=text
    )

    (columns,) = heads(LatestValue.objects.all(), "ts")

    assert Value(*columns) == Value(5, None, text and text[:HEAD], text and len(text.encode()))  # type: ignore[comparison-overlap]
