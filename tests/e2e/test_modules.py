"""The modules of the front end that have rules of their own, run where they run: in a browser."""

from typing import Any

import pytest
from playwright.sync_api import Page

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


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0.1 + 0.2", "0.3"),
        ("21.5", "21.5"),
        ("1234567", "1234567"),
        ("1e-9", "1e-9"),
        ("true", "true"),
        ("'on'", "on"),
        ("{a: [1]}", '{"a":[1]}'),
    ],
)
def test_values_are_shown_as_people_write_them(page: Page, value: str, text: str) -> None:
    assert run(page, "format.js", f"return m.formatValue({value})") == text
