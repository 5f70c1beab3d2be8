"""The live streams: what a browser is sent, in which order, and when the stream ends."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.test import Client

from devices.dashboard import live
from devices.dashboard.live import LiveConsumer, LiveStream, live_http_routes, live_websocket_routes
from devices.models import Device
from gateway.db import database_sync_to_async
from gateway.layers import InMemoryChannelLayer, LayerEvent, channel_layers
from gateway.routing import URLRouter
from gateway.testing import ApplicationCommunicator, HttpCommunicator, WebsocketCommunicator
from tests.unit.devices.dashboard.conftest import MakeDevice

pytestmark = pytest.mark.django_db(transaction=True)

ORIGIN = (b"origin", b"http://localhost")


class SwitchableLayer(InMemoryChannelLayer):
    """An in-memory layer that can be told to be cut off."""

    cut_off = False

    @property
    def connected(self) -> bool:
        return not self.cut_off


@pytest.fixture
def layer() -> Iterator[SwitchableLayer]:
    layer = SwitchableLayer()
    old = channel_layers.set("default", layer)
    yield layer
    channel_layers.backends.pop("default")
    if old is not None:
        channel_layers.set("default", old)


@pytest.fixture
def device(transactional_db: None, make_device: MakeDevice) -> Device:
    return make_device("thermo-1", values={"temperature": 21.5})


@pytest.fixture
def cookie(transactional_db: None, watching: Client) -> tuple[bytes, bytes]:
    return (
        b"cookie",
        f"{settings.SESSION_COOKIE_NAME}={watching.cookies[settings.SESSION_COOKIE_NAME].value}".encode(),
    )


@pytest.fixture
async def stream(layer: SwitchableLayer, device: Device, cookie: tuple[bytes, bytes]) -> AsyncIterator["Stream"]:
    """Opens streams over WebSocket: `await stream("/ws/live/")`."""
    async with Stream(cookie) as opened:
        yield opened


class Stream:
    """The browser's end of a stream over WebSocket."""

    def __init__(self, cookie: tuple[bytes, bytes]) -> None:
        self.cookie = cookie
        self.sockets: list[WebsocketCommunicator] = []

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(self, *error: object) -> None:
        for socket in self.sockets:
            if not socket.inbox.disconnected:
                await socket.disconnect()

    async def __call__(self, path: str) -> WebsocketCommunicator:
        socket = WebsocketCommunicator(URLRouter(live_websocket_routes), path, [self.cookie, ORIGIN])
        connected, _ = await socket.connect(timeout=30)
        assert connected
        self.sockets.append(socket)
        return socket


@pytest.fixture
def quick_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_INTERVAL_S", 0.02)


async def receive_until_denied(socket: WebsocketCommunicator) -> None:
    while (await socket.receive_json_from(timeout=30))["type"] != "denied":
        pass


def committed(device: Device, *readings: list[Any]) -> dict[str, Any]:
    news = {str(device.pk): {"name": device.name, "readings": list(readings)}}
    return {"type": "readings.committed", "text": json.dumps({"type": "readings", "now": 1, "devices": news})}


async def test_a_stream_begins_with_a_snapshot_that_says_updates_may_have_been_missed(
    stream: Stream, device: Device
) -> None:
    socket = await stream("/ws/live/")

    snapshot = await socket.receive_json_from(timeout=30)

    assert snapshot["type"] == "snapshot"
    assert snapshot["gap"] is True
    assert (snapshot["total"], snapshot["page"], snapshot["pages"]) == (1, 1, 1)
    assert snapshot["devices"][0]["name"] == "thermo-1"
    assert snapshot["devices"][0]["values"]["temperature"][1] == 21.5


async def test_the_dashboards_stream_is_that_of_the_page_in_its_address(stream: Stream) -> None:
    socket = await stream("/ws/live/?q=nothing+like+this")

    assert (await socket.receive_json_from(timeout=30))["devices"] == []


async def test_the_stream_of_a_device_passes_on_the_text_of_each_commit(
    stream: Stream, layer: SwitchableLayer, device: Device
) -> None:
    socket = await stream(f"/ws/live/{device.pk}/")
    await socket.receive_json_from(timeout=30)
    message = committed(device, ["temperature", 5, 22])

    await layer.group_send(f"device.{device.pk}", message)

    assert await socket.receive_from(timeout=30) == message["text"]


async def test_the_first_commit_reaches_a_dashboard_at_once_and_those_after_it_merged(
    stream: Stream, layer: SwitchableLayer, device: Device
) -> None:
    socket = await stream("/ws/live/")
    await socket.receive_json_from(timeout=30)

    for value in range(10):
        await layer.group_send("devices", committed(device, ["temperature", value, value]))

    first, second = await socket.receive_json_from(timeout=30), await socket.receive_json_from(timeout=30)
    assert first["devices"][str(device.pk)]["readings"] == [["temperature", 0, 0]]
    assert second["devices"][str(device.pk)]["readings"] == [["temperature", 9, 9]]


