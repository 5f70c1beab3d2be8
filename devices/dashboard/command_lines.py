"""The command lines that a person copies to send a device's first reading."""

import os
import shlex
import sys
from pathlib import Path
from urllib.parse import urlsplit

from django.http import HttpRequest

from gateway.config import DEFAULT_FILE, FILE_VARIABLE, Config, current_loaded

TOPIC = "v1/devices/me/telemetry"


def add_line(name: str) -> str:
    """The command that adds a device, as this gateway's own command line is called on its machine.

    It works on the same data. A password in an address of a database is not for everybody who may look: a database that
    was named on the command line is in the line only if it is a file.
    """
    program = sys.argv[0] if Path(sys.argv[0]).name == "gateway" else "gateway"
    file = os.environ.get(FILE_VARIABLE)
    option = ["--config", file] if file and Path(file) != DEFAULT_FILE else []
    loaded = current_loaded()
    where = {"data_dir": str(loaded.config.data_dir)}
    if loaded.config.sqlite_file() is not None:
        where["database.url"] = loaded.config.database_url
    for key, value in where.items():
        if loaded.origins.get(key) == f"--set {key}":
            option += ["--set", f"{key}={value}"]
    return shlex.join([program, *option, "device", "add", name])


def publish_lines(request: HttpRequest, config: Config, token: str = "TOKEN") -> list[tuple[str, str]]:  # noqa: S107
    """Pairs of a label and a line, for each protocol that is listened for; `token` stands where the token goes.

    The address is the public one, if it is configured, else the one by which this page was asked for.
    """
    site = config.server.public_url or f"{request.scheme}://{request.get_host()}"
    socket = site.replace("http", "ws", 1) + "/ws/device/"
    lines = [
        ("HTTP", f"curl -d '{{\"temperature\": 22}}' {site}/api/v1/{token}/telemetry"),
        ("WebSocket", f"echo '{{\"temperature\": 22.5}}' | websocat -H 'Authorization: Bearer {token}' {socket}"),
    ]
    mqtt = _mqtt_options(config, urlsplit(site).hostname or "localhost")
    if mqtt is not None:
        lines.insert(0, ("MQTT", f"mosquitto_pub {mqtt} -u {token} -t {TOPIC} -q 1 -m '{{\"temperature\": 21.5}}'"))
    return lines


def _mqtt_options(config: Config, host: str) -> str | None:
    """Options of mosquitto_pub for the first MQTT listener on TCP; None if there is none with a known port."""
    for listener in config.listeners:
        port = (listener.bind or "").rpartition(":")[2]
        if listener.protocol != "mqtt" or not port.isdigit() or port == "0":
            continue
        encrypted = " --tls-use-os-certs" if listener.tls else ""
        default = "8883" if listener.tls else "1883"
        return f"-h {shlex.quote(host)}" + ("" if port == default and not encrypted else f" -p {port}") + encrypted
    return None
