"""The framework alone: the wheel in an empty environment, the tutorial's project, two pages in a real browser.

Everything is done as the tutorial says it: its pages are what is written and run here.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect, sync_playwright

from tests.support import tutorial
from tests.support.django_project import RunServer, run
from tests.support.redis import RedisServer
from tests.support.serving import clean_environment

ROOT = Path(__file__).parents[2]
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
INSTALL_TIMEOUT_S = 300


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of a new environment that has the wheel and what it requires."""
    directory = tmp_path_factory.mktemp("standalone")
    wheel = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory))
    run(directory, sys.executable, *wheel, str(ROOT))
    run(directory, sys.executable, "-m", "venv", "env")
    python = str(directory / "env" / "bin" / "python")
    (built,) = directory.glob("fieldgate-*.whl")
    run(directory, python, "-m", "pip", "install", "--quiet", str(built), timeout_s=INSTALL_TIMEOUT_S)
    return python


@pytest.fixture(scope="module")
def project(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that both tutorials have made."""
    directory = tmp_path_factory.mktemp("work")
    for page in ("chat.md", "thermometer.md"):
        for command in tutorial.commands(page):
            match command.split():
                case ["django-admin", "startproject", name]:
                    run(directory, python, "-m", "django", "startproject", name)
                    directory /= name
                case ["python", "manage.py", "startapp", name]:
                    run(directory, python, "manage.py", "startapp", name)
        tutorial.apply(page, directory)
    run(directory, python, "manage.py", "migrate")
    return directory


def in_browser(visit: Callable[[BrowserContext], None]) -> None:
    """Calls `visit` in a thread of its own: Playwright's loop must not be in that of other tests."""

    def drive() -> None:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
            visit(browser.new_context())
            browser.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(drive).result()


@pytest.fixture
def server(project: Path, python: str) -> Iterator[RunServer]:
    with RunServer(project, "127.0.0.1:0", "--mqtt", "0", python=python) as server:
        yield server


def test_the_tests_of_the_tutorial_pass_on_databases_in_memory_and_in_files(project: Path, python: str) -> None:
    run(project, python, "-W", "error", "manage.py", "test")
    settings = (project / "mysite" / "settings.py").read_text()
    (project / "mysite" / "settings_file.py").write_text(
        settings + 'DATABASES["default"]["TEST"] = {"NAME": BASE_DIR / "test.sqlite3"}\n'
    )
    run(project, python, "-W", "error", "manage.py", "test", "--settings", "mysite.settings_file")


def test_the_project_is_in_order_and_has_nothing_of_the_product(project: Path, python: str) -> None:
    assert "no issues" in run(project, python, "manage.py", "check")
    listing = "import sys, mysite.asgi; print({name.partition('.')[0] for name in sys.modules})"
    loaded = run(project, python, "manage.py", "shell", "--no-imports", "-c", listing)
    assert "'gateway'" in loaded
    assert "'devices'" not in loaded
    assert "'project'" not in loaded


def test_gateway_serve_and_gateway_worker_run_the_project(
    project: Path, python: str, redis_server: RedisServer
) -> None:
    gateway = Path(python).with_name("gateway")
    layer = {"BACKEND": "gateway.layers.redis.RedisChannelLayer", "CONFIG": {"hosts": [redis_server.url]}}
    shared = f"from mysite.settings import *\nCHANNEL_LAYERS = {{'default': {layer}}}\n"
    (project / "mysite" / "shared_settings.py").write_text(shared)
    environ = clean_environment(DJANGO_SETTINGS_MODULE="mysite.shared_settings")
    ports = ("--set", "listeners.0.bind=127.0.0.1:0", "--set", "listeners.1.bind=127.0.0.1:0")
    for command, ready in ((("serve", *ports), "ready: "), (("worker", "mails"), "Running worker")):
        process = subprocess.Popen([gateway, *command], cwd=project, env=environ, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        with process.stderr:
            lines = list(takewhile(lambda line, ready=ready: ready not in line, process.stderr))
            process.terminate()
            lines += process.stderr
        assert process.wait(30) == 0, "".join(lines)


def test_two_pages_in_a_room_see_each_others_messages(server: RunServer) -> None:
    url = f"http://127.0.0.1:{server.port()}/chat"

    def visit(context: BrowserContext) -> None:
        ann, bob, elsewhere = context.new_page(), context.new_page(), context.new_page()
        for page, room in ((ann, "lobby"), (bob, "lobby"), (elsewhere, "kitchen")):
            with page.expect_websocket():
                page.goto(f"{url}/{room}/")
            page.wait_for_function("socket.readyState === WebSocket.OPEN")
        for page, text in ((ann, "hello"), (bob, "hello, Ann")):
            page.get_by_label("Message").fill(text)
            page.get_by_role("button", name="Send").click()
            expect(page.get_by_role("listitem").filter(has_text=text).last).to_be_visible()
        for page in (ann, bob):
            expect(page.get_by_role("listitem")).to_have_text(["hello", "hello, Ann"])
        expect(elsewhere.get_by_role("listitem")).to_have_count(0)

    in_browser(visit)
    assert "Traceback" not in "".join(server.lines)


def test_a_page_shows_the_temperature_that_is_published_over_mqtt(server: RunServer) -> None:
    http_port, mqtt_port = server.port(), server.port("mqtt")

    def publish(payload: str) -> str:
        (command,) = (line for line in tutorial.commands("thermometer.md") if line.endswith(payload))
        words = [str(mqtt_port) if word == "1883" else word for word in command.split()]
        done = subprocess.run([*words, "-d"], capture_output=True, text=True, timeout=30, check=False)
        return done.stdout + done.stderr

    def visit(context: BrowserContext) -> None:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{http_port}/temperatures/")
        for _ in range(20):  # the first ones may come before the page is in the group
            publish("21.5")
            page.wait_for_timeout(100)
            if page.get_by_role("definition").count():
                break
        expect(page.get_by_role("definition")).to_have_text("21.5 °C")
        expect(page.get_by_role("term")).to_have_text("kitchen")

    in_browser(visit)
    assert "RC:153" in publish("warm -V 5")
