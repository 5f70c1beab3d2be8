"""A dashboard's share of the fleet's stream."""

from typing import Any

import msgspec
import pytest

from devices import metrics
from devices.dashboard.device_list import DeviceFacts, DeviceList
from devices.dashboard.page_changes import ConnectionChanged, PageChanges, ReadingsCommitted, decode
from devices.fanout import KEYS_PER_ROW
from devices.values import Value


def facts(device_id: int, *keys: str) -> DeviceFacts:
    return {
        "id": device_id,
        "name": f"device-{device_id}",
        "type": "default",
        "enabled": True,
        "connected": False,
        "since": None,
        "last_seen": None,
        "clock_skew": None,
        "values": dict.fromkeys(keys, Value(1, 1.0, None)),
        "more": 0,
    }


def page_changes(*devices: DeviceFacts, newest_id: int = 100) -> PageChanges:
    return PageChanges(DeviceList(list(devices), total=len(devices), page=1, pages=1, newest_id=newest_id))


def commit(**devices: list[list[Any]]) -> ReadingsCommitted:
    """A commit as it comes over the layer; `d3=[["t", 1, 21.5]]` is a reading of device 3."""
    readings_of = {name[1:]: {"name": f"device-{name[1:]}", "readings": readings} for name, readings in devices.items()}
    message = decode(msgspec.json.encode({"type": "readings", "now": 1, "devices": readings_of}).decode())
    assert isinstance(message, ReadingsCommitted)
    return message


def told(changes: PageChanges) -> Any:
    """What a browser is told of the devices."""
    message = changes.drain()
    return None if message is None else msgspec.json.decode(msgspec.json.encode(message))["devices"]


def test_changes_are_told_of_the_devices_on_the_page_only() -> None:
    changes = page_changes(facts(3, "t"))

    assert changes.take_readings(commit(d3=[["t", 5, 21.5]], d4=[["t", 5, 1]]))

    assert told(changes) == {"3": {"name": "device-3", "readings": [["t", 5, 21.5]]}}


def test_a_commit_without_the_devices_of_the_page_changes_nothing() -> None:
    changes = page_changes(facts(3, "t"))

    assert not changes.take_readings(commit(d4=[["t", 5, 1]]))
    assert told(changes) is None


def test_commits_are_merged_to_the_value_with_the_greatest_time() -> None:
    changes = page_changes(facts(3, "t"))

    changes.take_readings(commit(d3=[["t", 5, "new"]]))
    changes.take_readings(commit(d3=[["t", 4, "late"]]))

    assert told(changes)["3"]["readings"] == [["t", 5, "new"]]
    assert told(changes) is None


def test_a_new_key_is_told_while_the_row_has_room() -> None:
    changes = page_changes(facts(3, *(f"key-{number}" for number in range(KEYS_PER_ROW - 1))))

    changes.take_readings(commit(d3=[["one more", 5, 1], ["too many", 5, 1]]))

    assert [reading[0] for reading in told(changes)["3"]["readings"]] == ["one more"]


def test_values_pass_through_untouched_whatever_they_are() -> None:
    value = {"nested": [None, True, 12345678901234567890123, "ä"]}
    changes = page_changes(facts(3))
    text = '{"type":"readings","now":1,"devices":{"3":{"name":"x","readings":[["k",5,%s]]}}}'
    message = decode(text % '{"nested":[null,true,12345678901234567890123,"ä"]}')
    assert isinstance(message, ReadingsCommitted)

    changes.take_readings(message)

    assert msgspec.json.decode(msgspec.json.encode(changes.drain()))["devices"]["3"]["readings"] == [["k", 5, value]]


def test_a_device_newer_than_the_snapshot_makes_it_outdated() -> None:
    changes = page_changes(facts(3), newest_id=7)

    changes.take_readings(commit(d7=[["t", 5, 1]]))
    assert not changes.outdated

    changes.take_readings(commit(d8=[["t", 5, 1]]))
    assert changes.outdated


def test_a_connection_is_told_if_its_device_is_on_the_page() -> None:
    changes = page_changes(facts(3), newest_id=7)

    assert changes.take_connection(ConnectionChanged(id=3, connected=True))
    assert not changes.take_connection(ConnectionChanged(id=4, connected=True))
    assert not changes.outdated

    assert not changes.take_connection(ConnectionChanged(id=8, connected=True))
    assert changes.outdated


def test_one_text_is_decoded_once_for_all_who_get_it() -> None:
    text = '{"type":"connection","id":3,"connected":true,"now":1}'

    assert decode(text) is decode(text)
    assert decode(text) is not decode('{"type":"connection","id":4,"connected":true,"now":1}')


DEEP = "[" * 100_000
"""More than any decoder follows."""


def unreadable() -> float:
    return float(metrics.announcements_unreadable._value.get())


def test_what_cannot_be_read_of_a_device_costs_no_other_anything() -> None:
    changes = page_changes(facts(3, "t"), facts(4, "t"))
    before = unreadable()
    text = '{"type":"readings","devices":{"3":{"name":"x","readings":"none"},"4":{"name":"y","readings":[["t",5,1]]}}}'
    message = decode(text)
    assert isinstance(message, ReadingsCommitted)

    assert changes.take_readings(message)

    assert told(changes) == {"4": {"name": "y", "readings": [["t", 5, 1]]}}
    assert unreadable() == before + 1


def test_the_readings_of_a_device_that_is_not_on_the_page_are_not_decoded() -> None:
    changes = page_changes(facts(4, "t"))
    before = unreadable()
    message = decode('{"type":"readings","devices":{"3":{"readings":"none"},"4":{"name":"y","readings":[]}}}')
    assert isinstance(message, ReadingsCommitted)

    changes.take_readings(message)

    assert unreadable() == before


@pytest.mark.parametrize("text", ["", "{", '{"type":"other"}', f'{{"type":"readings","devices":{{"3":{DEEP}'])
def test_a_message_that_cannot_be_read_is_counted_and_left_out(text: str) -> None:
    before = unreadable()

    assert decode(text) is None
    assert unreadable() == before + 1


def test_what_a_reading_says_beside_its_value_passes_through() -> None:
    changes = page_changes(facts(3))

    changes.take_readings(commit(d3=[["k", 5, "9007199254740993", "9007199254740993"], ["c", 5, None, "xx…", 250_000]]))

    assert told(changes)["3"]["readings"] == [
        ["k", 5, "9007199254740993", "9007199254740993"],
        ["c", 5, None, "xx…", 250_000],
    ]
