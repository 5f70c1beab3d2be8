"""Two gateways on one Redis and one PostgreSQL are one to devices and to those who watch."""

import asyncio
import http.client
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from websockets.asyncio.client import ClientConnection, connect

from protocols.mqtt.codec.packets import Disconnect, PubAck, Publish
from tests.integration.mqtt.raw_client import RawClient
from tests.support.administrator import Administrator
from tests.support.fleet import FleetDevice, add_devices
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.serving import Serving

TELEMETRY = "v1/devices/me/telemetry"
TIMEOUT_S = 30.0


class Gateway:
    """One of the two."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.url = serving.url

    async def mqtt(self, device: FleetDevice) -> RawClient:
        client = await RawClient.open(("127.0.0.1", self.serving.port("mqtt")), 5)
        assert (await client.connect("sensor", username=device.token)).reason_code == 0
        return client

    def post(self, device: FleetDevice, content: Any) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.serving.port("http"), timeout=TIMEOUT_S)
        connection.request("POST", f"/api/v1/{device.token}/telemetry", json.dumps(content))
        with connection.getresponse() as response:
            response.read()
        connection.close()
        return response.status

    def get_json(self, path: str, cookie: str) -> Any:
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, headers={"Cookie": cookie}), timeout=TIMEOUT_S
        ) as response:
            return json.load(response)


@dataclass
class Site:
    """Both, and what is behind them."""

    one: Gateway
    two: Gateway
    redis: RedisServer
    postgres: PostgresServer
    database: str
    cookie: str

    def query(self, statement: str) -> list[Any]:
        with self.postgres.connect(self.database) as connection:
            return connection.execute(statement.encode()).fetchall()

    def stored(self, device: FleetDevice) -> list[tuple[int, float]]:
        """The readings of a device: time and number."""
        return self.query(f"SELECT ts, number FROM gateway_devices_reading WHERE device_id = {device.pk} ORDER BY ts")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Site]:
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    redis.start()
    database = postgres_server.new_database()
    started: list[Serving] = []

    def start(name: str) -> Gateway:
        directory: Path = tmp_path_factory.mktemp(name)
        environ = {
            "GATEWAY_DATABASE__URL": postgres_server.url(database),
            "GATEWAY_LAYER__URL": redis.url,
            "GATEWAY_SERVER__SECRET_KEY": "the same for both of them, and long enough to be one",
        }
        started.append(Serving(directory, **environ))
        return Gateway(started[-1].ready())

    try:
        one, two = start("one"), start("two")
        administrator = Administrator(two.url, one.serving)
        yield Site(one, two, redis, postgres_server, database, administrator.cookie)
    finally:
        for serving in started:
            serving.kill()
        redis.stop()


@pytest.fixture(scope="module")
def devices(site: Site) -> Iterator[FleetDevice]:
    return iter(add_devices(site.one.serving, *(f"device-{number}" for number in range(20))))


@pytest.fixture
def device(devices: Iterator[FleetDevice]) -> FleetDevice:
    return next(devices)


class Dashboard:
    """A browser's live stream."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def next(self, kind: str, timeout_s: float = TIMEOUT_S) -> Any:
        """The next message of a kind; others are passed over."""
        async with asyncio.timeout(timeout_s):
            while True:
                message = json.loads(await self._socket.recv())
                if message["type"] == kind:
                    return message

    async def reading(self, device: FleetDevice) -> list[Any]:
        """The first reading of the next message that has some of a device."""
        while True:
            shown = (await self.next("readings"))["devices"].get(str(device.pk))
            if shown is not None:
                return list(shown["readings"][0])


Watch: TypeAlias = Callable[..., Awaitable[Dashboard]]


@pytest.fixture
async def watch(site: Site) -> AsyncIterator[Watch]:
    """Opens a live stream at a gateway; its first snapshot has been read."""
    opened: list[ClientConnection] = []

    async def open_one(gateway: Gateway, path: str = "/ws/live/") -> Dashboard:
        headers = {"Cookie": site.cookie}
        opened.append(await connect(f"ws{gateway.url[4:]}{path}", additional_headers=headers, origin=gateway.url))  # type: ignore[arg-type]
        dashboard = Dashboard(opened[-1])
        await dashboard.next("snapshot")
        return dashboard

    yield open_one
    for socket in opened:
        await socket.close()


