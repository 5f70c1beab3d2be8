"""The modules of the front end that have rules of their own, run where they run: in a browser."""

import json
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Page

from devices.values import duration_text, name_text, number_text, shown, told
from tests.e2e.conftest import Pages


@pytest.fixture
def page(pages: Pages) -> Page:
    return pages.open("/")


def run(page: Page, module: str, body: str) -> Any:
    """The value of `body` with the exports of `module` as `m`."""
    return page.evaluate(f"import('/static/devices/js/{module}').then((m) => {{ {body} }})")


def test_retries_wait_longer_and_longer_up_to_a_bound_and_never_in_step(page: Page) -> None:
    longest = run(page, "live.js", "return [0, 1, 2, 3, 4, 5, 20].map((n) => m.retryDelay(n, () => 1))")
    shortest = run(page, "live.js", "return [0, 1, 2, 3, 4, 5, 20].map((n) => m.retryDelay(n, () => 0))")

    assert longest == [500, 1000, 2000, 4000, 8000, 15000, 15000]
    assert shortest == [delay / 2 for delay in longest]


def test_a_reading_joins_its_bucket(page: Page) -> None:
    columns = run(
        page,
        "series.js",
        """const s = new m.Series(100, 10, 0, [[5, 1, 1, 1, 1], [15, 4, 2, 6, 2]]);
        s.add(17, 7); s.add(25, 9); s.add(3, 3);
        return [s.times, s.means, s.minima, s.maxima, s.counts]""",
    )

    assert columns == [[5, 15, 25], [2, 5, 9], [1, 2, 9], [3, 7, 9], [2, 3, 1]]


def test_a_late_reading_finds_its_place_and_a_very_late_one_is_ignored(page: Page) -> None:
    times = run(
        page,
        "series.js",
        """const s = new m.Series(100, 10, 0, [[205, 1, 1, 1, 1], [225, 1, 1, 1, 1]]);
        s.add(213, 1); s.add(5, 1);
        return s.times""",
    )

    assert times == [205, 213, 225]


def test_what_has_left_the_range_is_dropped(page: Page) -> None:
    kept = run(
        page,
        "series.js",
        """const s = new m.Series(100, 10);
        for (let t = 0; t < 10_000; t += 10) { s.add(t, 1); s.trim(t); }
        return s.length""",
    )

    assert kept <= 12


def test_a_line_is_broken_where_nothing_came_for_long(page: Page) -> None:
    gaps = run(
        page,
        "series.js",
        "const s = new m.Series(1000, 1, 0, [0, 10, 20, 30, 200, 210].map((t) => [t, 1, 1, 1, 1])); return s.gaps()",
    )

    assert gaps == [[30, 200]]


NUMBERS = [
    *(0.0, -0.0, 22.0, 21.5, 0.1 + 0.2, 1234567.89, -122.4194155, 1e-6, 1e-7, 1.5e-7, 123e-20, 2.0**53, 2.0**60, 1e20),
    *(1e21, 1.25e22, 5e-324, 1.7976931348623157e308, 2.2250738585072014e-308),
    *(mantissa * 10.0**exponent for mantissa in (1, -1.5, 1 / 3) for exponent in range(-30, 30)),
]
NAMES = [
    "temperature",
    "",
    " ",
    " a",
    "a\u00a0",
    "\x1b[31m",
    "a\nb",
    "\u202ehi",
    "👨\u200d👩",
    "\x85",
    "\ufeffx",
    "\ufffd",
]
STORED: list[tuple[float | None, str | None]] = [
    *((21.5, None), (-0.0, None), (None, None), (1.0, "true"), (None, '"on"'), (None, '"21,5"'), (None, '""')),
    *((9.007199254740992e15, "9007199254740993"), (None, '{"2":1.50,"1":12345678901234567890}')),
    *((None, '"' + "x" * 300 + '"'), (None, "[" * 950 + "]" * 950)),
]


def test_a_number_is_written_as_the_server_writes_it(page: Page) -> None:
    read = [float(repr(number)) for number in NUMBERS]

    shown = run(page, "format.js", f"return JSON.parse('{json.dumps(read)}').map((n) => m.formatValue([0, n]))")

    assert shown == [number_text(number) for number in read]


def test_a_name_is_written_as_the_server_writes_it(page: Page) -> None:
    shown = run(page, "format.js", f"return {json.dumps(NAMES)}.map((name) => m.formatName(name))")

    assert shown == [name_text(name) for name in NAMES]


@pytest.mark.parametrize(("number", "text"), STORED)
def test_a_reading_of_the_stream_is_shown_as_the_server_shows_it(
    page: Page, number: float | None, text: str | None
) -> None:
    reading = json.dumps(msgspec.json.encode((5, *told(number, text))).decode())

    assert run(page, "format.js", f"return m.formatValue(JSON.parse({reading}))") == shown(number, text).text


@pytest.mark.parametrize(
    ("value", "text"), [("0.1 + 0.2", "0.3"), ("21.5", "21.5"), ("1234567", "1234567"), ("1e-9", "1e-9")]
)
def test_a_chart_rounds_to_what_can_be_seen(page: Page, value: str, text: str) -> None:
    assert run(page, "format.js", f"return m.formatRounded({value})") == text


@pytest.mark.parametrize(
    ("age_days", "text"), [(0.5, "12h ago"), (300, "300d ago"), (400, "2022"), (-26_000, "2095"), (-1e9, " ms")]
)
def test_a_time_of_another_year_is_a_date(page: Page, age_days: float, text: str) -> None:
    now_ms = 1_700_000_000_000

    assert text in run(page, "format.js", f"return m.formatAge({now_ms - age_days * 86_400_000}, {now_ms})")


@pytest.mark.parametrize(
    ("age_ms", "text"),
    [(-5, "for 0 s"), (59_000, "for 59 s"), (3 * 3_600_000, "for 3 h"), (90 * 86_400_000, "for 90 d")],
)
def test_how_long_a_state_has_lasted(page: Page, age_ms: int, text: str) -> None:
    assert run(page, "format.js", f"return m.formatSince({1_700_000_000_000 - age_ms}, 1700000000000)") == text


@pytest.mark.parametrize("ms", [1_500, 119_999, 120_000, 86_400_000, 7_000_000_000, 2_300_000_000_000])
def test_a_duration_is_written_as_the_server_writes_it(page: Page, ms: int) -> None:
    assert run(page, "format.js", f"return m.formatDuration({ms})") == duration_text(ms)


@pytest.mark.parametrize("key", ["constructor", "__proto__", "toString", "hasOwnProperty", "length", "2", ""])
def test_a_key_may_have_any_name(page: Page, key: str) -> None:
    device = json.dumps({"values": {key: [5, 1]}})

    assert run(page, "page.js", f"return [...m.valuesOf(JSON.parse({json.dumps(device)}))]") == [[key, [5, 1]]]
