"""`manage.py runserver` in a project that has the framework and nothing else of ours."""

import asyncio
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.django_project import RunServer, write_files

FILES = {
    "manage.py": """
        import os, sys
        os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
        from django.core.management import execute_from_command_line
        execute_from_command_line(sys.argv)
        """,
    "site_settings.py": """
        from pathlib import Path
        SECRET_KEY = "only for a test"
        DEBUG = True
        INSTALLED_APPS = ["gateway", "shop", "django.contrib.staticfiles"]
        STATIC_URL = "static/"
        ROOT_URLCONF = "shop.urls"
        ASGI_APPLICATION = "shop.asgi.application"
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
        CHANNEL_LAYERS = {"default": {"BACKEND": "gateway.layers.InMemoryChannelLayer"}}
        """,
    "shop/__init__.py": "",
    "shop/static/shop.css": "body {}",
    "shop/urls.py": """
        import time
        from django.http import HttpResponse
        from django.urls import path

        def slow(request):
            time.sleep(2)
            return HttpResponse("late")

        urlpatterns = [path("", lambda request: HttpResponse("first version")), path("slow/", slow)]
        """,
    "shop/asgi.py": """
        from django.core.asgi import get_asgi_application

        django = get_asgi_application()

        from gateway.generic.mqtt import AsyncMqttConsumer
        from gateway.generic.websocket import AsyncWebsocketConsumer
        from gateway.routing import ProtocolTypeRouter


        class Meter(AsyncMqttConsumer):
            async def connect(self, password):
                await self.accept()


        class Echo(AsyncWebsocketConsumer):
            async def receive(self, text_data):
                await self.send(text_data)


        application = ProtocolTypeRouter({"http": django, "websocket": Echo.as_asgi(), "mqtt": Meter.as_asgi()})
        """,
}


def dedent(text: str) -> str:
    return "\n".join(line.removeprefix("        ") for line in text.strip("\n").split("\n")).rstrip() + "\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_files(tmp_path, {name: dedent(text) for name, text in FILES.items()})
    return tmp_path


@pytest.fixture
def server(project: Path, request: pytest.FixtureRequest) -> Iterator[RunServer]:
    with RunServer(project, "127.0.0.1:0", *getattr(request, "param", ())) as server:
        yield server


def fetch(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
        return str(response.read().decode())


def test_runserver_serves_pages_static_files_and_websockets_and_logs_requests(server: RunServer) -> None:
    port = server.port()

    assert fetch(port, "/") == "first version"
    assert fetch(port, "/static/shop.css") == "body {}\n"
    assert asyncio.run(echo(port)) == "hello"
    server.wait_for("(GET /static/shop.css)")
    assert "Traceback" not in "".join(server.lines)


async def echo(port: int) -> str:
    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}/") as websocket:
        await websocket.send_str("hello")
        return str((await websocket.receive(timeout=30)).data)


@pytest.mark.parametrize("server", [["--mqtt", "0"]], indirect=True)
def test_runserver_serves_mqtt_if_asked_to(server: RunServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port("mqtt")), timeout=30) as client:
        client.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c")
        assert client.recv(4) == b"\x20\x02\x00\x00"


def test_runserver_reloads_when_code_has_changed(server: RunServer, project: Path) -> None:
    assert fetch(server.port(), "/") == "first version"
    seen = len(server.lines)
    urls = project / "shop" / "urls.py"
    urls.write_text(urls.read_text().replace("first", "second"))

    deadline = time.monotonic() + 30
    while not any("Starting" in line for line in server.lines[seen:]) and time.monotonic() < deadline:
        urls.touch()  # again: the reloader compares with what it found in its first round, which may be to come
        time.sleep(0.1)

    assert fetch(server.port(after=seen), "/") == "second version"


@pytest.mark.parametrize("server", [["--noreload", "--nostatic", "--http_timeout", "0.2"]], indirect=True)
def test_daphnes_options(server: RunServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(server.port(), "/static/shop.css")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        fetch(server.port(), "/slow/")


@pytest.mark.parametrize("server", [["--noreload", "--noasgi"]], indirect=True)
def test_noasgi_is_djangos_own_server(server: RunServer) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port()}/", timeout=30) as response:
        assert response.headers["Server"].startswith("WSGIServer")


def test_a_port_in_use_is_said_in_one_line(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with RunServer(project, f"127.0.0.1:{taken.getsockname()[1]}", "--noreload") as server:
            server.process.wait(30)
            assert server.wait_for("^(Error: .*)") == "Error: That port is already in use."
        assert server.process.returncode == 1


def test_after_staticfiles_the_check_says_why_it_is_not_used(project: Path) -> None:
    settings = project / "site_settings.py"
    settings.write_text(settings.read_text() + "INSTALLED_APPS.sort(key=lambda app: app == 'gateway')\n")
    with RunServer(project, "127.0.0.1:0", "--noreload") as server:
        assert server.wait_for("(gateway.E001)")
