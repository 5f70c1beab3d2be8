"""A simulated device: Paho's client, driven by the event loop (protocols.paho_loop), so that a fleet is one thread."""

import asyncio
import json
import math
import random
import time
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from devices.simulation.tally import Tally
from protocols.paho_loop import PahoLoop

TELEMETRY: Final = "v1/devices/me/telemetry"
NO_TOPIC: Final = "v1/devices/me/telemetri"
BROKEN: Final = b'{"temperature": 21.'
_COMMANDS: Final = "v1/devices/me/rpc/request/"
_ANSWERS: Final = "v1/devices/me/rpc/response/"
MAX_INFLIGHT: Final = 100
CONNECT_TIMEOUT_S: Final = 10.0
KEEP_ALIVE_S: Final = 30
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0


class SimulatedDevice:
    """Stays connected while `run` runs, sends what it is told to, and answers commands."""

    def __init__(self, name: str, token: str, address: tuple[str, int], tally: Tally) -> None:
        self._name = name
        self._token = token
        self._address = address
        self._tally = tally
        self._client: paho.Client | None = None
        self._socket: PahoLoop | None = None
        self._is_connected = False
        self._was_connected = False
        self._was_let_in = False
        self._ended = asyncio.Event()
        self._inflight: dict[int, float | None] = {}
        """Packet identifiers with the time of sending; None for the answer to a command."""
        self._last_ts = 0
        self._phase_s = random.uniform(0, 86_400)  # noqa: S311  no secret

    @property
    def has_room(self) -> bool:
        """Whether it may send one more."""
        return self._is_connected and len(self._inflight) < MAX_INFLIGHT

    @property
    def inflight(self) -> int:
        """How many messages have no acknowledgement yet."""
        return len(self._inflight)

    async def run(self) -> None:
        """Connects, and again whenever the connection ends, until it is cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            self._was_let_in = False
            await self._connect()
            await self._ended.wait()
            if self._was_let_in:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311  no secret
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def send_reading(self) -> None:
        """Sends temperature, humidity and battery. No two readings have the same time."""
        self._last_ts = ts = max(self._last_ts + 1, time.time_ns() // 1_000_000)
        age_s = ts / 1_000 + self._phase_s
        temperature = 21 + 4 * math.sin(age_s * math.tau / 600) + random.gauss(0, 0.1)
        values = {
            "temperature": round(temperature, 2),
            "humidity": round(55 - 1.5 * (temperature - 21) + random.gauss(0, 0.3), 1),
            "battery": round(100 - age_s / 864 % 100, 1),  # empty within a day, and then changed
        }
        self.send(TELEMETRY, json.dumps({"ts": ts, "values": values}).encode())

    def send(self, topic: str, payload: bytes) -> None:
        """Publishes at QoS 1."""
        self._tally.sent += 1
        self._publish(topic, payload, time.perf_counter())

    def cut(self) -> None:
        """Ends the connection without DISCONNECT."""
        socket = self._socket
        self._end()
        if socket is not None:
            socket.abort()

    def leave(self) -> None:
        """Says DISCONNECT and ends the connection."""
        if self._client is not None and self._socket is not None and self._socket.is_attached:
            self._client.disconnect()
        self.cut()

    def _publish(self, topic: str, payload: bytes, sent_at: float | None) -> None:
        assert self._client is not None
        self._inflight[self._client.publish(topic, payload, 1).mid] = sent_at

    async def _connect(self) -> None:
        self._ended.clear()
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            self._name,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # MAX_INFLIGHT counts
        client.username_pw_set(self._token)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_end
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.connect_async(*self._address, KEEP_ALIVE_S)
        self._client, self._socket = client, PahoLoop(client, on_fault=lambda _: self.cut())
        try:
            await self._socket.connect()
        except OSError:
            self._tally.connections_refused += 1
            self._end()

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.detach()
        if self._is_connected:
            self._is_connected = False
            self._tally.connected -= 1
        self._tally.lost += sum(sent_at is not None for sent_at in self._inflight.values())
        self._inflight.clear()
        self._client = self._socket = None
        self._ended.set()

    # Paho's callbacks

    def _on_connect(self, client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._tally.connections_refused += 1
            return  # the gateway closes it
        self._is_connected = self._was_let_in = True
        self._tally.connected += 1
        self._tally.reconnects += self._was_connected
        self._was_connected = True
        client.subscribe(f"{_COMMANDS}+", 1)

    def _on_end(self, client: paho.Client, *_told: Any) -> None:
        if client is self._client:
            self._end()

    def _on_publish(self, client: paho.Client, _data: Any, mid: int, code: Any, _properties: Any) -> None:
        if client is not self._client:
            return
        sent_at = self._inflight.pop(mid, None)
        if sent_at is None:
            self._tally.commands_answered += not code.is_failure
        elif code.is_failure:
            self._tally.refused += 1
        else:
            self._tally.acknowledged += 1
            self._tally.latencies.note(time.perf_counter() - sent_at)

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        if self._socket is None or client is not self._client:
            return
        self._socket.received += 1
        if message.topic.startswith(_COMMANDS):
            self._publish(_ANSWERS + message.topic.removeprefix(_COMMANDS), b'{"done": true}', None)
