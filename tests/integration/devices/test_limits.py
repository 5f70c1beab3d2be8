"""What one device and one address may do: guess tokens, connect, come and go. By a gateway with small limits."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.devices.conftest import Gateway, running
from tests.integration.devices.test_mqtt_devices import Clients
from tests.support.fleet import FleetDevice
from tests.support.waiting import DEADLINE_S

NO_TOKEN = "x" * 32


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    limits = {"max_failed_logins": 5, "max_connections": 2, "max_lost_connections": 4, "lost_connections_pause_s": 3600}
    flags = [part for name, value in limits.items() for part in ("--set", f"devices.{name}={value}")]
    with running(tmp_path_factory.mktemp("gateway"), *flags) as gateway:
        yield gateway


@pytest.fixture
async def clients(gateway: Gateway) -> AsyncIterator[Clients]:
    opened = Clients(gateway)
    yield opened
    await opened.close()


def post(gateway: Gateway, token: str) -> int:
    request = urllib.request.Request(f"{gateway.url}/api/v1/{token}/telemetry", b'{"a": 1}')
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


async def test_one_connection_more_than_a_device_may_have_is_refused(
    clients: Clients, gateway: Gateway, device: FleetDevice
) -> None:
    for name in ("one", "two"):
        await clients.log_in(device, 5, client_id=name)
    third = await clients.open(5)

    connack = await third.connect("three", username=device.token)

    assert connack.reason_code == 0x97
    assert connack.properties["reason_string"] == "too many connections of the device"


async def test_one_that_takes_over_a_session_is_not_one_more(
    clients: Clients, gateway: Gateway, device: FleetDevice
) -> None:
    """A device whose line broke is back before anybody has noticed that its old connection is dead."""
    dead, other = [await clients.log_in(device, 5, client_id=name) for name in ("one", "two")]

    await clients.log_in(device, 5, client_id="one")

    await dead.expect_disconnect(0x8E)
    await other.expect_nothing_more()
    third = await clients.open(5)
    assert (await third.connect("three", username=device.token)).reason_code == 0x97


async def test_a_device_that_is_lost_again_and_again_is_kept_out_and_another_is_not(
    clients: Clients, gateway: Gateway, devices: Iterator[FleetDevice]
) -> None:
    flapping, other = next(devices), next(devices)
    code = 0
    async with asyncio.timeout(DEADLINE_S):
        while not code:
            client = await clients.open(5)
            connack = await client.connect("c", username=flapping.token)
            code = connack.reason_code
            client.abort()

    assert code == 0x9F
    assert "flapping" in connack.properties["reason_string"]
    counters = gateway.counters()
    assert counters['gateway_device_logins_refused_total{protocol="mqtt",reason="flapping"}'] >= 1
    older = await clients.open(4)
    assert (await older.connect("c", username=flapping.token)).reason_code == 0x88  # return code 3, server unavailable
    await clients.log_in(other, 5)


async def test_one_that_says_goodbye_may_come_as_often_as_it_likes(
    clients: Clients, gateway: Gateway, device: FleetDevice
) -> None:
    codes = set()
    for _ in range(12):
        client = await clients.open(5)
        codes.add((await client.connect("c", username=device.token)).reason_code)
        if client.reader.at_eof():
            continue
        client.send(b"\xe0\x00")
        await client.expect_end()

    assert 0x9F not in codes


async def test_who_guesses_is_answered_late_and_valid_devices_of_the_same_address_are_let_in(
    clients: Clients, gateway: Gateway, devices: Iterator[FleetDevice]
) -> None:
    """Also those that the gateway has not heard of before."""
    guesses = [asyncio.to_thread(post, gateway, f"{NO_TOKEN}{number}") for number in range(12)]
    statuses = await asyncio.gather(*guesses)

    assert statuses.count(401) >= 5
    assert 429 in statuses
    connack = await (await clients.open(5)).connect("c", username=NO_TOKEN)
    assert connack.reason_code in {0x86, 0x9F}  # the former if the minute has passed
    for _ in range(3):
        new = next(devices)
        await clients.log_in(new, 5)
        assert await asyncio.to_thread(post, gateway, next(devices).token) == 200
    counters = gateway.counters()
    assert counters['gateway_device_logins_refused_total{protocol="http",reason="too many failed logins"}'] >= 1
