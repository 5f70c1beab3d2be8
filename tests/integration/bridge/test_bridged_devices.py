"""`gateway serve` with a bridge: what devices publish at the broker upstream is stored, and acknowledged when it is."""

import json
import os
import signal
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.fleet import add_devices
from tests.support.mosquitto import Mosquitto
from tests.support.serving import Serving
from tests.support.waiting import wait_until

DEADLINE_S = 120.0
LISTENERS = """
[[listeners]]
protocol = "http"
bind = "127.0.0.1:0"

[[listeners]]
protocol = "mqtt"
bind = "127.0.0.1:0"
allow_anonymous = true
"""
BRIDGE = """
[[listeners]]
protocol = "mqtt-bridge"
url = "{url}"
share = "fleet"
reconnect_min_s = 0.05
reconnect_max_s = 0.5

[[listeners.receive]]
upstream = "site/{{device}}/telemetry"
local = "v1/devices/{{device}}/telemetry"
"""


def readiness(serving: Serving) -> dict[str, str]:
    try:
        with urllib.request.urlopen(f"{serving.url}/readyz", timeout=30) as response:
            report: dict[str, str] = json.load(response)
            return report
    except urllib.error.HTTPError as error:
        with error:
            return dict(json.load(error))


def is_bridged(serving: Serving) -> bool:
    return readiness(serving)["bridge upstream"] == "ok"


def stored(directory: Path) -> list[tuple[str, float]]:
    """The readings of all devices: device, value."""
    with closing(sqlite3.connect(directory / "var" / "gateway.sqlite3", timeout=30)) as database:
        return database.execute(
            "SELECT d.name, r.number FROM gateway_devices_reading r"
            " JOIN gateway_devices_device d ON d.id = r.device_id ORDER BY d.name, r.number"
        ).fetchall()


class Field:
    """What devices publish upstream, by Paho."""

    def __init__(self, broker: Mosquitto) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "field", protocol=paho.MQTTv5)
        self._client.max_inflight_messages_set(1_000)
        self._client.connect(*broker.address)
        self._client.loop_start()

    def publish(self, device: str, payload: str) -> None:
        """Returns when the broker upstream has it."""
        self._client.publish(f"site/{device}/telemetry", payload, qos=1).wait_for_publish(DEADLINE_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "upstream").start()
    yield broker
    broker.stop()


@pytest.fixture
def field(upstream: Mosquitto) -> Iterator[Field]:
    devices = Field(upstream)
    yield devices
    devices.close()


@pytest.fixture
def start(tmp_path: Path, upstream: Mosquitto) -> Iterator[Callable[..., Serving]]:
    """Starts gateways, each with its directory, bridged to the broker upstream."""
    started: list[Serving] = []

    def start_one(name: str = "gateway", more: str = "") -> Serving:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        (directory / "gateway.toml").write_text(LISTENERS + BRIDGE.format(url=upstream.url) + more)
        started.append(Serving(directory, "--config", "gateway.toml"))
        return started[-1].ready()

    yield start_one
    for serving in started:
        serving.kill()


def test_a_reading_published_upstream_is_stored_and_what_is_none_is_refused(
    start: Callable[..., Serving], upstream: Mosquitto, field: Field
) -> None:
    serving = start()
    add_devices(serving, "thermo-1")
    wait_until(lambda: is_bridged(serving), "the bridge")

    field.publish("nobody", '{"temperature": 1}')
    field.publish("thermo-1", "not JSON")
    field.publish("thermo-1", '{"temperature": 21.5}')

    wait_until(lambda: stored(serving.directory), "the reading")
    assert stored(serving.directory) == [("thermo-1", 21.5)]
    wait_until(lambda: upstream.log().count("Received PUBACK from fieldgate-upstream-") == 3, "the acknowledgements")
    assert serving.stop() == 0
    assert "there is no device 'nobody'" in "".join(serving.log)


def test_a_bridge_that_is_away_is_told_of_and_keeps_nobody_from_working(
    start: Callable[..., Serving], upstream: Mosquitto
) -> None:
    upstream.stop()
    serving = start()

    report = readiness(serving)

    assert report.pop("bridge upstream") == "not connected"
    assert set(report.values()) == {"ok"}
    with urllib.request.urlopen(f"{serving.url}/metrics", timeout=30) as response:
        assert 'gateway_bridge_connected{bridge="upstream"} 0.0' in response.read().decode()
    upstream.start()
    wait_until(lambda: is_bridged(serving), "the bridge")


def test_kill_nine_loses_nothing_that_was_published_upstream(
    start: Callable[..., Serving], tmp_path: Path, field: Field
) -> None:
    serving = start()
    add_devices(serving, "thermo-1")
    wait_until(lambda: is_bridged(serving), "the bridge")
    number = 0

    for _ in range(2):
        for _ in range(200):
            field.publish("thermo-1", json.dumps({"ts": 1_700_000_000_000 + number, "values": {"n": number}}))
            number += 1
        os.kill(serving.process.pid, signal.SIGKILL)
        serving.ended()
        for _ in range(20):
            field.publish("thermo-1", json.dumps({"ts": 1_700_000_000_000 + number, "values": {"n": number}}))
            number += 1
        serving = start()

    wait_until(lambda: len(stored(serving.directory)) >= number, "all readings")
    assert stored(serving.directory) == [("thermo-1", float(n)) for n in range(number)]


def test_a_bridge_without_a_broker_to_send_from_is_one_line(tmp_path: Path, upstream: Mosquitto) -> None:
    http = LISTENERS.partition('[[listeners]]\nprotocol = "mqtt"')[0]
    send = '[[listeners.send]]\nlocal = "out/#"\n'
    (tmp_path / "gateway.toml").write_text(http + BRIDGE.format(url=upstream.url) + send)
    serving = Serving(tmp_path, "--config", "gateway.toml", binds=1)

    assert serving.ended() == 1
    assert serving.log[-1] == (
        "gateway: cannot serve mqtt-bridge: the bridge 'upstream' has send tables, and there is no mqtt listener\n"
    )


def test_what_waits_for_upstream_outlives_kill_nine(start: Callable[..., Serving], upstream: Mosquitto) -> None:
    watching = paho.Client(CallbackAPIVersion.VERSION2, "watching", clean_session=False)
    received: list[bytes] = []
    subscribed = threading.Event()
    watching.on_subscribe = lambda *_arguments: subscribed.set()
    watching.on_message = lambda _client, _data, message: received.append(message.payload)
    watching.connect(*upstream.address)
    watching.subscribe("from/here/#", 1)
    watching.loop_start()
    assert subscribed.wait(DEADLINE_S)
    serving = start(more='[[listeners.send]]\nlocal = "out/#"\nupstream = "from/here/#"\n')
    upstream.stop()
    here = paho.Client(CallbackAPIVersion.VERSION2, "here")
    here.connect("127.0.0.1", serving.port("mqtt"))
    here.loop_start()

    for number in range(10):
        here.publish("out/x", b"%d" % number, qos=1).wait_for_publish(DEADLINE_S)
    os.kill(serving.process.pid, signal.SIGKILL)
    serving.ended()
    here.loop_stop()
    upstream.start()
    start(more='[[listeners.send]]\nlocal = "out/#"\nupstream = "from/here/#"\n')

    wait_until(lambda: len(set(received)) == 10, "what waited")
    assert sorted(set(received)) == [b"%d" % number for number in range(10)]
    watching.disconnect()
    watching.loop_stop()