async def test_a_message_that_cannot_be_read_ends_no_stream(
    stream: Stream, layer: SwitchableLayer, device: Device
) -> None:
    socket = await stream("/ws/live/")
    await socket.receive_json_from(timeout=30)

    for text in ("", "[" * 5_000, '{"type":"readings","devices":{"1":' + "[" * 100_000):
        await layer.group_send("devices", {"type": "readings.committed", "text": text})
    await layer.group_send("devices", committed(device, ["temperature", 5, 22]))

    assert (await socket.receive_json_from(timeout=30))["devices"][str(device.pk)]["readings"] == [
        ["temperature", 5, 22]
    ]


async def test_the_stream_of_a_device_has_the_keys_that_its_address_asks_for(
    stream: Stream, layer: SwitchableLayer, make_device: MakeDevice
) -> None:
    values = {"Druck": 1.0, "temperatur_1": 2.0, "serial": "9007199254740993", "long": f'"{"x" * 300}"'}
    device = await database_sync_to_async(make_device)("many", values=values)

    everything = await (await stream(f"/ws/live/{device.pk}/")).receive_json_from(timeout=30)
    asked = await (await stream(f"/ws/live/{device.pk}/?q=DRU")).receive_json_from(timeout=30)

    shown = {key: told[1:] for key, told in everything["devices"][0]["values"].items()}
    assert shown["serial"] == ["9007199254740993", "9007199254740993"]
    assert shown["long"] == [None, "x" * 199 + "…", 302]
    assert list(asked["devices"][0]["values"]) == ["Druck"]


async def test_a_connection_is_told_to_the_dashboard(stream: Stream, layer: SwitchableLayer, device: Device) -> None:
    socket = await stream("/ws/live/")
    await socket.receive_json_from(timeout=30)
    text = json.dumps({"type": "connection", "id": device.pk, "connected": True, "now": 1})

    await layer.group_send("devices", {"type": "readings.committed", "text": text})

    assert (await socket.receive_json_from(timeout=30))["connected"] is True


async def test_a_new_device_brings_a_new_snapshot(
    stream: Stream, layer: SwitchableLayer, device: Device, make_device: MakeDevice
) -> None:
    socket = await stream("/ws/live/")
    await socket.receive_json_from(timeout=30)
    new = await database_sync_to_async(make_device)("thermo-2")

    await layer.group_send("devices", committed(new, ["temperature", 5, 22]))

    snapshot = await socket.receive_json_from(timeout=30)
    assert [shown["name"] for shown in snapshot["devices"]] == ["thermo-1", "thermo-2"]


async def test_a_consumer_that_fell_behind_sends_a_snapshot_instead_of_what_it_missed(
    stream: Stream, layer: SwitchableLayer, device: Device
) -> None:
    socket = await stream(f"/ws/live/{device.pk}/")
    await socket.receive_json_from(timeout=30)
    assert LiveStream.mailbox_capacity is not None

    for value in range(LiveStream.mailbox_capacity + 50):  # without giving the consumer a turn
        await layer.group_send(f"device.{device.pk}", committed(device, ["temperature", value, value]))

    snapshot = await socket.receive_json_from(timeout=30)
    assert snapshot["type"] == "snapshot"
    assert snapshot["gap"] is True


async def test_a_layer_that_is_cut_off_makes_the_stream_stale_until_a_snapshot(
    stream: Stream, layer: SwitchableLayer, device: Device
) -> None:
    socket = await stream("/ws/live/")
    await socket.receive_json_from(timeout=30)

    layer.local.announce(list(layer.local.channels), LayerEvent(type="layer.disconnected", generation=1))
    stale = await socket.receive_json_from(timeout=30)
    layer.local.announce(list(layer.local.channels), LayerEvent(type="layer.reconnected", generation=2))
    snapshot = await socket.receive_json_from(timeout=30)

    assert (stale["type"], stale["why"]) == ("stale", "layer")
    assert (snapshot["type"], snapshot["gap"]) == ("snapshot", True)


async def test_a_stream_that_begins_while_the_layer_is_cut_off_says_so_after_its_snapshot(
    stream: Stream, layer: SwitchableLayer
) -> None:
    layer.cut_off = True

    socket = await stream("/ws/live/")

    assert (await socket.receive_json_from(timeout=30))["type"] == "snapshot"
    assert (await socket.receive_json_from(timeout=30))["type"] == "stale"


async def test_a_stranger_is_refused(layer: SwitchableLayer, device: Device) -> None:
    socket = WebsocketCommunicator(URLRouter(live_websocket_routes), "/ws/live/", [ORIGIN])
    events = HttpCommunicator(URLRouter(live_http_routes), "GET", "/events/live/")

    assert (await socket.connect(timeout=30))[0] is False
    assert (await events.get_response(timeout=30))["status"] == 403


