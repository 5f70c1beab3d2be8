"""The product as a user runs it, `gateway serve`, with devices and a logged-in browser, for the benchmarks."""

import json
import re
import sqlite3
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path

from load import free_port, running

ROOT = Path(__file__).resolve().parent.parent
GATEWAY = str(Path(sys.executable).parent / "gateway")
CONFIGURATION = """\
data_dir = "{directory}/var"

[log]
level = "warning"

[[listeners]]
protocol = "http"
bind = "127.0.0.1:{http_port}"

[[listeners]]
protocol = "mqtt"
bind = "127.0.0.1:{mqtt_port}"
max_connections_per_address = 0
"""
DATABASE = """
[database]
url = "{url}"
"""
ADD_DEVICES = """
import json
from devices.credentials import issue
from devices.models import Device, DeviceType
from django.db import transaction
with transaction.atomic():
    kind, _ = DeviceType.objects.get_or_create(name="default")
    added = [Device.objects.create(name=f"bench-{number}", type=kind) for number in range(%d)]
    print(json.dumps([[device.pk, issue(device)] for device in added]))
"""


@dataclass(frozen=True)
class Product:
    """A running gateway."""

    pid: int
    http_port: int
    mqtt_port: int
    device_ids: list[int]
    tokens: list[str]
    cookie: str
    """Of a browser in which the admin is logged in."""
    database: Path

    def rows(self) -> int:
        """How many readings are stored."""
        with closing(sqlite3.connect(self.database)) as connection:
            return int(connection.execute("SELECT count(*) FROM gateway_devices_reading").fetchone()[0])

    def metric(self, name: str) -> float:
        """A number of /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics") as response:
            text = response.read().decode()
        return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])


@contextmanager
def gateway(directory: Path, devices: int, core: int | None = None) -> Iterator[Product]:
    """`gateway serve` on an empty directory, on one core if given, with so many devices."""
    command, http_port, mqtt_port = configured(directory)
    said = directory / "gateway.log"
    with said.open("wb") as output, running([*command, "serve"], mqtt_port, core, output=output, cwd=ROOT) as pid:
        ids, tokens = add_devices(command, devices)
        password = re.search(r"password\s+(\S+)", said.read_text(encoding="utf-8"))[1]
        yield Product(
            pid=pid,
            http_port=http_port,
            mqtt_port=mqtt_port,
            device_ids=ids,
            tokens=tokens,
            cookie=log_in(http_port, password),
            database=directory / "var" / "gateway.sqlite3",
        )


def configured(directory: Path, database_url: str | None = None) -> tuple[list[str], int, int]:
    """The command line of a gateway that keeps everything in `directory`, and its ports for HTTP and for MQTT."""
    http_port, mqtt_port = free_port(), free_port()
    text = CONFIGURATION.format(directory=directory, http_port=http_port, mqtt_port=mqtt_port)
    if database_url is not None:
        text += DATABASE.format(url=database_url)
    configuration = directory / "gateway.toml"
    configuration.write_text(text, encoding="utf-8")
    return [GATEWAY, "--config", str(configuration)], http_port, mqtt_port


def add_devices(command: list[str], devices: int) -> tuple[list[int], list[str]]:
    """Adds so many devices to the database of a gateway that has been started once; their numbers and tokens."""
    added = subprocess.run(
        [*command, "manage", "shell", "-v", "0", "-c", ADD_DEVICES % devices],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    ids, tokens = zip(*json.loads(added.stdout.splitlines()[-1]), strict=True)
    return list(ids), list(tokens)


def log_in(port: int, password: str) -> str:
    """Logs the admin in by the form; returns the session's cookie."""
    jar = CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    url = f"http://127.0.0.1:{port}/login/"
    browser.open(url).close()
    token = next(cookie.value for cookie in jar if cookie.name.startswith("csrftoken"))
    form = {"username": "admin", "password": password, "csrfmiddlewaretoken": token}
    browser.open(url, urllib.parse.urlencode(form).encode()).close()
    return next(f"{cookie.name}={cookie.value}" for cookie in jar if cookie.name.startswith("sessionid"))
