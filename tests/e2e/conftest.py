"""A real gateway and a real Chromium. Every page that a test opens is watched for errors and policy violations."""

import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, StorageState, sync_playwright

from tests.support.serving import Serving

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LAPTOP = (1366, 768)
PHONE = (390, 844)


@dataclass
class Site:
    """A gateway as its user knows it. `restart` keeps the data and the ports."""

    serving: Serving
    password: str
    http_port: int
    mqtt_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @classmethod
    def start(cls, directory: Path, *arguments: str) -> "Site":
        serving = Serving(directory, *arguments).ready()
        deadline = time.monotonic() + 10
        while (found := re.search(r"password +(\S+)\n", serving.output)) is None:
            assert time.monotonic() < deadline, serving.output
            time.sleep(0.02)
        return cls(serving, found[1], serving.port("http"), serving.port("mqtt"))

    def restart(self) -> None:
        binds = (f"listeners.0.bind=127.0.0.1:{self.http_port}", f"listeners.1.bind=127.0.0.1:{self.mqtt_port}")
        arguments = [argument for bind in binds for argument in ("--set", bind)]
        self.serving = Serving(self.serving.directory, *arguments).ready()

    def add_device(self, name: str) -> str:
        """Adds a device; its token."""
        return self.serving.command("device", "add", name).stdout.strip()

    def path_of(self, name: str) -> str:
        """The address of the device's page."""
        with closing(sqlite3.connect(self.serving.directory / "var/gateway.sqlite3")) as database:
            (pk,) = database.execute("SELECT id FROM gateway_devices_device WHERE name = ?", [name]).fetchone()
        return f"/devices/{pk}/"

    def post(self, token: str, telemetry: str) -> str:
        """Sends telemetry as a device does, with curl; the HTTP status."""
        address = f"{self.url}/api/v1/{token}/telemetry"
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", telemetry, address]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One gateway for all tests; those of test_first_message find it without devices."""
    site = Site.start(tmp_path_factory.mktemp("gateway"))
    yield site
    site.serving.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def logged_in(browser: Browser, site: Site) -> StorageState:
    """The cookies of the first admin, who has logged in by the form."""
    return log_in(browser, site)


def log_in(browser: Browser, site: Site) -> StorageState:
    context = browser.new_context()
    page = context.new_page()
    page.goto(site.url)
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(site.password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{site.url}/")
    state = context.storage_state()
    context.close()
    return state


class Pages:
    """Opens pages as the admin. `complaints` are what their consoles said that nobody expected."""

    def __init__(self, browser: Browser, site: Site, state: StorageState) -> None:
        self._browser = browser
        self._site = site
        self.state = state
        self._contexts: list[BrowserContext] = []
        self.complaints: list[str] = []

    def open(self, path: str, *, size: tuple[int, int] = LAPTOP, script: str = "") -> Page:
        """Opens `path` in a browser of its own; `script` runs before any of the page's."""
        viewport = {"width": size[0], "height": size[1]}
        context = self._browser.new_context(storage_state=self.state, viewport=viewport)  # type: ignore[arg-type]
        self._contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.on("console", lambda message: self._note(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._note(f"uncaught: {error}"))
        page.goto(self._site.url + path)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    def _note(self, text: str) -> None:
        # What a browser says of a gateway that is not there is what those tests are about.
        if not any(
            known in text for known in ("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY", "WebSocket connection")
        ):
            self.complaints.append(text)


@pytest.fixture
def pages(browser: Browser, site: Site, logged_in: StorageState) -> Iterator[Pages]:
    """Opens pages; at the end none of them has had anything to complain of, the security policy included."""
    opened = Pages(browser, site, logged_in)
    yield opened
    opened.close()
    assert opened.complaints == []
