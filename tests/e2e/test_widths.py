"""No page is wider than its screen, whatever devices, types and keys are called and whatever they send."""

import json
from collections.abc import Iterator
from urllib.request import Request, urlopen

import pytest
from django.urls import get_resolver
from playwright.sync_api import Page

from tests.e2e.conftest import Pages, Site
from tests.support.addresses import addresses, arguments_for
from tests.support.fleet import add_devices

WIDTHS = (1280, 390, 360, 320)
LONG = "W" * 200
TELEMETRY = {
    "k" * 255: 1,
    "v": "w" * 200_000,
    "a key with words " * 15: "words and words " * 100,
    "__proto__": 1234567.891234567,
    "deep": {"a" * 100: [[["b" * 300]]]},
    **{f"key_{number:04}_of_many": number for number in range(600)},
}


@pytest.fixture(scope="module")
def hostile(site: Site) -> int:
    """The id of a device with a long name that sends long things; others stand beside it."""
    device, *_ = add_devices(site.serving, LONG, "\u202eevil", "plant-1/line-8/" * 13)
    address = f"{site.url}/api/v1/{device.token}/telemetry"
    with urlopen(Request(address, json.dumps(TELEMETRY).encode(), method="POST"), timeout=60) as answer:
        assert answer.status == 200
    return device.pk


def overflowing(page: Page) -> list[str]:
    """The elements that make the page wider than it is."""
    found: list[str] = page.evaluate(
        """() => {
          const right = (element) => Math.round(element.getBoundingClientRect().right);
          const beyond = [...document.querySelectorAll("body *")].filter((element) => right(element) > innerWidth + 1);
          const isTooWide = document.documentElement.scrollWidth > innerWidth;
          return isTooWide ? beyond.map((element) => `${element.tagName}.${element.className} ${right(element)}`) : [];
        }"""
    )
    return found


def html_pages(page: Page, site: Site, hostile: int) -> Iterator[str]:
    """The addresses of all that a browser shows as a page."""
    yield from ("/?q=nothing+has+this+name", f"/devices/{hostile}/?q=key_05", f"/devices/{hostile}/value?key=v")
    yield from ("/login/", "/nothing/here", f"/admin/gateway_devices/device/{hostile}/readings/?key=v")
    for path in addresses(get_resolver().url_patterns, arguments_for(hostile)):
        answer = page.context.request.get(site.url + path)
        if answer.status == 200 and answer.headers.get("content-type", "").startswith("text/html"):
            yield path


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways_at_any_width(site: Site, pages: Pages, hostile: int, width: int) -> None:
    page = pages.open("/", size=(width, 800))
    too_wide = {}
    shown = list(html_pages(page, site, hostile))
    for path in shown:
        page.goto(site.url + path)
        if found := overflowing(page):
            too_wide[path] = found[:5]
    pages.complaints.clear()  # of the page that there is not

    assert len(shown) > 20
    assert too_wide == {}
