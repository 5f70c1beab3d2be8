"""The live pages under stress: interruptions, blocked WebSockets, small screens, long histories."""

import json
import signal
import time
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.conftest import LAPTOP, PHONE, Pages, Site, log_in

NO_WEBSOCKET = """
window.WebSocket = class {
  constructor() { setTimeout(() => this.onclose?.({ code: 1006 })); }
  close() {}
};
"""

RANGES = {"15 min": "15m", "1 h": "1h", "6 h": "6h", "24 h": "24h", "7 d": "7d", "30 d": "30d"}


@dataclass(frozen=True)
class Thermo:
    """A device that has been here for a while."""

    path: str
    token: str


@pytest.fixture(scope="module")
def thermo(site: Site) -> Thermo:
    """A device with thirty days of history: a reading each hour, and one a minute in the last hour."""
    token = site.add_device("thermo")
    now = time.time_ns() // 1_000_000
    hours = [now - hour * 3_600_000 for hour in range(1, 30 * 24)]
    minutes = [now - minute * 60_000 for minute in range(1, 60)]
    batch = [
        {"ts": ts, "values": {"temperature": 20 + index % 5, "humidity": 50 + index % 7, "open": index % 2 == 0}}
        for index, ts in enumerate(hours + minutes)
    ]
    for start in range(0, len(batch), 100):
        assert site.post(token, json.dumps(batch[start : start + 100])) == "200"
    return Thermo(site.path_of("thermo"), token)


def inked(page: Page, key: str) -> int:
    """How many pixels of the chart of `key` have the colour of its line."""
    count: int = page.locator(f'.chart[data-key="{key}"] canvas').evaluate(
        """(canvas) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let i = 0; i < data.length; i += 4) {
            count += data[i + 3] > 200 && data[i] < 40 && data[i + 2] > 150;
          }
          return count;
        }"""
    )
    return count


def value(page: Page, key: str) -> Locator:
    return page.locator("#values tr").filter(has=page.get_by_role("rowheader", name=key)).locator(".value")


def test_every_range_of_the_history_draws(pages: Pages, thermo: Thermo) -> None:
    page = pages.open(f"{thermo.path}?range=15m")
    chart = page.locator('.chart[data-key="temperature"]')

    for label, name in RANGES.items():
        with page.expect_response(lambda answer, name=name: f"range={name}" in answer.url) as answer:
            if name == "15m":
                page.reload()
            else:
                page.get_by_role("radio", name=label).check()
        assert answer.value.status == 200
        expect(chart).not_to_have_attribute("aria-busy", "true")
        expect(chart.locator(".readout")).to_have_text("min 20 · max 24")
        page.wait_for_timeout(150)
        assert inked(page, "temperature") > 200, name
    assert "range=30d" in page.url


def test_keys_are_chosen_and_the_choice_is_in_the_address(pages: Pages, thermo: Thermo) -> None:
    page = pages.open(thermo.path)
    expect(page.locator(".chart")).to_have_count(2)  # the numbers; the boolean is offered

    page.get_by_role("checkbox", name="open").check()
    page.get_by_role("checkbox", name="humidity").uncheck()

    expect(page.locator(".chart .chart-key")).to_have_text(["temperature", "open"])
    reopened = pages.open(page.url.removeprefix(page.url.split("/devices")[0]))
    expect(reopened.locator(".chart")).to_have_count(2)
    expect(reopened.locator('.chart[data-key="open"]')).to_be_visible()


def test_a_reading_moves_the_value_and_the_chart(site: Site, pages: Pages, thermo: Thermo) -> None:
    page = pages.open(f"{thermo.path}?range=15m&key=temperature")
    readout = page.locator('.chart[data-key="temperature"] .readout')
    expect(readout).to_have_text("min 20 · max 24")

    site.post(thermo.token, '{"temperature": 31.5}')

    expect(value(page, "temperature")).to_have_text("31.5", timeout=30_000)
    expect(readout).to_have_text("min 20 · max 31.5", timeout=30_000)


