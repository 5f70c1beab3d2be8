"""What a device asks for and reports beside telemetry, on each wire, by foreign clients, through the real server."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.devices.conftest import Gateway, Watched
from tests.integration.devices.test_mqtt_devices import Clients
from tests.support.fleet import FleetDevice
from tests.support.http_client import request

ATTRIBUTES = "v1/devices/me/attributes"


@pytest.fixture
async def clients(gateway: Gateway) -> AsyncIterator[Clients]:
    opened = Clients(gateway)
    yield opened
    await opened.close()


def set_shared(gateway: Gateway, device: FleetDevice, **values: Any) -> None:
    assignments = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    gateway.serving.command("attribute", "set", device.name, "shared", *assignments)


def client_attributes(gateway: Gateway, device: FleetDevice) -> dict[str, Any]:
    rows = gateway.query(
        "SELECT key, value_json FROM gateway_devices_attribute a JOIN gateway_devices_device d ON d.id = a.device_id"
        " WHERE d.name = ? AND scope = 'client' ORDER BY key",
        device.name,
    )
    return {key: json.loads(value) for key, value in rows}


class TestMqtt:
    @pytest.mark.parametrize("version", [3, 4, 5])
    @pytest.mark.parametrize("topic", [ATTRIBUTES, "v2/a"])
    async def test_client_attributes_that_are_acknowledged_are_stored(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, version: int, topic: str
    ) -> None:
        client = await clients.paho(device, version)

        await client.publish(topic, b'{"firmware": "1.0.3", "slots": [1, 2], "calibrated": true}', qos=1)

        assert client_attributes(gateway, device) == {"calibrated": True, "firmware": "1.0.3", "slots": [1, 2]}

    @pytest.mark.parametrize("version", [3, 4, 5])
    @pytest.mark.parametrize(
        ("asked", "answered", "on"),
        [
            (f"{ATTRIBUTES}/request/7", f"{ATTRIBUTES}/response/+", f"{ATTRIBUTES}/response/7"),
            ("v2/a/req/7", "v2/a/res/+", "v2/a/res/7"),
        ],
    )
    async def test_attributes_that_are_asked_for_come_on_the_topic_of_the_request(
        self,
        clients: Clients,
        gateway: Gateway,
        device: FleetDevice,
        version: int,
        asked: str,
        answered: str,
        on: str,
    ) -> None:
        set_shared(gateway, device, interval=60, unit="C")
        client = await clients.paho(device, version)
        await client.publish(ATTRIBUTES, b'{"firmware": "1.0.3"}', qos=1)
        await client.subscribe(answered, qos=1)

        await client.publish(asked, b'{"clientKeys": "firmware,none", "sharedKeys": "interval"}', qos=1)
        message = await client.message()
        await client.publish(asked, b"{}", qos=1)
        everything = await client.message()

        assert (message.topic, message.qos) == (on, 1)
        assert json.loads(message.payload) == {"client": {"firmware": "1.0.3"}, "shared": {"interval": 60}}
        assert json.loads(everything.payload)["shared"] == {"interval": 60, "unit": "C"}

    @pytest.mark.parametrize("version", [4, 5])
    async def test_the_limits_of_a_session_are_told_as_they_are(
        self, clients: Clients, device: FleetDevice, version: int
    ) -> None:
        client = await clients.paho(device, version)
        await client.subscribe("v1/devices/me/rpc/response/+", qos=1)

        await client.publish("v1/devices/me/rpc/request/1", b'{"method": "getSessionLimits", "params": {}}', qos=1)
        message = await client.message()

        assert message.topic == "v1/devices/me/rpc/response/1"
        assert json.loads(message.payload) == {
            "maxPayloadSize": 65_536 - 256,
            "maxInflightMessages": 512,
            "rateLimits": {"messages": "", "telemetryMessages": "", "telemetryDataPoints": ""},
        }

    async def test_a_method_that_is_not_there_is_answered_with_an_error(
        self, clients: Clients, device: FleetDevice
    ) -> None:
        client = await clients.paho(device, 4)

        await client.publish("v1/devices/me/rpc/request/1", b'{"method": "openDoor"}', qos=1)
        message = await client.message()

        assert json.loads(message.payload) == {"error": "there is no method 'openDoor'"}

    async def test_the_answer_to_a_command_that_is_not_there_is_refused_and_the_connection_goes_on(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        client = await clients.paho(device, 4)

        await client.publish("v1/devices/me/rpc/response/999999", b"1", qos=1)
        await client.publish("v1/devices/me/rpc/response/none", b"1", qos=1)
        await client.publish(ATTRIBUTES, b'{"on": true}', qos=1)

        assert client_attributes(gateway, device) == {"on": True}
        assert watched.risen('gateway_payloads_refused_total{protocol="mqtt",reason="no_command"}') == 2

    async def test_what_the_database_cannot_take_is_not_acknowledged(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        client = await clients.paho(device, 4)

        with gateway.locked():
            client.client.publish(ATTRIBUTES, b'{"lost": true}', 1)
            await client.disconnected

        assert client_attributes(gateway, device) == {}
        assert watched.risen('gateway_payloads_refused_total{protocol="mqtt",reason="database away"}') == 1


class TestHttp:
    def test_attributes_are_reported_and_asked_for_by_http(self, gateway: Gateway, device: FleetDevice) -> None:
        set_shared(gateway, device, interval=60)
        url = f"{gateway.url}/api/v1/{device.token}/attributes"

        assert request(url, b'{"firmware": "1.0.3", "boots": "17"}').status == 200
        some = request(f"{url}?clientKeys=firmware&sharedKeys=interval,none")
        everything = request(url)

        assert some.json() == {"client": {"firmware": "1.0.3"}, "shared": {"interval": 60}}
        assert everything.json() == {"client": {"boots": 17, "firmware": "1.0.3"}, "shared": {"interval": 60}}

    def test_a_call_is_answered(self, gateway: Gateway, device: FleetDevice) -> None:
        answer = request(f"{gateway.url}/api/v1/{device.token}/rpc", b'{"method": "getSessionLimits"}')

        assert answer.json()["maxPayloadSize"] == 262_144

    @pytest.mark.parametrize(
        ("path", "body", "status"),
        [
            ("attributes", b"[1]", 400),
            ("attributes", b"{", 400),
            ("rpc", b'{"params": 1}', 400),
            ("rpc/999999", b"1", 404),
            ("rpc/999999999999999999999", b"1", 404),
            ("rpc/1", b"{", 400),
        ],
    )
    def test_what_is_wrong_is_refused_with_a_reason(
        self, gateway: Gateway, device: FleetDevice, path: str, body: bytes, status: int
    ) -> None:
        answer = request(f"{gateway.url}/api/v1/{device.token}/{path}", body)

        assert answer.status == status
        assert answer.json()["error"]

    def test_while_the_database_is_away_the_device_is_told_when_to_come_again(
        self, gateway: Gateway, device: FleetDevice
    ) -> None:
        url = f"{gateway.url}/api/v1/{device.token}/attributes"
        assert request(url, b'{"a": 1}').status == 200

        with gateway.locked():
            answer = request(url, b'{"a": 2}')

        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert client_attributes(gateway, device) == {"a": 1}
