"""The page of devices: found, sorted and paged by the server, whatever their number."""

from typing import Any

import pytest
from django.test import Client

from devices import credentials
from devices.dashboard.command_lines import add_line
from devices.dashboard.device_list import (
    KEYS_PER_DEVICE,
    MAX_CHARACTERS,
    PAGE_SIZE,
    DeviceListQuery,
    read_device,
    read_device_list,
)
from devices.models import Device, DeviceType, GatewayInstance, Key, LatestValue, now_ms
from devices.values import CUT
from gateway.config import load
from tests.unit.devices.dashboard.conftest import MakeDevice


def names(**query: Any) -> list[str]:
    return [device["name"] for device in read_device_list(DeviceListQuery(**query)).devices]


def test_without_devices_the_page_shows_how_to_send_a_first_reading(watching: Client) -> None:
    page = watching.get("/").content.decode()

    assert "device add thermo-1" in page
    assert "mosquitto_pub -h testserver -u TOKEN -t v1/devices/me/telemetry" in page
    assert "http://testserver/api/v1/TOKEN/telemetry" in page


def test_the_command_is_the_one_that_serve_was_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/my gateway/bin/gateway", "serve"])
    monkeypatch.setenv("GATEWAY_CONFIG", "/etc/gateway.toml")

    assert add_line("a b") == "'/opt/my gateway/bin/gateway' --config /etc/gateway.toml device add 'a b'"


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["data_dir=/srv/a b"], " --set 'data_dir=/srv/a b'"),
        (["database.url=sqlite:////srv/x.sqlite3"], " --set database.url=sqlite:////srv/x.sqlite3"),
        (["database.url=postgresql://u:secret@h/x", "data_dir=/srv/a"], " --set data_dir=/srv/a"),
        (["log.level=error"], ""),
    ],
)
def test_the_admin_works_on_the_same_data_and_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], options: str
) -> None:
    monkeypatch.setattr("sys.argv", ["gateway", "serve"])
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    monkeypatch.setattr("gateway.config._current", load(environ={}, flags=flags))

    assert add_line("thermo-1") == f"gateway{options} device add thermo-1"


def test_a_device_is_shown_with_its_values_and_two_separate_facts(
    watching: Client, make_device: MakeDevice, living_gateway: GatewayInstance
) -> None:
    make_device("thermo-1", values={"temperature": 21.5, "door": '"open"'}, connected_to=living_gateway)

    page = watching.get("/").content.decode()

    assert 'data-connected="true"' in page
    assert "<time>never</time>" in page
    assert "21.5" in page
    assert ">open<" in page


def test_a_name_is_text_and_not_markup(watching: Client, make_device: MakeDevice) -> None:
    make_device("<script>alert(1)</script>", values={"<b>": '"<i>"'})

    page = watching.get("/").content.decode()

    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_a_device_of_a_gateway_that_was_killed_is_not_connected(make_device: MakeDevice) -> None:
    dead = GatewayInstance.objects.create(heartbeat_ms=now_ms() - 60_000)
    make_device("thermo-1", connected_to=dead)

    assert read_device_list(DeviceListQuery()).devices[0]["connected"] is False


def test_search_finds_parts_of_names_and_types(make_device: MakeDevice) -> None:
    make_device("Thermo-1", type_name="climate")
    make_device("pump", type_name="water")

    assert names(q="thermo") == ["Thermo-1"]
    assert names(q="wat") == ["pump"]
    assert names(q="%") == []
    assert names(type="climate") == ["Thermo-1"]


def test_search_knows_the_case_of_every_script_and_takes_words_in_any_order(make_device: MakeDevice) -> None:
    make_device("Сенсор-7")
    make_device("plant-1/line-8/DOOR-00098", type_name="Überwachung")
    make_device("plant-2/line-8/door-00001")

    assert names(q="сенсор".upper()) == names(q="сенсор") == ["Сенсор-7"]
    assert names(q="door PLANT-1") == ["plant-1/line-8/DOOR-00098"]
    assert names(q="üBER door") == ["plant-1/line-8/DOOR-00098"]
    assert names(q="door.*") == names(q="[d") == names(q="\\") == names(q="***:") == []


def test_a_device_is_found_by_its_uuid_and_by_the_end_of_a_valid_token(make_device: MakeDevice) -> None:
    first, second = make_device("first"), make_device("second")
    valid, revoked = credentials.issue(first), credentials.issue(second)
    credentials.revoke(second.credentials.get())

    assert names(q=str(first.uuid)) == names(q=str(first.uuid)[:8]) == ["first"]
    assert names(q=valid[-4:]) == names(q=f"…{valid[-4:]}") == ["first"]
    assert names(q=revoked[-4:]) == []


