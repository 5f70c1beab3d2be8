"""Whatever is stored is shown, or refused cleanly, by every page, stream and command there is, on each database.

The pages are those of the URL configuration and the streams those of the routes, so a new one is covered; so is a value
that a profile takes, or that an earlier version has stored.
"""

import asyncio
import html
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as project
from django.contrib.auth.models import User
from django.test import Client
from django.urls import get_resolver
from django.utils.http import urlencode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices import credentials
from devices.credentials import Identity
from devices.dashboard.device_list import KEYS_PER_DEVICE
from devices.dashboard.live import live_http_routes, live_websocket_routes
from devices.fanout import FLEET_GROUP, KEYS_PER_ROW, Fanout, device_group
from devices.ingest import Ingest
from devices.limits import DeviceOptions
from devices.models import Credential, Device, DeviceType, Key, LatestValue, Reading
from devices.profiles import PayloadError, Point, profile_of
from devices.queries import heads
from devices.values import Value, name_text, number_text
from devices.writers import make_writer
from gateway.layers import InMemoryChannelLayer, channel_layers
from gateway.routing import URLRouter
from gateway.testing import HttpCommunicator, WebsocketCommunicator
from tests.support.addresses import addresses, arguments_for
from tests.support.postgres import PostgresServer
from tests.support.serving import GATEWAY, clean_environment

PROFILE = profile_of("thingsboard")
HOSTILE_NAME = "<b>\u202e{{7}}'\"%s \x1b[31m"
FOREIGN_KEYS = [
    "constructor",
    "__proto__",
    "toString",
    "<script>",
    "a&b=c#d",
    "k" * 255,
    "ключ",
    "\x1b[31m",
    "\u202e",
    " ",
    "%s",
]
STORED_BEFORE: list[Point] = [
    ("deep", None, None, "[" * 950 + "]" * 950),
    ("deep object", None, None, '{"a":' * 950 + "1" + "}" * 950),
    ("long", None, None, json.dumps("ü\x1b" * 100_000)),
    ("cut in an escape", None, None, json.dumps("\x01" * 400)),
    ("no JSON", None, None, "{"),
    ("half a pair", None, None, '"\\ud800"'),
    ("nothing", None, None, None),
    ("smallest", None, 5e-324, None),
    ("greatest", None, -1.7976931348623157e308, None),
    ("last time", 253_402_300_799_999, 1.0, None),
    ("first time", 0, 1.0, None),
]

strings = st.text(st.characters(exclude_categories=()), max_size=300) | st.sampled_from(
    ["21,5", "", "NaN", "true", "8" * 20]
)
scalars = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers()
    | st.integers(2**53, 2**64)
    | st.booleans()
    | st.none()
    | strings
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4), max_leaves=20
)
deep = st.integers(1, 40).map(lambda depth: json.loads("[" * depth + "]" * depth))
keys = st.sampled_from(FOREIGN_KEYS) | st.text(min_size=1, max_size=255)
messages = st.lists(st.dictionaries(keys, values | deep, max_size=3).map(json.dumps), min_size=5, max_size=30)


class Fleet:
    """A device with a hostile name on the database of the test, and who looks at it."""

    def __init__(self) -> None:
        device_type, _ = DeviceType.objects.get_or_create(name="<i>type</i>")
        self.device = Device.objects.create(name=HOSTILE_NAME, type=device_type)
        credentials.issue(self.device)
        self.arguments = arguments_for(self.device.pk) | {"pk": str(Credential.objects.get().pk)}
        self.client = Client()
        self.client.force_login(User.objects.create_superuser("operator"))
        self.messages: list[Any] = []

    @property
    def cookie(self) -> tuple[bytes, bytes]:
        name = project.SESSION_COOKIE_NAME
        return (b"cookie", f"{name}={self.client.cookies[name].value}".encode())

    def store(self, points: list[Point]) -> None:
        """Commits them as a device's, with two who watch; what they are sent is appended to `messages`."""
        asyncio.run(self._store(points))

    async def _store(self, points: list[Point]) -> None:
        layer = InMemoryChannelLayer()
        channels = {group: await layer.new_channel() for group in (FLEET_GROUP, device_group(self.device.pk))}
        for group, channel in channels.items():
            await layer.group_add(group, channel)
        options = DeviceOptions(max_keys_per_device=0)
        fanout = Fanout(layer)
        ingest = Ingest(make_writer(options.max_clock_skew_ms), on_commit=fanout.committed, options=options)
        ingest.start()
        await ingest.store(Identity(self.device.pk, self.device.name, PROFILE, 0), points)
        for channel in channels.values():
            message = await layer.receive(channel)
            self.messages.append(json.loads(message["text"]))
        await ingest.close()
        await fanout.close()

    def stored(self) -> dict[str, Value]:
        """All latest values."""
        rows = heads(LatestValue.objects.filter(device=self.device), "key__name", "ts")
        return {key: Value(*columns) for key, *columns in rows}


@pytest.fixture
def fleet(database: str) -> Fleet:
    return Fleet()


def look_everywhere(fleet: Fleet) -> dict[str, str]:
    """Asks for each page, also with keys as its query; none fails. By its address, what is there."""
    seen = {}
    keys = [*fleet.stored(), HOSTILE_NAME][-6:]
    keys.insert(0, "\0(")  # what is in no database
    queries = ["", *(f"?{urlencode({'key': key, 'q': key, 'range': '1h'})}" for key in keys)]
    for address in addresses(get_resolver().url_patterns, fleet.arguments):
        for query in queries if address.endswith(("/history", "/readings/")) else queries[:2]:
            if "logout" not in address:
                answer = fleet.client.get(address + query)
                assert answer.status_code < 500, f"{address}{query}"
                assert "no-store" in answer["Cache-Control"], address
                assert answer["Content-Security-Policy"], address
                if answer.status_code == 200:
                    seen[address + query] = answer.content.decode()
    return seen


