"""A device opens itself for claiming on each wire, and a person claims it, through the real server."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.integration.devices.conftest import Gateway
from tests.integration.devices.test_mqtt_devices import Clients
from tests.support.fleet import FleetDevice
from tests.support.http_client import request


@pytest.fixture
async def clients(gateway: Gateway) -> AsyncIterator[Clients]:
    opened = Clients(gateway)
    yield opened
    await opened.close()


def owner(gateway: Gateway, device: FleetDevice) -> str | None:
    [(username,)] = gateway.query(
        "SELECT u.username FROM gateway_devices_device d LEFT JOIN auth_user u ON u.id = d.claimed_by_id"
        " WHERE d.name = ?",
        device.name,
    )
    return username  # type: ignore[no-any-return]


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_an_acknowledged_claim_over_mqtt_can_be_claimed(
    clients: Clients, gateway: Gateway, device: FleetDevice, version: int
) -> None:
    client = await clients.paho(device, version)

    await client.publish("v1/devices/me/claim", json.dumps({"secretKey": "4711", "durationMs": 60000}).encode(), qos=1)

    gateway.serving.command("device", "claim", device.name, "4711")
    assert owner(gateway, device) == "admin"


def test_an_answered_claim_over_http_can_be_claimed(gateway: Gateway, device: FleetDevice) -> None:
    answer = request(f"{gateway.url}/api/v1/{device.token}/claim", b'{"secretKey": "4711"}')

    assert (answer.status, answer.body) == (200, b"")
    gateway.serving.command("device", "claim", device.name, "4711")
    assert owner(gateway, device) == "admin"


def test_what_is_no_claim_is_answered_400(gateway: Gateway, device: FleetDevice) -> None:
    assert request(f"{gateway.url}/api/v1/{device.token}/claim", b'{"durationMs": -1}').status == 400