@pytest.mark.parametrize("path", ["/ws/live/", "/ws/live/{}/"])
async def test_what_a_device_publishes_to_one_is_seen_live_at_the_other(
    site: Site, device: FleetDevice, watch: Watch, path: str
) -> None:
    here, there = await watch(site.one, path.format(device.pk)), await watch(site.two, path.format(device.pk))
    client = await site.one.mqtt(device)

    client.send(Publish(topic=TELEMETRY, payload=b'{"temperature": 21.5}', qos=1, packet_id=1))
    assert await client.receive() == PubAck(1)

    for dashboard in (there, here):
        key, ts, value = await dashboard.reading(device)
        assert (key, value) == ("temperature", 21.5)
    assert site.stored(device) == [(ts, 21.5)]
    client.abort()


async def test_a_connected_device_is_seen_at_both(site: Site, device: FleetDevice, watch: Watch) -> None:
    dashboards = [await watch(gateway, f"/ws/live/{device.pk}/") for gateway in (site.one, site.two)]

    client = await site.one.mqtt(device)
    for dashboard in dashboards:
        assert (await dashboard.next("connection"))["connected"] is True
    for gateway in (site.one, site.two):
        assert await asyncio.to_thread(is_connected, site, gateway, device)

    client.send(Disconnect())
    for dashboard in dashboards:
        assert (await dashboard.next("connection"))["connected"] is False
    await client.expect_end()


async def test_a_device_that_changes_over_to_the_other_gateway_is_shown_as_connected(
    site: Site, device: FleetDevice, watch: Watch
) -> None:
    dashboard = await watch(site.two, f"/ws/live/{device.pk}/")
    first = await site.one.mqtt(device)
    await dashboard.next("connection")

    second = await site.two.mqtt(device)
    await dashboard.next("connection")
    first.send(Disconnect())
    await first.expect_end()
    await asyncio.sleep(2.5)  # both have looked after their connections since

    assert await asyncio.to_thread(is_connected, site, site.one, device)
    second.abort()


async def test_a_message_sent_to_both_is_stored_once_and_history_is_that_of_all(
    site: Site, device: FleetDevice
) -> None:
    now = int(time.time() * 1000)
    readings = [{"ts": now - 60_000 * minute, "values": {"t": minute}} for minute in range(10)]

    for gateway, share in ((site.one, readings[:7]), (site.two, readings[3:])):
        assert await asyncio.to_thread(gateway.post, device, share) == 200

    assert [number for _, number in site.stored(device)] == list(map(float, range(9, -1, -1)))
    path = f"/devices/{device.pk}/history?key=t&range=15m"
    histories = [await asyncio.to_thread(gateway.get_json, path, site.cookie) for gateway in (site.one, site.two)]
    for history in histories:
        assert sum(count for *_, count in history["points"]) == 10


async def test_two_gateways_that_write_the_same_devices_do_not_hold_each_other_up(
    site: Site, devices: Iterator[FleetDevice]
) -> None:
    first, second = next(devices), next(devices)
    messages = 300

    async def load(gateway: Gateway, device: FleetDevice, step: int) -> None:
        client = await gateway.mqtt(device)
        for number in range(messages):
            values = {"ts": 1_700_000_000_000 + number, "values": {"a": step, "b": step, "c": step}}
            client.send(Publish(topic=TELEMETRY, payload=json.dumps(values).encode(), qos=1, packet_id=number + 1))
        for number in range(messages):
            assert await client.receive() == PubAck(number + 1)
        client.abort()

    await asyncio.gather(
        *(
            load(gateway, device, step)
            for step, gateway in enumerate((site.one, site.two))
            for device in (first, second)
        )
    )

    for device in (first, second):
        assert len(site.stored(device)) == messages * 3 * 2
    assert not any("cannot commit" in line for gateway in (site.one, site.two) for line in gateway.serving.log)


async def test_a_revocation_by_one_cuts_the_connection_to_the_other(site: Site, device: FleetDevice) -> None:
    client = await site.two.mqtt(device)

    await asyncio.to_thread(site.one.serving.command, "device", "disable", device.name)

    await client.expect_disconnect(0x87)


