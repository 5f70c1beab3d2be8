"""Every refusal of what a device sends, on every wire: nobody is told yes of what is not stored.

The devices here have a profile, of a distribution of its own, that raises whatever refusal a payload names, so that one
which is added to the table is tried on all wires by being there; the refusals that can be had by real means are had by
them, too.
"""

import asyncio
import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import pytest
from websockets.asyncio.client import connect

from devices.profiles import MAX_DEPTH
from devices.profiles.thingsboard import MAX_POINTS
from devices.refusals import DROPPED, SAMPLE_BYTES, MessageRefusal
from protocols.mqtt.codec.packets import (
    Disconnect,
    PacketType,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Subscription,
)
from protocols.mqtt.codec.reason_codes import sendable
from tests.integration.devices.conftest import Gateway, Watched
from tests.integration.devices.test_mqtt_devices import Clients
from tests.integration.mqtt.raw_client import RawClient
from tests.support.fleet import FleetDevice
from tests.support.profiles import install_profile
from tests.support.serving import Serving
from tests.support.waiting import DEADLINE_S, until

TELEMETRY: Final = "v1/devices/me/telemetry"
GOOD: Final = b'{"good": 1}'

PROFILE = """
from devices.profiles.thingsboard import ThingsBoard
from devices.refusals import MessageRefusal, RefusedError


class Refusing(ThingsBoard):
    def decode_telemetry(self, payload):
        word, _, name = payload.decode("latin-1").partition(" ")
        if word == "refuse":
            raise RefusedError(MessageRefusal[name], "it is tried")
        if word == "unstorable":
            return [("good", None, None, chr(0xD800))]
        return super().decode_telemetry(payload)
"""

DEFAULT_TYPE: Final = """
from devices.models import DeviceType
kind = DeviceType(name="default", profile="refusing")
kind.full_clean()
kind.save()
"""

MAX_KEYS: Final = 12
MAX_KEYS_PER_DEVICE: Final = 10

MESSAGES: Final[dict[str, tuple[bytes, MessageRefusal]]] = {
    **{f"any {each.name}": (b"refuse " + each.name.encode(), each) for each in MessageRefusal},
    "no JSON": (b"{", MessageRefusal.PAYLOAD),
    "empty": (b"", MessageRefusal.PAYLOAD),
    "no object": (b"21.5", MessageRefusal.PAYLOAD),
    "too deep": (b'{"good":' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}", MessageRefusal.PAYLOAD),
    "too many values": (b"[" + b",".join([GOOD] * (MAX_POINTS + 1)) + b"]", MessageRefusal.PAYLOAD),
    "a long key": (b'{"' + b"k" * 256 + b'": 1}', MessageRefusal.PAYLOAD),
    "a bad time": (b'{"ts": -1, "values": {"good": 1}}', MessageRefusal.PAYLOAD),
    "one good, one bad": (b'[{"good": 1}, {"ts": -1, "values": {"good": 1}}]', MessageRefusal.PAYLOAD),
    "no text": (b"unstorable", MessageRefusal.UNSTORABLE),
    "keys of the device": (
        json.dumps({f"key-{number}": 1 for number in range(MAX_KEYS_PER_DEVICE + 1)}).encode(),
        MessageRefusal.KEYS_OF_DEVICE,
    ),
    "keys of all": (b'{"good": 1, "brand new": 1}', MessageRefusal.KEYS),
}

