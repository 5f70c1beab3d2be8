"""Provisioning over MQTT by Paho and over HTTP, through the real server."""

import itertools
import json
from typing import Any

import pytest

from protocols.mqtt import ReasonCode
from protocols.mqtt.codec.packets import Publish
from tests.integration.devices.conftest import Gateway
from tests.integration.mqtt.paho_client import PahoClient
from tests.integration.mqtt.raw_client import RawClient
from tests.support.http_client import request

_numbers = itertools.count()
NOT_FOUND = {"errorMsg": "Provision data was not found!", "status": "NOT_FOUND"}
FAILURE = {"errorMsg": "Failed to provision device!", "status": "FAILURE"}


@pytest.fixture
def keys(gateway: Gateway) -> dict[str, str]:
    """A key and a secret of a type."""
    name = f"type-{next(_numbers)}"
    gateway.serving.command("device", "add", f"first of {name}", "--type", name, "--no-token")
    printed = gateway.serving.command("device-type", "provisioning", name, "--strategy", "create").stdout
    [key, secret] = [line.split()[1] for line in printed.splitlines()]
    return {"provisionDeviceKey": key, "provisionDeviceSecret": secret}


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_a_device_gets_a_token_over_mqtt_and_logs_in_with_it(
    gateway: Gateway, keys: dict[str, str], version: int
) -> None:
    address = (gateway.host, gateway.mqtt_port)
    client = PahoClient(address, "provision", version)
    assert (await client.connect())[1] == 0
    await client.subscribe("/provision/response", qos=1)

    async def answer(**asked: Any) -> Any:
        await client.publish("/provision/request", json.dumps({**keys, **asked}).encode(), qos=1)
        return json.loads((await client.message()).payload)

    name = f"provisioned-{version}"
    given = await answer(deviceName=name)
    assert (given["status"], given["credentialsType"]) == ("SUCCESS", "ACCESS_TOKEN")
    assert await answer(deviceName=name) == FAILURE
    assert await answer(deviceName="another", provisionDeviceSecret="wrong") == NOT_FOUND
    await client.disconnect()

    device = PahoClient(address, "sensor", version, username=given["credentialsValue"])
    assert (await device.connect())[1] == 0
    await device.publish("v1/devices/me/telemetry", b'{"t": 1}', qos=1)
    await device.disconnect()


def test_a_device_gets_a_token_over_http_and_sends_with_it(gateway: Gateway, keys: dict[str, str]) -> None:
    url = f"{gateway.url}/api/v1"

    def answer(**asked: str) -> Any:
        response = request(f"{url}/provision", json.dumps({**keys, **asked}).encode())
        assert response.status == 200
        return response.json()

    given = answer(deviceName="provisioned by http")
    assert given["status"] == "SUCCESS"
    assert request(f"{url}/{given['credentialsValue']}/telemetry", b'{"t": 1}').status == 200
    assert answer(deviceName="provisioned by http") == FAILURE
    assert answer(deviceName="x", provisionDeviceKey="wrong") == NOT_FOUND
    assert request(f"{url}/provision", b"{").status == 400
    assert request(f"{url}/provision").status == 405


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("identified_by", ["user name", "client identifier"])
async def test_a_session_for_provisioning_can_do_nothing_else(
    gateway: Gateway, version: int, identified_by: str
) -> None:
    client = await RawClient.open((gateway.host, gateway.mqtt_port), version)
    answer = (
        await client.connect("sensor", username="provision")
        if identified_by == "user name"
        else await client.connect("provision")
    )
    assert answer.reason_code == 0

    assert await client.subscribe("#") == (0x8F if version == 5 else 0x80)
    assert await client.subscribe("v1/devices/me/attributes") == (0x8F if version == 5 else 0x80)
    client.send(Publish(topic="v1/devices/me/telemetry", payload=b'{"t": 1}', qos=1, packet_id=1))
    if version == 5:
        assert (await client.receive()).reason_code == ReasonCode.NOT_AUTHORIZED
        client.send(Publish(topic="/provision/request", payload=b"{", qos=1, packet_id=2))
        assert (await client.receive()).reason_code == ReasonCode.PAYLOAD_FORMAT_INVALID
        await client.expect_nothing_more()
        client.abort()
    else:
        await client.expect_end()