async def _next_publish(client: RawClient) -> Publish:
    """The next message to a device, which it acknowledges."""
    packet = await client.receive()
    assert isinstance(packet, Publish), packet
    client.send(PubAck(packet.packet_id))
    return packet


@pytest.mark.parametrize("layer", ["redis is there", "redis is away"])
async def test_a_command_given_at_one_reaches_a_device_at_the_other(
    site: Site, device: FleetDevice, layer: str
) -> None:
    client = await site.one.mqtt(device)
    assert await client.subscribe("v1/devices/me/rpc/request/+", 1) == 1
    if layer == "redis is away":
        site.redis.stop()
    try:
        sending = asyncio.create_task(
            asyncio.to_thread(site.two.serving.command, "command", "send", device.name, "setValve", "1", "--wait", "60")
        )
        packet = await _next_publish(client)
        number = packet.topic.rpartition("/")[2]
        client.send(Publish(topic=f"v1/devices/me/rpc/response/{number}", payload=b"42", qos=1, packet_id=1))

        assert (await sending).stdout == "42\n"
    finally:
        if layer == "redis is away":
            site.redis.start()
        client.abort()


async def test_a_device_that_changes_over_with_a_command_under_way_gets_it_again_with_a_mark(
    site: Site, device: FleetDevice
) -> None:
    silent = await site.one.mqtt(device)
    assert await silent.subscribe("v1/devices/me/rpc/request/+", 1) == 1
    site.two.serving.command("command", "send", device.name, "reboot", "--one-way")
    assert isinstance(await silent.receive(), Publish)
    silent.abort()

    again = await site.two.mqtt(device)
    assert await again.subscribe("v1/devices/me/rpc/request/+", 1) == 1
    packet = await _next_publish(again)

    assert json.loads(packet.payload) == {"method": "reboot", "params": None, "redelivered": True}
    again.abort()


@pytest.mark.parametrize("fault", ["killed", "hanging"])
async def test_redis_away_for_ten_seconds_stops_no_device_and_dashboards_say_stale_and_recover(
    site: Site, device: FleetDevice, watch: Watch, fault: str
) -> None:
    take_away, bring_back = {
        "killed": (site.redis.stop, site.redis.start),
        "hanging": (site.redis.pause, site.redis.resume),
    }[fault]
    dashboards = [await watch(gateway, f"/ws/live/{device.pk}/") for gateway in (site.one, site.two)]
    client = await site.one.mqtt(device)
    packet_id = 0

    async def publish() -> None:
        nonlocal packet_id
        packet_id += 1
        payload = json.dumps({"n": packet_id}).encode()
        client.send(Publish(topic=TELEMETRY, payload=payload, qos=1, packet_id=packet_id))
        async with asyncio.timeout(8):  # less than Redis is away
            assert await client.receive() == PubAck(packet_id)

    take_away()
    away = time.monotonic()
    for dashboard in dashboards:
        assert (await dashboard.next("stale", 10))["why"] == "layer"
    while time.monotonic() - away < 10:
        await publish()
        await asyncio.sleep(0.1)
    bring_back()

    for dashboard in dashboards:
        snapshot = await recovered(dashboard)
        assert snapshot["devices"][0]["values"]["n"][1] == packet_id
    # What each gateway told its dashboards is that it hears again; whether the one that publishes is heard is its own
    # connection's affair, and may take a moment more.
    waiting = [asyncio.create_task(dashboard.reading(device)) for dashboard in dashboards]
    async with asyncio.timeout(TIMEOUT_S):
        while waiting:
            await publish()
            _, pending = await asyncio.wait(waiting, timeout=0.2)
            waiting = list(pending)
    assert len(site.stored(device)) == packet_id
    client.abort()


async def recovered(dashboard: Dashboard) -> Any:
    """The snapshot that makes up for what was missed while the stream was stale."""
    while not (snapshot := await dashboard.next("snapshot"))["gap"]:
        pass
    return snapshot


def is_connected(site: Site, gateway: Gateway, device: FleetDevice) -> bool:
    """What the page of the device says at a gateway."""
    request = urllib.request.Request(f"{gateway.url}/devices/{device.pk}/", headers={"Cookie": site.cookie})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return "Not connected" not in response.read().decode()
