"""Devices on MQTT, by foreign clients, through the real server, to the real database."""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from protocols.mqtt.codec.packets import Connect, PubAck, Publish
from tests.integration.devices.conftest import Gateway, Watched
from tests.integration.mqtt.paho_client import PahoClient
from tests.integration.mqtt.raw_client import RawClient
from tests.support.fleet import FleetDevice
from tests.support.serving import GATEWAY, clean_environment
from tests.support.waiting import until

TELEMETRY = "v1/devices/me/telemetry"
TS = 1_700_000_000_000


_hosts = (f"127.0.1.{number}" for number in range(1, 255))


class Clients:
    """The clients of one test, all of one address, which has a share of the log to itself."""

    def __init__(self, gateway: Gateway) -> None:
        self.host = next(_hosts)
        self._address = (gateway.host, gateway.mqtt_port)
        self._raw: list[RawClient] = []
        self._paho: list[PahoClient] = []

    async def open(self, version: int = 4) -> RawClient:
        """A connection by hand."""
        client = await RawClient.open(self._address, version, local_host=self.host)
        self._raw.append(client)
        return client

    async def log_in(self, device: FleetDevice, version: int, *, client_id: str = "sensor") -> RawClient:
        """A device that is logged in."""
        client = await self.open(version)
        assert (await client.connect(client_id, username=device.token)).reason_code == 0
        return client

    async def paho(self, device: FleetDevice, version: int) -> PahoClient:
        """The same by Paho."""
        client = PahoClient(self._address, "sensor", version, username=device.token)
        self._paho.append(client)
        _, code = await client.connect()
        assert code == 0
        return client

    async def close(self) -> None:
        for client in self._raw:
            client.abort()
        for paho in self._paho:
            await paho.disconnect()


@pytest.fixture
async def clients(gateway: Gateway) -> AsyncIterator[Clients]:
    opened = Clients(gateway)
    yield opened
    await opened.close()


class TestTelemetry:
    @pytest.mark.parametrize("version", [3, 4, 5])
    async def test_telemetry_that_is_acknowledged_is_stored(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, version: int
    ) -> None:
        client = await clients.paho(device, version)

        await client.publish(TELEMETRY, b'{"temperature": 21.5}', qos=1)

        assert [(key, value) for key, _, value in gateway.stored(device)] == [("temperature", 21.5)]

    async def test_telemetry_is_taken_at_every_quality_of_service_and_short_topic(
        self, clients: Clients, gateway: Gateway, device: FleetDevice
    ) -> None:
        client = await clients.paho(device, 5)

        for ts, (topic, qos) in enumerate([("v2/t", 0), ("v2/t/j", 1), (TELEMETRY, 2)]):
            await client.publish(topic, json.dumps({"ts": TS + ts, "values": {"t": qos}}).encode(), qos=qos)

        await until(lambda: len(gateway.stored(device)) == 3, "three readings")
        assert gateway.stored(device) == [("t", TS, 0.0), ("t", TS + 1, 1.0), ("t", TS + 2, 2.0)]

    def test_all_four_forms_by_mosquitto_pub(self, gateway: Gateway, device: FleetDevice) -> None:
        for payload in (
            '{"a": 1}',
            '[{"a": "on"}, {"b": null}]',
            f'{{"ts": {TS}, "values": {{"a": 3}}}}',
            f'[{{"ts": {TS + 1}, "values": {{"a": true}}}}, {{"ts": {TS + 2}, "values": {{"a": {{"x": 1}}}}}}]',
        ):
            mosquitto_pub(gateway, device.token, "-t", TELEMETRY, "-q", "1", "-m", payload)

        readings = gateway.stored(device)
        assert readings[:3] == [("a", TS, 3.0), ("a", TS + 1, True), ("a", TS + 2, {"x": 1})]
        assert [value for _, _, value in readings[3:]] == [1.0, "on"]
        assert all(abs(ts - time.time() * 1000) < 60_000 for _, ts, _ in readings[3:])

    def test_a_client_that_publishes_at_qos_0_and_is_gone_is_heard(self, gateway: Gateway, device: FleetDevice) -> None:
        mosquitto_pub(gateway, device.token, "-t", TELEMETRY, "-m", '{"a": 1}')

        deadline = time.monotonic() + 10
        while not gateway.stored(device):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    @pytest.mark.parametrize("version", [4, 5])
    async def test_the_acknowledgement_follows_the_commit(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, version: int
    ) -> None:
        client = await clients.log_in(device, version)
        with gateway.locked():
            for packet_id in (1, 2, 3):
                client.send(Publish(topic=TELEMETRY, payload=b'{"a": %d}' % packet_id, qos=1, packet_id=packet_id))
            await asyncio.sleep(0.5)
            await client.expect_nothing_more()
            assert gateway.stored(device) == []

        acks = [await client.receive() for _ in range(3)]

        assert acks == [PubAck(packet_id=packet_id) for packet_id in (1, 2, 3)]
        assert len(gateway.stored(device)) == 3

    async def test_two_devices_with_one_client_id_do_not_cut_each_other_off(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, devices: Any
    ) -> None:
        first, second = await clients.log_in(device, 5), await clients.log_in(next(devices), 5)

        await first.expect_nothing_more()
        await second.expect_nothing_more()

    async def test_what_a_device_sends_reaches_no_other_client(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, devices: Any
    ) -> None:
        curious = await clients.paho(next(devices), 5)

        codes = [await curious.subscribe(topic_filter, 1) for topic_filter in ("#", TELEMETRY, "+/devices/me/+")]

        assert [code.value for (code,) in codes] == [0x8F] * 3  # type: ignore[misc]
        (granted,) = await curious.subscribe("v1/devices/me/attributes", 2)
        assert granted.value == 1


