"""What `gateway mqtt ...` prints; what it asks: tests/integration/test_mqtt_commands.py."""

import pytest

from gateway.cli.mqtt import _table, _trace_line, duration


def test_a_table_has_its_columns_under_their_names_and_numbers_to_the_right() -> None:
    rows = [
        {"client_id": "a", "connected": True, "expires_s": None, "queued": 5},
        {"client_id": "longer-name", "connected": False, "expires_s": 3_700, "queued": 1_000},
    ]

    assert list(_table(rows)) == [
        "client id    connected  expires  queued",
        "a            yes              -       5",
        "longer-name  no           1h 1m    1000",
    ]


def test_what_a_client_chose_cannot_forge_a_line() -> None:
    assert list(_table([{"client_id": "a\nb\x1b[2J"}])) == ["client id", r"a\nb\x1b[2J"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (61, "1m 1s"), (3_601, "1h 1s"), (90_061, "1d 1h"), (604_800, "7d")],
)
def test_a_time_span_is_told_in_its_two_largest_units(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_an_event_of_a_trace_is_one_line() -> None:
    event = {
        "time": 0.5,
        "client_id": "device/c",
        "address": "127.0.0.1:5",
        "kind": "in",
        "packet": "PINGREQ",
        "text": "",
    }

    line = _trace_line(event)

    assert line.endswith(".500 127.0.0.1:5 in      PINGREQ")