SERVED_BY_NOBODY: Final = {
    "v1/devices/me/rpc/response/1": MessageRefusal.NO_COMMAND,
    "v1/devices/other/telemetry": MessageRefusal.IGNORED,
    "v2/nonsense": MessageRefusal.IGNORED,
    "some/topic": MessageRefusal.IGNORED,
    "v2/t/p": MessageRefusal.TOPIC,
    "v1/gateway/telemetry": MessageRefusal.TOPIC,
    "v1/gateway/connect": MessageRefusal.TOPIC,
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    install_profile(directory, "refusing", PROFILE, "Refusing")
    settings = {
        "devices.max_keys": MAX_KEYS,
        "devices.max_keys_per_device": MAX_KEYS_PER_DEVICE,
        "listeners.1.allow_anonymous": "true",
    }
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    serving = Serving(directory, *flags, PYTHONPATH=str(directory))
    try:
        gateway = Gateway(serving.ready())
        serving.command("manage", "shell", "--command", DEFAULT_TYPE)
        yield gateway
    finally:
        serving.kill()


@pytest.fixture(scope="module")
def full(gateway: Gateway, devices: Iterator[FleetDevice]) -> None:
    """There are as many keys as there may be, of which "good" is one."""
    for keys in (["good"], [f"a{number}" for number in range(9)], [f"b{number}" for number in range(MAX_KEYS - 10)]):
        assert post(gateway, next(devices), json.dumps(dict.fromkeys(keys, 1)).encode())[0] == 200


@pytest.fixture
async def clients(gateway: Gateway) -> AsyncIterator[Clients]:
    opened = Clients(gateway)
    yield opened
    await opened.close()


def post(gateway: Gateway, device: FleetDevice, body: bytes) -> tuple[int, Any]:
    """Status and content of the answer."""
    request = urllib.request.Request(f"{gateway.url}/api/v1/{device.token}/telemetry", body)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


async def publish(client: RawClient, topic: str, payload: bytes, qos: int) -> int | None:
    """Publishes. The reason code of the acknowledgement, or of the DISCONNECT; None if the connection ends, or at QoS 0
    if a publish behind it, which has to wait for its turn, is acknowledged."""
    client.send(Publish(topic=topic, payload=payload, qos=qos, packet_id=7 if qos else 0))
    if qos == 0:
        client.send(Publish(topic=TELEMETRY, payload=b"{}", qos=1, packet_id=8))
    try:
        packet = await client.receive()
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None
    match packet:
        case PubAck(packet_id=8, reason_code=0):
            return None
        case PubRec(reason_code=0):
            client.send(PubRel(packet_id=7))
            assert await client.receive() == PubComp(packet_id=7)
            return 0
        case PubAck(packet_id=7) | PubRec() | Disconnect():
            return packet.reason_code
    raise AssertionError(packet)


async def lives(client: RawClient) -> bool:
    """Whether a PINGREQ is answered."""
    try:
        client.send(b"\xc0\x00")
        return await client.receive_bytes() == b"\xd0\x00"
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return False


async def recorded(gateway: Gateway, device: FleetDevice, wire: str, code_of: Callable[[MessageRefusal], int]) -> None:
    """Returns when each of MESSAGES has its row, which names the device, and what was sent where that was at hand."""

    def rows() -> list[tuple[str, int, bytes]]:
        return gateway.query(
            "SELECT kind, code, sample FROM gateway_devices_recordedrefusal"
            " JOIN gateway_devices_device d ON d.id = device_id WHERE d.name = ? AND wire = ? AND address LIKE '127.%'",
            device.name,
            wire,
        )

    expected = Counter((refusal.reason, code_of(refusal)) for _, refusal in MESSAGES.values())
    await until(lambda: Counter(row[:2] for row in rows()) >= expected, "a row of each")
    samples = {sample for _, _, sample in rows()}
    refused_by_the_commit = {MessageRefusal.UNSTORABLE, MessageRefusal.KEYS_OF_DEVICE, MessageRefusal.KEYS}
    for name, (payload, refusal) in MESSAGES.items():
        if wire != "mqtt" or name.startswith("any ") or refusal not in refused_by_the_commit:
            assert payload[:SAMPLE_BYTES] in samples, name


def carried(refusal: MessageRefusal, packet_type: PacketType) -> int:
    """The code that says so in a packet of that type."""
    return sendable(refusal.reason_code, packet_type)


def test_nothing_that_carries_telemetry_is_acknowledged_and_thrown_away() -> None:
    assert {MessageRefusal.IGNORED, MessageRefusal.NO_COMMAND, MessageRefusal.FINISHED_COMMAND} == DROPPED


def test_no_refusal_is_a_fault_of_the_server() -> None:
    """507 says that there is no room; 500 would say that a device has met a fault of ours."""
    assert {each.status for each in MessageRefusal} & {500, 501, 502, 504} == set()


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", [3, 4, 5])
async def test_over_mqtt_a_refusal_is_told_or_ends_the_connection_and_a_yes_means_stored(
    clients: Clients, gateway: Gateway, device: FleetDevice, full: None, version: int, qos: int
) -> None:
    client = await clients.log_in(device, version)
    counters = Watched(gateway)
    for name, (payload, refusal) in MESSAGES.items():
        code = await publish(client, TELEMETRY, payload, qos)

        alive = await lives(client)
        if version == 5 and qos:
            assert (name, code) == (name, carried(refusal, PacketType.PUBACK))
            assert alive, name
        elif refusal in DROPPED:
            assert (name, code, alive) == (name, 0 if qos else None, True)
        else:
            told = carried(refusal, PacketType.DISCONNECT) if version == 5 else None
            assert (name, code, alive) == (name, told, False)
            client = await clients.log_in(device, version)
    for refusal in MessageRefusal:
        sent = sum(each is refusal for _, each in MESSAGES.values())
        label = f'gateway_payloads_refused_total{{protocol="mqtt",reason="{refusal.reason}"}}'
        # What the database refuses takes with it what the device has in the same commit: at QoS 0, what is behind it.
        behind = counters.risen(label) - sent
        assert (label, behind) == (label, 0) or (qos == 0 and refusal is MessageRefusal.UNSTORABLE and behind <= 1)
    await recorded(gateway, device, "mqtt", lambda refusal: refusal.reason_code)
    assert gateway.stored(device) == []

    assert await publish(client, TELEMETRY, GOOD, qos) == (0 if qos else None)
    if qos == 0:
        await until(lambda: gateway.stored(device), "what has no answer")
    assert [key for key, _, _ in gateway.stored(device)] == ["good"]


def test_over_http_the_status_is_that_of_the_table_and_a_yes_means_stored(
    gateway: Gateway, device: FleetDevice, full: None
) -> None:
    for name, (payload, refusal) in MESSAGES.items():
        status, answer = post(gateway, device, payload)

        assert (name, status) == (name, refusal.status)
        assert answer["error"], name
    asyncio.run(recorded(gateway, device, "http", lambda refusal: refusal.status))
    assert gateway.stored(device) == []

    assert post(gateway, device, GOOD)[0] == 200
    assert [key for key, _, _ in gateway.stored(device)] == ["good"]


async def test_over_websocket_each_is_an_error_and_a_yes_means_stored(
    gateway: Gateway, device: FleetDevice, full: None
) -> None:
    address = f"ws://{gateway.host}:{gateway.http_port}/ws/device/"
    async with connect(address, additional_headers={"Authorization": f"Bearer {device.token}"}) as connection:
        async with asyncio.timeout(DEADLINE_S):
            for number, (name, (payload, _)) in enumerate(MESSAGES.items(), start=1):
                await connection.send(payload)

                answer = json.loads(await connection.recv())
                assert (name, answer["id"]) == (name, number)
                assert answer["error"], name
            await recorded(gateway, device, "websocket", lambda refusal: refusal.status)
            assert gateway.stored(device) == []

            await connection.send(GOOD)
            assert json.loads(await connection.recv()) == {"ack": len(MESSAGES) + 1}
    assert [key for key, _, _ in gateway.stored(device)] == ["good"]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", [3, 4, 5])
async def test_topics_that_nobody_serves(
    clients: Clients, gateway: Gateway, device: FleetDevice, version: int, qos: int
) -> None:
    client = await clients.log_in(device, version)
    from_here = Watched(gateway)
    for topic, refusal in SERVED_BY_NOBODY.items():
        watched = Watched(gateway)

        code = await publish(client, topic, GOOD, qos)

        alive = await lives(client)
        if version == 5 and qos:
            assert (topic, code, alive) == (topic, 0x90, True)
        elif refusal in DROPPED:
            assert (topic, code, alive) == (topic, 0 if qos else None, True)
        else:
            assert (topic, code, alive) == (topic, 0x90 if version == 5 else None, False)
            client = await clients.log_in(device, version)
        label = f'gateway_payloads_refused_total{{protocol="mqtt",reason="{refusal.reason}"}}'
        assert (topic, watched.risen(label)) == (topic, 1)
    dropped = sum(each in DROPPED for each in SERVED_BY_NOBODY.values())
    counter = 'gateway_mqtt_dropped_total{reason="refused"}'
    await until(lambda: from_here.risen(counter) >= dropped, "what the broker counts once a second")
    assert gateway.stored(device) == []


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_topics_of_devices_from_a_client_that_is_none(clients: Clients, gateway: Gateway, version: int) -> None:
    before = gateway.query("SELECT count(*) FROM gateway_devices_reading")
    for topic in (TELEMETRY, "v2/t", "v1/devices/x/telemetry", "v1/gateway/telemetry"):
        client = await clients.open(version)
        assert (await client.connect("anybody")).reason_code == 0

        code = await publish(client, topic, GOOD, 1)

        assert (topic, code, await lives(client)) == (topic, 0x87 if version == 5 else None, version == 5)
    assert gateway.query("SELECT count(*) FROM gateway_devices_reading") == before


ROW_OF_SUBSCRIBE: Final = (
    "SELECT d.name, claimed, kind, code, reason FROM gateway_devices_recordedrefusal"
    " LEFT JOIN gateway_devices_device d ON d.id = device_id WHERE what = ?"
)


async def test_a_filter_that_is_refused_leaves_a_row_of_the_device(
    clients: Clients, gateway: Gateway, device: FleetDevice
) -> None:
    client = await clients.log_in(device, 5)

    client.send(Subscribe(packet_id=1, subscriptions=[Subscription(topic_filter=f"of/{device.name}/#")]))

    assert await client.receive()
    rows = await until_rows(gateway, f"subscribe of/{device.name}/#")
    assert rows == [(device.name, device.name, "subscribe", 0x8F, "not in the device API")]


async def test_what_an_anonymous_client_is_refused_leaves_a_row_with_its_client_id(
    clients: Clients, gateway: Gateway
) -> None:
    client = await clients.open(5)
    assert (await client.connect("claims-to-be-somebody")).reason_code == 0

    client.send(Subscribe(packet_id=1, subscriptions=[Subscription(topic_filter="v1/devices/me/attributes")]))

    assert await client.receive()
    rows = await until_rows(gateway, "subscribe v1/devices/me/attributes")
    assert rows == [(None, "claims-to-be-somebody", "subscribe", 0x87, "a topic of the device API")]


async def until_rows(gateway: Gateway, what: str) -> list[Any]:
    """The rows of what was asked for, once there is one."""
    await until(lambda: gateway.query(ROW_OF_SUBSCRIBE, what), "a row")
    return gateway.query(ROW_OF_SUBSCRIBE, what)


async def test_the_command_line_explains_what_a_device_was_refused(gateway: Gateway, device: FleetDevice) -> None:
    assert post(gateway, device, b'{"a" 1}')[0] == 400
    await until(lambda: "Reason: not JSON" in gateway.serving.command("explain", device.name).stdout, "the row")

    by_token = gateway.serving.command("explain", device.token)

    assert 'Sent: {"a" ▸1}' in by_token.stdout
    assert "What to do: Compare what was sent with docs/device-api.md" in by_token.stdout
    assert device.token not in by_token.stdout + by_token.stderr
    unknown = gateway.serving.command("explain", "what nobody knows", check=False)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "nothing is known of that" in unknown.stderr