class TestRefusals:
    """Each has the code of its protocol, one line in the log and a counter, and nothing else suffers."""

    @pytest.mark.parametrize(("version", "code"), [(3, 5), (4, 5), (5, 0x86)])
    @pytest.mark.parametrize("token", ["x" * 32, "", None])
    async def test_an_unknown_token(
        self, clients: Clients, watched: Watched, token: str | None, version: int, code: int
    ) -> None:
        client = await clients.open(version)

        client.send(Connect(version=version, client_id="stranger", username=token))
        answer = await client.receive_bytes()
        await client.expect_end()

        assert answer[3] == code
        line = await watched.line()
        why = "unknown token" if token else "no token"
        assert f"closed stranger from {clients.host}:" in line
        assert why in line
        assert "x" * 32 not in line
        assert watched.risen(f'gateway_device_logins_refused_total{{protocol="mqtt",reason="{why}"}}') == 1

    async def test_a_disabled_device_of_which_the_log_and_the_trace_say_more_than_the_device_is_told(
        self, clients: Clients, gateway: Gateway, devices: Iterator[FleetDevice]
    ) -> None:
        disabled = next(devices)
        await asyncio.to_thread(gateway.serving.command, "device", "disable", disabled.name)
        await clients.log_in(next(devices), 5, client_id="traced")
        arguments, environment = [GATEWAY, "mqtt", "trace", "traced"], clean_environment(PYTHONUNBUFFERED="1")
        with subprocess.Popen(
            arguments, cwd=gateway.serving.directory, env=environment, stdout=subprocess.PIPE, text=True
        ) as tracing:
            try:
                assert tracing.stdout is not None
                assert "is connected already" in await asyncio.to_thread(tracing.stdout.readline)
                watched = Watched(gateway)

                connack = await (await clients.open(5)).connect("traced", username=disabled.token)

                traced = [(await asyncio.to_thread(tracing.stdout.readline)).rstrip() for _ in range(3)]
            finally:
                tracing.kill()
        why = f"0x86 device {disabled.name} ({disabled.pk}) is disabled"
        assert (connack.reason_code, connack.properties["reason_string"]) == (0x86, "unknown token")
        assert why in await watched.line()
        assert "CONNACK reason_code=0x86 reason_string='unknown token'" in traced[1]
        assert traced[2].endswith(why)

    async def test_a_topic_that_is_not_the_devices_is_refused_from_mqtt_5(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        client = await clients.log_in(device, 5)

        for packet_id, topic in enumerate(["some/topic", "v1/devices/others/telemetry"], start=1):
            client.send(Publish(topic=topic, payload=b'{"a": 1}', qos=1, packet_id=packet_id))
            answer = await client.receive()
            assert isinstance(answer, PubAck)
            assert (answer.packet_id, answer.reason_code) == (packet_id, 0x90)

        await self._goes_on(client, gateway, device)
        await until(lambda: len(watched.lines()) == 2, "a line of each")
        assert f"refused publish 'some/topic' of {device.name}: mqtt sensor from {clients.host}:" in watched.lines()[0]
        assert watched.risen('gateway_mqtt_refusals_total{reason_code="0x90",request="publish"}') == 2

    async def test_a_topic_that_is_not_the_devices_is_acknowledged_and_dropped_from_mqtt_3(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        client = await clients.log_in(device, 4)

        client.send(Publish(topic="some/topic", payload=b'{"a": 1}', qos=1, packet_id=1))

        assert await client.receive() == PubAck(packet_id=1)
        await self._goes_on(client, gateway, device)
        assert f"refused publish 'some/topic' of {device.name}: " in await watched.line()

    async def test_a_payload_that_is_no_telemetry_is_refused_from_mqtt_5(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        client = await clients.log_in(device, 5)

        client.send(Publish(topic=TELEMETRY, payload=b"21.5 degrees", qos=1, packet_id=1))

        answer = await client.receive()
        assert isinstance(answer, PubAck)
        assert answer.reason_code == 0x99
        assert answer.properties["reason_string"].startswith("not JSON: ")
        await self._goes_on(client, gateway, device)
        assert "0x99 not JSON" in await watched.line()
        assert watched.risen('gateway_payloads_refused_total{protocol="mqtt",reason="payload"}') == 1

    async def test_a_payload_that_is_no_telemetry_closes_the_connection_from_mqtt_3(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        client = await clients.log_in(device, 4)

        client.send(Publish(topic=TELEMETRY, payload=b"21.5 degrees", qos=1, packet_id=1))

        await client.expect_end()
        assert gateway.stored(device) == []
        line = await watched.line()
        assert "[warning" in line
        assert f"closed {device.name} ({device.pk}/sensor) from {clients.host}:" in line
        assert "0x99 refused a publish to 'v1/devices/me/telemetry': not JSON" in line
        assert watched.risen('gateway_payloads_refused_total{protocol="mqtt",reason="payload"}') == 1

    @pytest.mark.parametrize("version", [4, 5])
    async def test_a_packet_that_is_too_large(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, watched: Watched, version: int
    ) -> None:
        client = await clients.log_in(device, version)

        client.send(Publish(topic=TELEMETRY, payload=b"[" + b" " * 65_536, qos=1, packet_id=1))

        if version == 5:
            await client.expect_disconnect(0x95)
        else:
            await client.expect_end()
        assert "protocol_error, 0x95" in await watched.line()
        assert watched.risen('gateway_mqtt_closed_total{code="0x95",reason="protocol_error"}') == 1

    async def test_a_malformed_packet(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        client = await clients.log_in(device, 5)

        client.send(b"\x36\x00")  # a PUBLISH of QoS 3 [MQTT5-3.3.1-4]

        await client.expect_disconnect(0x81)
        assert "protocol_error, 0x81" in await watched.line()
        assert watched.risen('gateway_mqtt_closed_total{code="0x81",reason="protocol_error"}') == 1

    async def test_a_protocol_version_that_there_is_not(
        self, clients: Clients, gateway: Gateway, watched: Watched
    ) -> None:
        client = await clients.open()

        client.send(b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x01c")

        await client.expect(b"\x20\x02\x00\x01")  # in the words of MQTT 3.1.1 [MQTT3-3.1.2-2]
        await client.expect_end()
        assert "protocol_error, 0x84" in await watched.line()
        assert watched.risen('gateway_mqtt_closed_total{code="0x84",reason="protocol_error"}') == 1

    async def test_one_device_that_is_refused_all_the_time_fills_no_log(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        client = await clients.log_in(device, 5)
        for packet_id in range(1, 101):
            client.send(Publish(topic=TELEMETRY, payload=b"?", qos=1, packet_id=packet_id))
        for _ in range(100):
            await client.receive()

        assert watched.risen('gateway_payloads_refused_total{protocol="mqtt",reason="payload"}') == 100
        assert "0x99" in watched.lines()[0]
        assert len(watched.lines()) < 20

    async def _goes_on(self, client: RawClient, gateway: Gateway, device: FleetDevice) -> None:
        """The connection lives, and its next reading is the only one that is stored."""
        client.send(Publish(topic=TELEMETRY, payload=b'{"good": 1}', qos=1, packet_id=9))
        assert await client.receive() == PubAck(packet_id=9)
        assert [key for key, _, _ in gateway.stored(device)] == ["good"]


class TestRevocation:
    @pytest.mark.parametrize("command", ["disable", "rotate"])
    async def test_cuts_the_connection(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, devices: Any, watched: Watched, command: str
    ) -> None:
        client, old = await clients.log_in(device, 5), await clients.log_in(device, 4, client_id="older")
        other = await clients.log_in(next(devices), 5)

        await asyncio.to_thread(gateway.serving.command, "device", command, device.name)

        await client.expect_disconnect(0x87)
        await old.expect_end()
        await other.expect_nothing_more()
        reason = {"disable": "disabled", "rotate": "credentials rotated"}[command]
        await until(lambda: len(watched.lines()) >= 2, "two lines in the log")
        assert [f"application, 0x87 {reason}" in line for line in watched.lines()] == [True, True]
        assert watched.risen(f'gateway_device_connections_cut_total{{reason="{reason}"}}') == 2

    async def test_the_revoked_token_is_refused_and_the_new_one_is_not(
        self, clients: Clients, gateway: Gateway, device: FleetDevice
    ) -> None:
        client = await clients.log_in(device, 5)
        new = (await asyncio.to_thread(gateway.serving.command, "device", "rotate", device.name)).stdout.strip()
        await client.expect_disconnect(0x87)

        for token, code in ((device.token, 0x86), (new, 0)):
            client = await clients.open(5)
            assert (await client.connect("sensor", username=token)).reason_code == code

    @pytest.mark.parametrize("version", [4, 5])
    async def test_with_an_overlap_the_old_token_and_its_connections_go_on_until_the_end_of_that(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, version: int
    ) -> None:
        before = await clients.log_in(device, 5)
        rotated = await asyncio.to_thread(gateway.serving.command, "device", "rotate", device.name, "--overlap", "6")
        await before.expect_disconnect(0x87)
        old, new = await clients.log_in(device, version), await clients.open(version)
        assert (await new.connect("newer", username=rotated.stdout.strip())).reason_code == 0

        await (old.expect_disconnect(0xA0) if version == 5 else old.expect_end())

        await new.expect_nothing_more()
        again = await clients.open(5)
        assert (await again.connect("sensor", username=device.token)).reason_code == 0x86

    async def test_a_publish_on_its_heels_is_not_stored(
        self, clients: Clients, gateway: Gateway, device: FleetDevice
    ) -> None:
        client = await clients.log_in(device, 4)
        await asyncio.to_thread(gateway.serving.command, "device", "disable", device.name)
        await client.expect_end()

        client = await clients.open(4)
        publish = Publish(topic=TELEMETRY, payload=b'{"a": 1}', qos=1, packet_id=1)
        client.send(Connect(version=4, client_id="sensor", username=device.token), publish)
        await client.expect(b"\x20\x02\x00\x05")
        await client.expect_end()

        assert gateway.stored(device) == []


def mosquitto_pub(gateway: Gateway, token: str, *arguments: str) -> None:
    subprocess.run(
        ["mosquitto_pub", "-h", gateway.host, "-p", str(gateway.mqtt_port), "-u", token, *arguments],
        check=True,
        timeout=30,
    )


class TestUserNameAndPassword:
    @pytest.mark.parametrize("version", [3, 4, 5])
    async def test_let_a_device_in_and_a_wrong_one_is_refused(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, version: int
    ) -> None:
        username = f"plant-{device.name}"
        issue = ("device", "issue", device.name, "--username", username)
        password = (await asyncio.to_thread(gateway.serving.command, *issue)).stdout.strip()

        for given, code in (("wrong", 0x86 if version == 5 else 0x87), (password, 0)):
            client = await clients.open(version)
            answer = await client.connect("sensor", username=username, password=given.encode())
            assert answer.reason_code == code
        client.send(Publish(topic=TELEMETRY, payload=b'{"t": 1}', qos=1, packet_id=1))
        assert await client.receive() == PubAck(packet_id=1)
        assert [key for key, _, _ in gateway.stored(device)] == ["t"]

        await asyncio.to_thread(gateway.serving.command, "device", "revoke", device.name, username)
        await (client.expect_disconnect(0x87) if version == 5 else client.expect_end())
