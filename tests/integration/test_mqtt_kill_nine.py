"""`kill -9` at random moments under MQTT traffic at every QoS: sessions go on as if nothing had happened.

In the gate there are a few rounds; `make survive` has fifty, or as many as KILLS says.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.ports import free_port
from tests.support.redis import RedisServer
from tests.support.serving import Serving
from tests.support.waiting import wait_until

KILLS = int(os.environ.get("KILLS", "2"))
WINDOW = 20
PATIENCE_S = 60


class PahoClient:
    """A client with a session that stays. When it comes back is the test's business: Paho, when a reconnect of its own
    fails, forgets of its QoS 2 messages that they were received already."""

    def __init__(self, client_id: str, port: int) -> None:
        self.connects: list[bool] = []
        """Whether the server had the session, for each time it was connected."""
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, clean_session=False, reconnect_on_failure=False
        )
        self.client.on_connect = self._connected
        self._port = port
        self._thread = threading.Thread()

    def come(self) -> None:
        """Connects."""
        count = len(self.connects)
        self.client.connect("127.0.0.1", self._port)
        # Not by loop_start, which, called twice, leaves a pair of sockets open.
        self._thread = threading.Thread(target=self.client.loop_forever, daemon=True)
        self._thread.start()
        wait_until(lambda: len(self.connects) > count, "the connection")

    def leave(self) -> None:
        """Disconnects, if it is connected."""
        self.client.disconnect()
        self.gone()

    def gone(self) -> None:
        """Waits until the connection has ended."""
        if self._thread.ident:
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive()

    def _connected(self, _client: Any, _data: Any, flags: Any, _code: Any, _properties: Any) -> None:
        self.connects.append(flags.session_present)


class Publisher(PahoClient):
    """Publishes numbers, a window of them unacknowledged, and remembers which were acknowledged."""

    def __init__(self, topic: str, qos: int, port: int, *, retain: bool = False) -> None:
        super().__init__(f"publisher of {topic}", port)
        self.topic = topic
        self.qos = qos
        self.retain = retain
        self.sent = 0
        self.acknowledged: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._room = threading.Semaphore(WINDOW)
        self._stopping = threading.Event()
        self.client.max_inflight_messages_set(WINDOW)
        if qos:
            self.client.on_publish = self._acknowledged
        self.come()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def stop(self) -> None:
        """Returns when all that was sent is acknowledged."""
        self._stopping.set()
        self._sender.join()
        wait_until(lambda: len(self.acknowledged) == self.sent, f"the acknowledgements of {self.topic}")
        self.leave()

    def _send(self) -> None:
        while not self._stopping.is_set():
            time.sleep(0.001)  # leaves the others, and the gateway, some of the machine
            if not self.client.is_connected() or (self.qos and not self._room.acquire(timeout=0.1)):
                continue
            number = self.sent
            self.sent += 1
            with self.client._out_message_mutex:  # so that the number is known before the acknowledgement comes
                info = self.client.publish(self.topic, b"%d" % number, self.qos, self.retain)
                self._numbers[info.mid] = number
            if not self.qos:
                self.acknowledged.add(number)

    def _acknowledged(self, _client: Any, _data: Any, mid: int, _code: Any, _properties: Any) -> None:
        self.acknowledged.add(self._numbers.pop(mid))
        self._room.release()


class Subscriber(PahoClient):
    """Counts what it receives; subscribes once, when it has no session yet."""

    def __init__(self, client_id: str, port: int) -> None:
        super().__init__(client_id, port)
        self.received: dict[str, Counter[int]] = {}
        self.subscribed = threading.Event()
        self.client.on_message = self._message
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.come()

    def come(self) -> None:
        """Connects, and subscribes if it has not."""
        super().come()
        wait_until(self.subscribed.is_set, "the first subscription")

    def _connected(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        super()._connected(client, data, flags, code, properties)
        if not self.subscribed.is_set():
            client.subscribe("numbers/#", 2)

    def _message(self, _client: Any, _data: Any, message: Any) -> None:
        self.received.setdefault(message.topic, Counter())[int(message.payload)] += 1


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return "sqlite"
    server: RedisServer = request.getfixturevalue("redis_server")
    with server.client() as client:
        client.select(8)
        client.flushdb()
    return f"{server.url}/8"


def test_nothing_acknowledged_is_lost_and_nothing_at_qos_2_comes_twice(tmp_path: Path, store: str) -> None:
    port = free_port()
    listener = f"listeners.1.bind=127.0.0.1:{port}"
    anonymous, roomy = "listeners.1.allow_anonymous=true", "listeners.1.max_queued_messages=1000000"
    roomy_too = "listeners.1.max_queued_bytes=1000000000"
    settings = (listener, anonymous, roomy, roomy_too, f"mqtt.store={store}")
    arguments = [part for setting in settings for part in ("--set", setting)]
    serving = Serving(tmp_path, *arguments)
    try:
        serving.ready()
        faithful, fickle = Subscriber("faithful", port), Subscriber("fickle", port)
        publishers = [Publisher(f"numbers/{qos}", qos, port) for qos in (0, 1, 2)]
        retaining = Publisher("numbers/retained", 1, port, retain=True)
        everybody = [*publishers, retaining]

        for kill in range(KILLS):
            before = [len(publisher.acknowledged) for publisher in everybody]
            wait_until(
                lambda: all(len(p.acknowledged) > count for p, count in zip(everybody, before, strict=True)),  # noqa: B023
                "an acknowledgement for each",
            )
            time.sleep(random.uniform(0, 0.3))
            if kill % 2:
                fickle.come()
            else:
                fickle.leave()
            time.sleep(random.uniform(0, 0.3))
            os.kill(serving.process.pid, signal.SIGKILL)
            serving.ended()
            for client in (faithful, fickle, *everybody):
                client.gone()
            serving = Serving(tmp_path, *arguments).ready()
            for client in (faithful, *everybody, *[fickle] * (kill % 2)):
                client.come()

        for publisher in everybody:
            publisher.stop()
        if KILLS % 2:
            fickle.come()
        for subscriber in (faithful, fickle):
            for publisher in (*publishers[1:], retaining):
                wait_until(
                    lambda: subscriber.received.get(publisher.topic, Counter()).keys() >= publisher.acknowledged,  # noqa: B023
                    f"what {publisher.topic} was acknowledged",
                )
            assert max(subscriber.received["numbers/0"].values(), default=1) == 1
            assert max(subscriber.received["numbers/2"].values()) == 1
        for client in (faithful, fickle, *everybody):
            assert client.connects == [False, *[True] * (len(client.connects) - 1)]
            assert len(client.connects) > 1
        late = Subscriber("late", port)
        wait_until(lambda: "numbers/retained" in late.received, "the retained message")
        assert list(late.received["numbers/retained"]) == [retaining.sent - 1]
        for subscriber in (faithful, fickle, late):
            subscriber.leave()
        assert serving.stop() == 0
        counts = ", ".join(f"{len(publisher.acknowledged)} of {publisher.topic}" for publisher in everybody)
        print(f"{KILLS} kills with the store {store}; acknowledged {counts}; nothing lost")
    finally:
        serving.kill()