def test_keys_are_searched_as_devices_are(make_device: MakeDevice) -> None:
    device = make_device("busy", values={"Außen_Temperatur": 1.0, "innen_temperatur": 2.0, "druck": 3.0})

    facts = read_device(device.pk, "temperatur AUSS")
    assert facts is not None
    assert list(facts["values"]) == []
    facts = read_device(device.pk, "TEMPERATUR innen")
    assert facts is not None
    assert (list(facts["values"]), facts["more"]) == (["innen_temperatur"], 0)


def test_a_device_shows_as_many_keys_as_there_is_room_for_and_counts_the_others(make_device: MakeDevice) -> None:
    many = make_device("many", values={f"key-{number:03}": number for number in range(KEYS_PER_DEVICE + 9)})
    long = make_device("long", values={f"{'k' * 250}{number:03}": f'"{"v" * 300}"' for number in range(400)})

    facts = read_device(many.pk)
    assert facts is not None
    assert (len(facts["values"]), facts["more"]) == (KEYS_PER_DEVICE, 9)
    facts = read_device(long.pk)
    assert facts is not None
    assert len(facts["values"]) == MAX_CHARACTERS // (253 + CUT)
    assert len(facts["values"]) + facts["more"] == 400


def test_states_are_connected_not_connected_and_disabled(
    make_device: MakeDevice, living_gateway: GatewayInstance
) -> None:
    make_device("here", connected_to=living_gateway)
    make_device("away")
    make_device("off", enabled=False)

    assert names(state="connected") == ["here"]
    assert names(state="disconnected") == ["away", "off"]
    assert names(state="disabled") == ["off"]


def test_devices_that_were_never_heard_come_last_in_both_orders(make_device: MakeDevice) -> None:
    make_device("never")
    make_device("early", last_seen_ms=1_000)
    make_device("late", last_seen_ms=2_000)

    assert names(sort="seen") == ["early", "late", "never"]
    assert names(sort="-seen") == ["late", "early", "never"]


def test_a_page_beyond_the_last_is_the_last(make_device: MakeDevice) -> None:
    for number in range(PAGE_SIZE + 1):
        make_device(f"device-{number:03}")

    device_list = read_device_list(DeviceListQuery(page=99))

    assert (device_list.page, device_list.pages, device_list.total) == (2, 2, PAGE_SIZE + 1)
    assert [device["name"] for device in device_list.devices] == [f"device-{PAGE_SIZE:03}"]


def test_ten_thousand_devices_cost_as_many_queries_as_one(
    watching: Client, db: None, django_assert_max_num_queries: Any
) -> None:
    device_type = DeviceType.objects.create(name="default")
    Device.objects.bulk_create(Device(name=f"device-{number:05}", type=device_type) for number in range(10_000))
    key = Key.objects.create(name="temperature")
    LatestValue.objects.bulk_create(
        LatestValue(device=device, key=key, ts=1, received=1, number=1.5) for device in Device.objects.all()
    )

    # session, user, permissions (2), newest, count, page, connections, keys, values, types
    with django_assert_max_num_queries(11):
        page = watching.get("/?page=150").content.decode()

    assert "Page 150 of 200" in page
    assert page.count("data-device=") == PAGE_SIZE


def test_a_row_shows_six_keys_and_says_how_many_more_there_are(make_device: MakeDevice) -> None:
    make_device("busy", values={f"key-{number}": number for number in range(9)})

    row = read_device_list(DeviceListQuery()).devices[0]

    assert list(row["values"]) == [f"key-{number}" for number in range(6)]
    assert row["more"] == 3


def test_the_page_of_a_device_has_all_keys(make_device: MakeDevice) -> None:
    device = make_device("busy", values={f"key-{number}": number for number in range(9)})

    facts = read_device(device.pk)

    assert facts is not None
    assert len(facts["values"]) == 9
    assert facts["more"] == 0


@pytest.mark.parametrize(
    ("parameters", "understood"),
    [
        ({"page": "-1"}, DeviceListQuery()),
        ({"page": "9" * 40}, DeviceListQuery()),
        ({"page": "²"}, DeviceListQuery()),
        ({"sort": "password"}, DeviceListQuery()),
        ({"state": "broken", "q": "  a\0b "}, DeviceListQuery(q="ab")),
        ({"sort": "-seen", "page": "3"}, DeviceListQuery(sort="-seen", page=3)),
    ],
)
def test_what_is_not_understood_of_an_address_is_the_default(
    parameters: dict[str, str], understood: DeviceListQuery
) -> None:
    assert DeviceListQuery.parse(parameters) == understood


def test_an_address_leaves_defaults_out_and_reads_back() -> None:
    query = DeviceListQuery(q="ä & b", state="connected", sort="-seen", page=2)

    assert DeviceListQuery().address() == ""
    assert query.address(page=1) == "q=%C3%A4+%26+b&state=connected&sort=-seen"
