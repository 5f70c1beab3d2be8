"""`gateway mqtt ...` against a gateway that runs: another process, over the control socket."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTProtocolVersion

from tests.support.serving import GATEWAY, Serving, clean_environment

DEADLINE_S = 60


class Subscriber:
    """A Paho client that does not come back by itself."""

    def __init__(self, port: int, client_id: str) -> None:
        self.subscribed, self.ended = threading.Event(), threading.Event()
        self.reason = ""
        self.client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe("a/#", qos=1)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_disconnect = self._disconnected
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.subscribed.wait(DEADLINE_S)

    def _disconnected(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.reason = str(reason)
        self.ended.set()
        client.disconnect()

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def absent(port: int, client_id: str, username: str | None = None) -> str:
    """A client that has left a session with a subscription behind."""
    subscribed, ended = threading.Event(), threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False)
    client.username_pw_set(username)
    client.on_connect = lambda client, *_: client.subscribe("v1/devices/me/attributes" if username else "a/#", qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_disconnect = lambda *_: ended.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert subscribed.wait(DEADLINE_S)
    client.disconnect()
    assert ended.wait(DEADLINE_S)
    client.loop_stop()
    return client_id


@pytest.fixture
def gateway(serve: Callable[..., Serving]) -> Serving:
    return serve("--set", "listeners.1.allow_anonymous=true").ready()


def rows(gateway: Serving, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.command("mqtt", *arguments, "--json").stdout.splitlines()]


def test_an_operator_looks_into_the_broker_and_cuts_a_client_off(gateway: Serving) -> None:
    subscriber = Subscriber(gateway.port("mqtt"), "watcher")
    info = subscriber.client.publish("a/kept", b"12345", qos=1, retain=True)
    info.wait_for_publish(DEADLINE_S)

    [client] = rows(gateway, "clients")
    assert (client["client_id"], client["version"], client["subscriptions"]) == ("anonymous/watcher", "5.0", 1)
    [session] = rows(gateway, "sessions")
    assert (session["client_id"], session["connected"]) == ("anonymous/watcher", True)
    [subscription] = rows(gateway, "subscriptions", "anonymous/watcher")
    assert (subscription["topic_filter"], subscription["qos"]) == ("a/#", 1)
    kept = {"topic": "a/kept", "owner": "127.0.0.1", "qos": 1, "bytes": 5, "expires_s": None}
    assert rows(gateway, "retained", "a/+") == [kept]
    assert rows(gateway, "retained", "b/+") == []
    table = gateway.command("mqtt", "clients").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["client", "anonymous/watcher"]

    for command in ("kick", "subscriptions"):
        failed = gateway.command("mqtt", command, "watcher", check=False)
        assert failed.returncode == 1
        assert "do you mean 'anonymous/watcher'?" in failed.stderr

    gateway.command("mqtt", "kick", "anonymous/watcher")

    assert subscriber.ended.wait(DEADLINE_S)
    assert subscriber.reason == "Administrative action"
    failed = gateway.command("mqtt", "kick", "anonymous/nobody", check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("gateway: no client 'anonymous/nobody' is connected")
    subscriber.stop()


def test_an_operator_sees_who_has_how_much_and_frees_it(gateway: Serving) -> None:
    token = gateway.command("device", "add", "thermo-1").stdout.strip()
    device = absent(gateway.port("mqtt"), "thermo", username=token)
    for name in ("one", "two"):
        absent(gateway.port("mqtt"), name)
    watcher = Subscriber(gateway.port("mqtt"), "watcher")
    for topic in ("a/1", "a/2", "b"):
        watcher.client.publish(topic, b"12345", qos=1, retain=True).wait_for_publish(DEADLINE_S)

    owners = {row["owner"]: row for row in rows(gateway, "owners")}
    local = owners["127.0.0.1"]
    assert (local["sessions"], local["retained"], local["retained_bytes"]) == (3, 3, 22)
    assert len(owners) == 2
    [(device_owner, row)] = [item for item in owners.items() if item[0] != "127.0.0.1"]
    assert (row["sessions"], row["retained"]) == (1, 0)
    [session] = rows(gateway, "sessions", "--owner", device_owner)
    assert session["client_id"] == f"{device_owner.removeprefix('device/')}/{device}"
    assert len(rows(gateway, "retained", "a/#", "--owner", "127.0.0.1")) == 2

    assert "1 sessions" in gateway.command("mqtt", "forget", "--session", "anonymous/one").stderr
    assert "2 retained messages" in gateway.command("mqtt", "forget", "--retained", "a/#").stderr
    assert {row["client_id"] for row in rows(gateway, "sessions", "--owner", "127.0.0.1")} == {
        "anonymous/two",
        "anonymous/watcher",
    }
    assert [row["topic"] for row in rows(gateway, "retained")] == ["b"]
    gateway.command("mqtt", "forget", "--owner", "127.0.0.1")
    assert watcher.ended.wait(DEADLINE_S)
    assert watcher.reason == "Not authorized"
    assert [row["owner"] for row in rows(gateway, "owners")] == [device_owner]
    assert rows(gateway, "retained") == []

    for wrong in (["--owner", "nobody"], ["--session", "nobody"], ["--retained", "a/#/b"], ["--retained", "$SYS/#"]):
        assert gateway.command("mqtt", "forget", *wrong, check=False).returncode == 1
    for wrong in ([], ["--owner", "x", "--session", "y"]):
        assert gateway.command("mqtt", "forget", *wrong, check=False).returncode == 2
    watcher.stop()


@pytest.mark.parametrize(
    ("command", "running"),
    [("disable", True), ("rotate", True), ("disable", False)],
    ids=["disabled", "rotated", "disabled while no gateway runs"],
)
def test_what_a_device_has_in_the_broker_ends_with_it(
    serve: Callable[..., Serving], gateway: Serving, command: str, running: bool
) -> None:
    token = gateway.command("device", "add", "thermo-1").stdout.strip()
    absent(gateway.port("mqtt"), "thermo", username=token)
    absent(gateway.port("mqtt"), "somebody")
    assert len(rows(gateway, "sessions")) == 2

    if running:
        gateway.command("device", command, "thermo-1")
    else:
        gateway.stop()
        gateway.command("device", command, "thermo-1")
        gateway = serve("--set", "listeners.1.allow_anonymous=true").ready()

    deadline = time.monotonic() + DEADLINE_S
    while [row["client_id"] for row in rows(gateway, "sessions")] != ["anonymous/somebody"]:
        assert time.monotonic() < deadline
    assert [row["owner"] for row in rows(gateway, "owners")] == ["127.0.0.1"]


def test_a_trace_shows_a_client_live_until_it_is_interrupted(gateway: Serving) -> None:
    subscriber = Subscriber(gateway.port("mqtt"), "watcher")
    arguments = [GATEWAY, "mqtt", "trace", "watcher"]
    environment = clean_environment(PYTHONUNBUFFERED="1")
    with subprocess.Popen(
        arguments, cwd=gateway.directory, env=environment, stdout=subprocess.PIPE, text=True
    ) as trace:
        try:
            assert trace.stdout is not None
            assert "is connected already" in trace.stdout.readline()

            subscriber.client.publish("b", b"12345", qos=1)

            publish, puback = trace.stdout.readline(), trace.stdout.readline()
            assert publish.rstrip().endswith("in      PUBLISH topic='b' payload=5 bytes qos=1 packet_id=2")
            assert "out     PUBACK packet_id=2 " in puback
            trace.send_signal(signal.SIGINT)
            assert trace.wait(DEADLINE_S) == 0
        finally:
            trace.kill()
    subscriber.stop()


def test_commands_exit_with_1_without_a_gateway(tmp_path: Any) -> None:
    done = subprocess.run(
        [GATEWAY, "mqtt", "clients"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "gateway: no gateway runs on the data directory var\n"