def check(fleet: Fleet) -> None:
    """Every page, the whole of each value, and each stream."""
    pages = look_everywhere(fleet)
    assert len(pages) > 15
    stored = fleet.stored()
    of_device = html.unescape(pages[f"/devices/{fleet.device.pk}/"])
    assert "\x1b" not in of_device
    assert "\u202e" not in of_device
    for key in sorted(stored)[:KEYS_PER_DEVICE]:
        assert f">{name_text(key)}<" in of_device
        assert f">{stored[key].shown.text}<" in of_device
        assert fleet.client.get(f"/devices/{fleet.device.pk}/value?{urlencode({'key': key})}").status_code == 200
    asyncio.run(look_at_streams(fleet, stored))


async def look_at_streams(fleet: Fleet, stored: dict[str, Value]) -> None:
    layer = InMemoryChannelLayer()
    old = channel_layers.set("default", layer)
    try:
        for path in addresses(live_websocket_routes, fleet.arguments):
            headers = [fleet.cookie, (b"origin", b"http://localhost")]
            socket = WebsocketCommunicator(URLRouter(live_websocket_routes), path, headers)
            assert (await socket.connect(timeout=60))[0]
            check_snapshot(await socket.receive_json_from(timeout=60), path, stored)
            await socket.disconnect()
        for path in addresses(live_http_routes, fleet.arguments):
            async with HttpCommunicator(URLRouter(live_http_routes), "GET", path, headers=[fleet.cookie]) as browser:
                await browser.send_request()
                events = [await browser.receive_output(timeout=60) for _ in range(3)]
                check_snapshot(json.loads(events[2]["body"].partition(b"data: ")[2]), path, stored)
                await browser.send_input({"type": "http.disconnect"})
    finally:
        channel_layers.backends.pop("default")
        if old is not None:
            channel_layers.set("default", old)


def check_snapshot(snapshot: Any, path: str, stored: dict[str, Value]) -> None:
    (device,) = snapshot["devices"]
    keys = sorted(stored)[: KEYS_PER_DEVICE if path.rstrip("/")[-1].isdigit() else KEYS_PER_ROW]
    assert list(device["values"]) == keys
    for key in keys:
        told = device["values"][key]
        assert seen_of(told[1:]) == stored[key].shown.text
    assert device["name"] == HOSTILE_NAME


def seen_of(told: list[Any]) -> str:
    """What a client shows of what follows the time: docs/dashboard.md."""
    if len(told) > 1:
        return str(told[1])
    (value,) = told
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else number_text(value)


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(sent=messages)
def test_what_a_device_sends_is_refused_or_shown_everywhere(fleet: Fleet, sent: list[str]) -> None:
    points = [point for message in sent for point in decoded(message)]
    if points:
        fleet.store(points)
        check(fleet)
    for model in (Reading, LatestValue, Key):
        model._default_manager.all().delete()


def decoded(message: str) -> list[Point]:
    """What the profile takes of it."""
    try:
        return PROFILE.decode_telemetry(message.encode())
    except PayloadError:
        return []


def test_what_an_earlier_version_has_stored_is_shown_everywhere(fleet: Fleet) -> None:
    fleet.store([*STORED_BEFORE, *((key, None, None, '"x"') for key in FOREIGN_KEYS)])

    check(fleet)

    stored = fleet.stored()
    of_fleet, of_device = (message["devices"][str(fleet.device.pk)]["readings"] for message in fleet.messages)
    assert [key for key, *_ in of_fleet] == sorted(stored)[:KEYS_PER_ROW]
    assert {key: seen_of(told) for key, _, *told in of_device} == {
        key: value.shown.text for key, value in stored.items()
    }


@pytest.mark.parametrize("pk", [0, 2**31, 2**63, 10**30])
def test_what_there_is_not_is_no_failure(fleet: Fleet, pk: int) -> None:
    arguments = arguments_for(pk) | {"pk": str(pk), "content_type_id": str(pk)}
    for address in addresses(get_resolver().url_patterns, arguments):
        if "logout" not in address:
            query = urlencode(
                {"key": "k", "range": "1h", "ts": pk, "seq": pk, "before": f"{pk}-{pk}", "page": pk, "p": pk}
            )
            assert fleet.client.get(f"{address}?{query}").status_code < 500, address


@pytest.mark.parametrize("arguments", [["list"], ["show", HOSTILE_NAME]], ids=["list", "show"])
def test_a_command_shows_it_too(
    fleet: Fleet, database: str, request: pytest.FixtureRequest, tmp_path: Path, arguments: list[str]
) -> None:
    fleet.store([*STORED_BEFORE, *((key, None, None, '"x\\u001b[31m"') for key in FOREIGN_KEYS)])
    if database == "sqlite":
        url = f"sqlite:///{request.getfixturevalue('sqlite_database')}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = f"postgresql://postgres@127.0.0.1:{server.port}/{request.getfixturevalue('postgresql_database')}"

    done = subprocess.run(
        [GATEWAY, "--set", f"database.url={url}", "device", *arguments],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )

    shown = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    if arguments[0] == "show":
        for key, value in fleet.stored().items():
            assert f"{name_text(key)} = {value.shown.line} at " in shown
