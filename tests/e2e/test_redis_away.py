"""Redis is stopped under a gateway: readings are stored all the same, and pages say that they may be out of date."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.conftest import Pages, Site, log_in
from tests.support.redis import RedisServer


@pytest.fixture
def site_on_redis(tmp_path: Path, own_redis_server: RedisServer) -> Iterator[Site]:
    site = Site.start(tmp_path, "--set", f"layer.url={own_redis_server.url}")
    yield site
    site.serving.kill()


def test_pages_are_stale_while_redis_is_away_and_catch_up_when_it_is_back(
    browser: Browser, site_on_redis: Site, own_redis_server: RedisServer
) -> None:
    site = site_on_redis
    token = site.add_device("thermo")
    pages = Pages(browser, site, log_in(browser, site))
    page = pages.open("/")
    expect(page.locator("#live-state")).to_have_text("Updates: live")

    own_redis_server.stop()

    expect(page.locator("#live-state")).to_have_text("Updates: stale", timeout=30_000)
    expect(page.locator("#stale-banner")).to_contain_text("Readings are still being stored")
    assert site.post(token, '{"temperature": 17.5}') == "200"

    own_redis_server.start()

    expect(page.locator("#live-state")).to_have_text("Updates: live", timeout=30_000)
    expect(page.get_by_role("row").filter(has_text="thermo")).to_contain_text("17.5")
    assert site.post(token, '{"temperature": 18.5}') == "200"
    expect(page.get_by_role("row").filter(has_text="thermo")).to_contain_text("18.5", timeout=30_000)
    pages.close()
    assert pages.complaints == []