def test_with_websockets_blocked_the_events_take_over(site: Site, pages: Pages, thermo: Thermo) -> None:
    page = pages.open("/", script=NO_WEBSOCKET)
    device = pages.open(thermo.path, script=NO_WEBSOCKET)
    for shown in (page, device):
        expect(shown.locator("#live-state")).to_have_text("Updates: live", timeout=30_000)
        expect(shown.locator("#live-state")).to_have_attribute("data-transport", "events")

    site.post(thermo.token, '{"temperature": 18.75}')

    expect(page.get_by_role("row").filter(has_text="thermo")).to_contain_text("18.75", timeout=30_000)
    expect(value(device, "temperature")).to_have_text("18.75", timeout=30_000)


@pytest.mark.parametrize("size", [PHONE, LAPTOP], ids=["phone", "laptop"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?q=nothing-like-this",
        "/devices/{pk}/",
        "/admin/gateway_devices/device/{pk}/change/",
        "/admin/gateway_devices/device/{pk}/readings/",
    ],
)
def test_no_page_scrolls_sideways(pages: Pages, thermo: Thermo, path: str, size: tuple[int, int]) -> None:
    page = pages.open(path.format(pk=thermo.path.split("/")[2]), size=size)
    page.wait_for_load_state("networkidle") if path.startswith("/admin") else page.wait_for_timeout(400)

    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_a_killed_gateway_makes_pages_stale_and_they_catch_up_when_it_is_back(
    site: Site, pages: Pages, thermo: Thermo
) -> None:
    dashboard = pages.open("/")
    device = pages.open(f"{thermo.path}?range=15m&key=temperature")
    open_pages = (dashboard, device)
    for page in open_pages:
        expect(page.locator("#live-state")).to_have_text("Updates: live")

    site.serving.stop(signal.SIGKILL)

    for page in open_pages:
        expect(page.locator("#live-state")).to_have_text("Updates: stale", timeout=30_000)
        expect(page.get_by_role("alert").first).to_contain_text("Values are as of")
        expect(page.locator("body")).to_have_class("stale")

    site.restart()
    site.post(thermo.token, '{"temperature": 42.5}')  # most likely while the pages still wait for their next attempt

    for page in open_pages:
        expect(page.locator("#live-state")).to_have_text("Updates: live", timeout=30_000)
        expect(page.locator("#stale-banner")).to_be_hidden()
    expect(dashboard.get_by_role("row").filter(has_text="thermo")).to_contain_text("42.5")
    expect(value(device, "temperature")).to_have_text("42.5")
    expect(device.locator('.chart[data-key="temperature"] .readout')).to_contain_text("max 42.5")


def test_the_page_of_a_device_that_was_deleted_while_the_gateway_was_away_says_so(site: Site, pages: Pages) -> None:
    site.add_device("short-lived")
    page = pages.open(site.path_of("short-lived"))
    expect(page.locator("#live-state")).to_have_text("Updates: live")
    site.serving.stop(signal.SIGKILL)
    delete = "from devices.models import Device; Device.objects.get(name='short-lived').delete()"
    site.serving.command("manage", "shell", "-c", delete)

    site.restart()

    expect(page.get_by_role("heading", name="Not found")).to_be_visible(timeout=30_000)
    assert all("404" in complaint for complaint in pages.complaints)
    pages.complaints.clear()


def test_whoever_logs_out_elsewhere_is_asked_to_log_in(
    browser: Browser, site: Site, pages: Pages, thermo: Thermo
) -> None:
    pages.state = log_in(browser, site)
    page = pages.open("/")
    expect(page.locator("#live-state")).to_have_text("Updates: live")

    pages.open("/").get_by_role("button", name="Log out").click()

    expect(page.get_by_role("heading", name="Log in")).to_be_visible(timeout=30_000)
