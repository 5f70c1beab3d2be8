"""The pages in the hands of people: with a mouse that rests, a keyboard, and identifiers that must be right."""

import json

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Pages, Site, log_in
from tests.support.fleet import add_devices

EXACT = {
    "iccid": ("8988303000000614227", "8988303000000614227"),
    "beyond": (9007199254740993, "9007199254740993"),
    "energy": (1234567.89, "1234567.89"),
    "longitude": (-122.4194155, "-122.4194155"),
    "tiny": (1e-7, "1e-7"),
    "comma": ("21,5", '"21,5"'),
    "empty": ("", '""'),
    "yes": ("true", '"true"'),
    "constructor": (1, "1"),
    "__proto__": ("x", "x"),
    "numbers": ({"2": 1.5, "1": 12345678901}, '{"2":1.5,"1":12345678901}'),
}


def live(page: Page) -> Page:
    expect(page.locator("#live-state")).to_have_text("Updates: live", timeout=30_000)
    return page


def values_of(page: Page) -> dict[str, str]:
    return dict(
        page.evaluate(
            """() => [...document.querySelectorAll("#values tbody tr")]
              .map((row) => [row.querySelector(".key").textContent, row.querySelector(".value").textContent])"""
        )
    )


def test_values_are_those_that_were_sent_when_the_page_loads_and_when_it_is_live(site: Site, pages: Pages) -> None:
    token = site.add_device("exact")
    site.post(token, json.dumps({key: value for key, (value, _) in EXACT.items()}))
    expected = {key: text for key, (_, text) in EXACT.items()}
    path = site.path_of("exact")

    loaded = pages.open(path, script="window.WebSocket = undefined; window.EventSource = undefined")
    pages.complaints.clear()
    page = live(pages.open(path))

    assert values_of(loaded) == values_of(page) == expected
    site.post(token, json.dumps({"energy": 1234567.9, "iccid": "8988303000000614228"}))
    expect(page.locator("#values")).to_contain_text("8988303000000614228", timeout=30_000)
    assert values_of(page) == expected | {"energy": "1234567.9", "iccid": "8988303000000614228"}


def test_arrow_keys_in_a_menu_choose_and_enter_carries_out(site: Site, pages: Pages) -> None:
    page = live(pages.open("/"))
    menu = page.get_by_label("State")
    menu.focus()

    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert "state=" not in page.url
    expect(menu).to_be_focused()

    page.keyboard.press("Enter")
    page.wait_for_url("**/?*state=disconnected*")
    expect(page.get_by_label("State")).to_be_focused()


@pytest.mark.parametrize(("key", "then"), [("Tab", "button"), ("Shift+Tab", "[name=q]")])
def test_leaving_the_menu_closes_it_and_the_focus_goes_on(site: Site, pages: Pages, key: str, then: str) -> None:
    page = live(pages.open("/"))
    page.get_by_label("State").focus()
    page.keyboard.press("ArrowDown")

    page.keyboard.press(key)

    page.wait_for_url("**/?*state=connected*")
    expect(page.locator(f"form.filter {then}")).to_be_focused()


def test_rows_stay_where_they_are_while_somebody_points_at_them(site: Site, pages: Pages) -> None:
    first, second, *_ = add_devices(site.serving, "hold-1", "hold-2")
    assert site.post(second.token, '{"t": 1}') == "200"
    page = live(pages.open("/?q=hold&sort=-seen"))
    names = page.locator("#devices .device-name")
    expect(names).to_have_text(["hold-2", "hold-1"])
    names.nth(1).hover()
    place = names.nth(1).bounding_box()

    site.post(first.token, '{"t": 2}')

    expect(page.locator("#moved")).to_contain_text("2 rows have moved.", timeout=30_000)
    expect(names).to_have_text(["hold-2", "hold-1"])
    assert names.nth(1).bounding_box() == place
    expect(page.get_by_role("row").filter(has_text="hold-1")).to_contain_text("2")
    page.get_by_role("button", name="Refresh").click()
    expect(names).to_have_text(["hold-1", "hold-2"])
    expect(page.locator("#moved")).to_be_hidden()


def test_a_changed_value_is_highlighted_once_in_a_while_and_without_an_animation(site: Site, pages: Pages) -> None:
    token = site.add_device("flashing")
    site.post(token, '{"t": 0}')
    page = live(pages.open("/?q=flashing"))
    page.evaluate(
        """() => {
          window.highlights = 0;
          const devices = document.querySelector("#devices");
          new MutationObserver((changes) => changes.forEach(({ target, oldValue }) => {
            window.highlights += target.classList.contains("changed") && oldValue !== "changed";
          })).observe(devices, { subtree: true, attributeFilter: ["class"], attributeOldValue: true });
        }"""
    )

    for number in range(1, 6):
        site.post(token, json.dumps({"t": number}))
        expect(page.locator("#devices .value")).to_have_text(str(number), timeout=30_000)

    assert page.evaluate("window.highlights") == 1
    assert page.evaluate("document.getAnimations().length") == 0


def test_a_chart_is_read_by_keyboard(site: Site, pages: Pages) -> None:
    token = site.add_device("by-keyboard")
    now = int(pages.open("/").evaluate("Date.now()"))
    batch = [{"ts": now - minutes * 60_000, "values": {"t": minutes}} for minutes in (30, 20, 10)]
    assert site.post(token, json.dumps(batch)) == "200"
    page = live(pages.open(site.path_of("by-keyboard")))
    plot = page.get_by_role("slider", name="Chart of t")
    expect(plot).to_have_attribute("aria-valuetext", "min 10 · max 30")

    plot.focus()
    said = []
    for key in ("End", "ArrowLeft", "Home", "Escape"):
        page.keyboard.press(key)
        said.append(str(plot.get_attribute("aria-valuetext")).partition(" ·")[0])

    assert said == ["10", "20", "30", "min 10"]


def test_keys_that_are_not_shown_are_counted_and_found(site: Site, pages: Pages) -> None:
    token = site.add_device("many-keys")
    site.post(token, json.dumps({f"key-{number:03}": number for number in range(700)}))
    page = live(pages.open(site.path_of("many-keys")))
    expect(page.locator("#more-keys")).to_have_text("500 of 700 keys are here. Search finds the others.")
    expect(page.locator("#keys .chip:visible")).to_have_count(24)

    search = page.get_by_role("searchbox", name="Search keys")
    search.fill("KEY-69")
    search.press("Enter")

    page.wait_for_url("**q=KEY-69*")
    live(page)
    expect(page.locator("#values tbody tr:visible")).to_have_count(10)
    site.post(token, json.dumps({"key-699": 12345, "key-001": 54321}))
    expect(page.locator("#values")).to_contain_text("12345", timeout=30_000)
    expect(page.locator("#values tbody tr:visible")).to_have_count(10)


def test_default_charts_are_those_of_keys_with_something_to_draw(site: Site, pages: Pages) -> None:
    token = site.add_device("old-and-new")
    site.post(token, json.dumps([{"ts": 1_600_000_000_000, "values": {"a": 1, "b": 2, "c": 3}}, {"z": 4}]))

    page = live(pages.open(site.path_of("old-and-new")))

    expect(page.locator(".chart .chart-key")).to_have_text(["z"])


@pytest.mark.parametrize("path", ["/", "/admin/"])
def test_back_after_logging_out_shows_nothing(site: Site, pages: Pages, path: str) -> None:
    pages.state = log_in(pages._browser, site)
    page = pages.open(path)
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login/*")

    page.go_back()

    expect(page.get_by_label("Password")).to_be_visible(timeout=30_000)
