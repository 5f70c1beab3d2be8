"""`kill -9` at a random moment under load: what was acknowledged is there after the restart, and nothing twice."""

import http.client
import itertools
import json
import os
import random
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.fleet import FleetDevice, add_devices
from tests.support.ports import free_port
from tests.support.serving import Serving
from tests.support.waiting import wait_until

KILLS = 10
WINDOW = 50
FIRST_TS = 1_700_000_000_000


def payload(number: int) -> bytes:
    """A reading that no other has the time of."""
    return json.dumps({"ts": FIRST_TS + number, "values": {"n": number}}).encode()


class MqttLoad:
    """A device on MQTT, by Paho, which reconnects by itself and sends again what was not acknowledged."""

    def __init__(self, device: FleetDevice, port: int) -> None:
        self.device = device
        self.acknowledged: set[int] = set()
        self.sent = 0
        self._numbers: dict[int, int] = {}
        self._room = threading.Semaphore(WINDOW)
        self._stopping = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "load", clean_session=False)
        self._client.username_pw_set(device.token)
        self._client.reconnect_delay_set(1, 1)
        self._client.max_inflight_messages_set(WINDOW)
        self._client.on_publish = self._acknowledged
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Waits until all that was sent is acknowledged."""
        self._stopping.set()
        self._thread.join()
        wait_until(lambda: len(self.acknowledged) == self.sent)
        self._client.disconnect()
        self._client.loop_stop()

    def _send(self) -> None:
        while not self._stopping.is_set():
            if not self._room.acquire(timeout=0.1):
                continue
            number = self.sent
            self.sent += 1
            with self._client._out_message_mutex:  # so that the number is known before the acknowledgement comes
                info = self._client.publish("v1/devices/me/telemetry", payload(number), qos=1)
                self._numbers[info.mid] = number

    def _acknowledged(self, _client: Any, _data: Any, mid: int, _code: Any, _properties: Any) -> None:
        self.acknowledged.add(self._numbers.pop(mid))
        self._room.release()


class HttpLoad:
    """A device on HTTP, which sends each reading until it is told that it is stored."""

    def __init__(self, device: FleetDevice, port: int) -> None:
        self.device = device
        self.acknowledged: set[int] = set()
        self._port = port
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _send(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        for number in itertools.count():
            while not self._is_taken(connection, payload(number)):
                connection.close()
                if self._stopping.wait(0.05):
                    return
            self.acknowledged.add(number)
            if self._stopping.is_set():
                connection.close()
                return

    def _is_taken(self, connection: http.client.HTTPConnection, body: bytes) -> bool:
        try:
            connection.request("POST", f"/api/v1/{self.device.token}/telemetry", body)
            with connection.getresponse() as response:
                response.read()
                return response.status == 200
        except (OSError, http.client.HTTPException):
            return False


def test_every_acknowledged_reading_is_stored_once(tmp_path: Path) -> None:
    http_port, mqtt_port = free_port(), free_port()
    binds = [f"listeners.{index}.bind=127.0.0.1:{port}" for index, port in enumerate((http_port, mqtt_port))]
    arguments = ["--set", binds[0], "--set", binds[1]]
    serving = Serving(tmp_path, *arguments)
    try:
        serving.ready()
        mqtt_1, mqtt_2, http_1, http_2 = add_devices(serving, "mqtt-1", "mqtt-2", "http-1", "http-2")
        loads = [MqttLoad(mqtt_1, mqtt_port), MqttLoad(mqtt_2, mqtt_port)]
        loads += [HttpLoad(http_1, http_port), HttpLoad(http_2, http_port)]  # type: ignore[list-item]

        for _ in range(KILLS):
            before = [len(load.acknowledged) for load in loads]
            wait_until(lambda: all(len(load.acknowledged) > count for load, count in zip(loads, before, strict=True)))  # noqa: B023
            time.sleep(random.uniform(0, 0.3))
            os.kill(serving.process.pid, signal.SIGKILL)
            serving.ended()
            at_the_kill = [set(load.acknowledged) for load in loads]

            serving = Serving(tmp_path, *arguments).ready()

            for load, acknowledged in zip(loads, at_the_kill, strict=True):
                lost = acknowledged - set(stored(tmp_path, load.device))
                assert not lost, f"{load.device.name}: {len(lost)} acknowledged readings are not stored"

        for load in loads:
            load.stop()
        for load in loads:
            assert sorted(load.acknowledged) == list(range(len(load.acknowledged)))
            assert stored(tmp_path, load.device) == sorted(load.acknowledged)
        assert sum(len(load.acknowledged) for load in loads) > 1_000
        assert serving.stop() == 0
    finally:
        serving.kill()


def stored(directory: Path, device: FleetDevice) -> list[int]:
    """The numbers of the readings of a device, each as often as it is stored."""
    connection = sqlite3.connect(directory / "var" / "gateway.sqlite3")
    rows = connection.execute(
        "SELECT CAST(number AS INTEGER), ts FROM gateway_devices_reading WHERE device_id = ? ORDER BY ts", [device.pk]
    ).fetchall()
    connection.close()
    assert all(ts == FIRST_TS + number for number, ts in rows)
    return [number for number, _ in rows]