@pytest.mark.parametrize("device_id", ["999999", "9" * 30])
async def test_the_stream_of_a_device_that_is_not_there_is_refused(
    layer: SwitchableLayer, device: Device, cookie: tuple[bytes, bytes], device_id: str
) -> None:
    socket = WebsocketCommunicator(URLRouter(live_websocket_routes), f"/ws/live/{device_id}/", [cookie, ORIGIN])
    events = HttpCommunicator(URLRouter(live_http_routes), "GET", f"/events/live/{device_id}/", headers=[cookie])

    assert (await socket.connect(timeout=30))[0] is False
    assert (await events.get_response(timeout=30))["status"] == 404


async def test_a_page_of_another_site_is_refused(
    layer: SwitchableLayer, device: Device, cookie: tuple[bytes, bytes]
) -> None:
    elsewhere = (b"origin", b"https://evil.example")
    socket = WebsocketCommunicator(URLRouter(live_websocket_routes), "/ws/live/", [cookie, elsewhere])

    assert (await socket.connect(timeout=30))[0] is False


async def test_a_user_who_may_no_longer_watch_is_told_and_closed(
    stream: Stream, layer: SwitchableLayer, watcher: User, quick_heartbeats: None
) -> None:
    socket = await stream("/ws/live/")
    await socket.receive_json_from(timeout=30)
    await database_sync_to_async(watcher.user_permissions.clear)()

    await receive_until_denied(socket)
    assert (await socket.receive_output(timeout=30))["code"] == 4403


async def test_a_session_that_has_ended_closes_the_stream(
    stream: Stream, layer: SwitchableLayer, cookie: tuple[bytes, bytes], quick_heartbeats: None
) -> None:
    socket = await stream("/ws/live/")
    await socket.receive_json_from(timeout=30)
    key = cookie[1].decode().partition("=")[2]
    await database_sync_to_async(SessionStore(key).flush)()

    await receive_until_denied(socket)


async def test_while_all_is_well_the_third_sign_of_life_is_a_snapshot_without_a_gap(
    stream: Stream, layer: SwitchableLayer, quick_heartbeats: None
) -> None:
    socket = await stream("/ws/live/")
    await socket.receive_json_from(timeout=30)

    messages = [await socket.receive_json_from(timeout=30) for _ in range(3)]
    assert [message["type"] for message in messages] == ["heartbeat", "heartbeat", "snapshot"]
    assert messages[2]["gap"] is False
    assert all(isinstance(message["now"], int) for message in messages)


async def test_the_events_are_those_of_the_socket_with_an_id_each(
    layer: SwitchableLayer, device: Device, cookie: tuple[bytes, bytes]
) -> None:
    path = f"/events/live/{device.pk}/"
    async with HttpCommunicator(URLRouter(live_http_routes), "GET", path, headers=[cookie]) as browser:
        await browser.send_request()
        start = await browser.receive_output(timeout=30)
        assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
        assert (await browser.receive_output(timeout=30))["body"] == b":\n\n"

        first = await browser.receive_output(timeout=30)
        assert first["body"].startswith(b'id: 1\nretry: 2000\ndata: {"type":"snapshot"')
        message = committed(device, ["temperature", 5, 22])
        await layer.group_send(f"device.{device.pk}", message)

        assert (await browser.receive_output(timeout=30))["body"] == f"id: 2\ndata: {message['text']}\n\n".encode()
        await browser.send_input({"type": "http.disconnect"})


@pytest.mark.parametrize("kind", ["end", "begin", "refuse", "shut", "connect", "close", "send", "accept"])
async def test_a_message_of_the_layer_cannot_call_what_is_not_its_handler(
    stream: Stream, layer: SwitchableLayer, device: Device, kind: str
) -> None:
    socket = await stream(f"/ws/live/{device.pk}/")
    await socket.receive_json_from(timeout=30)
    message = committed(device, ["temperature", 5, 22])

    await layer.group_send(f"device.{device.pk}", {"type": kind})
    await layer.group_send(f"device.{device.pk}", message)

    assert await socket.receive_from(timeout=30) == message["text"]


async def test_somebody_without_a_session_is_a_stranger(layer: SwitchableLayer, db: None) -> None:
    scope = {"type": "websocket", "user": AnonymousUser(), "url_route": {"kwargs": {}}, "headers": []}
    socket = ApplicationCommunicator(LiveConsumer.as_asgi(), scope)

    await socket.send_input({"type": "websocket.connect"})

    assert (await socket.receive_output(timeout=30))["type"] == "websocket.close"
    await socket.send_input({"type": "websocket.disconnect", "code": 1006})
    await socket.wait(timeout=30)
