"""Commands and shared attributes reach devices, on each wire, by foreign clients, through the real server."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from protocols.mqtt.codec.packets import PubAck, Publish
from tests.integration.devices.conftest import Gateway
from tests.integration.devices.test_mqtt_devices import Clients
from tests.support.fleet import FleetDevice
from tests.support.http_client import Response, request
from tests.support.serving import GATEWAY, clean_environment
from tests.support.waiting import DEADLINE_S, until

COMMANDS = "v1/devices/me/rpc/request/+"
ATTRIBUTES = "v1/devices/me/attributes"


@pytest.fixture
async def clients(gateway: Gateway) -> AsyncIterator[Clients]:
    opened = Clients(gateway)
    yield opened
    await opened.close()


class Sending:
    """`gateway command send`, while it waits for the answer."""

    def __init__(self, gateway: Gateway, device: FleetDevice, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [GATEWAY, "command", "send", device.name, *arguments],
            cwd=gateway.serving.directory,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def result(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, error = await asyncio.to_thread(self._process.communicate, timeout=DEADLINE_S)
        return self._process.returncode, out, error


def send(gateway: Gateway, device: FleetDevice, *arguments: str) -> str:
    """Sends a command and returns its number, by which the device knows it."""
    gateway.serving.command("command", "send", device.name, *arguments)
    return str(rows(gateway, device)[-1][0])


def rows(gateway: Gateway, device: FleetDevice) -> list[Any]:
    return gateway.query(
        "SELECT c.id, c.state, c.answer_json, c.attempts FROM gateway_devices_command c"
        " JOIN gateway_devices_device d ON d.id = c.device_id WHERE d.name = ? ORDER BY c.id",
        device.name,
    )


def states(gateway: Gateway, device: FleetDevice) -> list[str]:
    return [state for _, state, _, _ in rows(gateway, device)]


class TestMqtt:
    @pytest.mark.parametrize("version", [3, 4, 5])
    @pytest.mark.parametrize(
        ("subscribed", "asked", "answered"),
        [
            (COMMANDS, "v1/devices/me/rpc/request/", "v1/devices/me/rpc/response/"),
            ("v2/r/req/+", "v2/r/req/", "v2/r/res/"),
        ],
    )
    async def test_a_command_is_answered_and_its_sender_gets_the_answer(
        self,
        clients: Clients,
        gateway: Gateway,
        device: FleetDevice,
        version: int,
        subscribed: str,
        asked: str,
        answered: str,
    ) -> None:
        client = await clients.paho(device, version)
        await client.subscribe(subscribed, qos=1)
        sending = Sending(gateway, device, "setValve", '{"open": true}', "--wait", "60")

        message = await client.message()
        number = message.topic.removeprefix(asked)
        await client.publish(f"{answered}{number}", b'{"done": 1}', qos=1)

        assert json.loads(message.payload) == {"method": "setValve", "params": {"open": True}}
        assert message.qos == 1
        assert await sending.result() == (0, '{"done":1}\n', "")

    async def test_commands_for_a_device_that_is_away_wait_for_it_in_order(
        self, clients: Clients, gateway: Gateway, device: FleetDevice
    ) -> None:
        for number in range(3):
            send(gateway, device, "step", str(number), "--one-way")
        assert states(gateway, device) == ["queued"] * 3

        client = await clients.paho(device, 4)
        await client.subscribe(COMMANDS, qos=1)
        params = [json.loads((await client.message()).payload)["params"] for _ in range(3)]

        assert params == [0, 1, 2]
        await until(lambda: states(gateway, device) == ["delivered"] * 3, "the acknowledgements")

    async def test_one_that_the_device_has_not_acknowledged_comes_again_with_a_mark(
        self, clients: Clients, gateway: Gateway, device: FleetDevice
    ) -> None:
        number = send(gateway, device, "reboot")
        silent = await clients.log_in(device, 4)
        assert await silent.subscribe(COMMANDS, 1) == 1
        packet = await silent.receive()
        assert isinstance(packet, Publish)
        assert states(gateway, device) == ["sent"]
        silent.abort()

        client = await clients.paho(device, 4)
        await client.subscribe(COMMANDS, qos=1)
        message = await client.message()

        assert json.loads(packet.payload) == {"method": "reboot", "params": None}
        assert json.loads(message.payload) == {"method": "reboot", "params": None, "redelivered": True}
        assert message.topic.endswith(f"/{number}")
        await until(lambda: states(gateway, device) == ["delivered"], "the acknowledgement")

    @pytest.mark.parametrize("version", [4, 5])
    async def test_a_session_that_is_resumed_need_not_subscribe_again(
        self, clients: Clients, gateway: Gateway, device: FleetDevice, version: int
    ) -> None:
        keep = {"properties": {"session_expiry_interval": 600}} if version == 5 else {}
        first = await clients.open(version)
        await first.connect("sensor", username=device.token, clean_start=version == 5, **keep)
        assert await first.subscribe(COMMANDS, 1) == 1
        first.abort()
        send(gateway, device, "reboot", "--one-way")

        again = await clients.open(version)
        connack = await again.connect("sensor", username=device.token, clean_start=False, **keep)
        packet = await again.receive()

        assert connack.session_present
        assert isinstance(packet, Publish)
        again.send(PubAck(packet.packet_id))
        await until(lambda: states(gateway, device) == ["delivered"], "the acknowledgement")

    async def test_at_qos_0_it_is_sent_once_and_nobody_says_that_it_was_delivered(
        self, clients: Clients, gateway: Gateway, device: FleetDevice
    ) -> None:
        client = await clients.paho(device, 4)
        await client.subscribe(COMMANDS, qos=0)
        send(gateway, device, "reboot", "--one-way")
        await client.message()
        await client.disconnect()
        again = await clients.paho(device, 4)
        await again.subscribe(COMMANDS, qos=0)
        send(gateway, device, "other", "--one-way")

        assert json.loads((await again.message()).payload)["method"] == "other"
        assert states(gateway, device) == ["sent", "sent"]

    async def test_changed_and_deleted_shared_attributes_are_told(
        self, clients: Clients, gateway: Gateway, device: FleetDevice
    ) -> None:
        command = gateway.serving.command
        command("attribute", "set", device.name, "shared", "interval=60", 'unit="C"')
        client = await clients.paho(device, 4)
        await client.subscribe(ATTRIBUTES, qos=1)

        first = await client.message()
        command("attribute", "delete", device.name, "shared", "unit")
        second = await client.message()
        command("attribute", "set", device.name, "server", "note=1")
        command("attribute", "set", device.name, "shared", "interval=30")
        third = await client.message()

        assert {first.topic, second.topic, third.topic} == {ATTRIBUTES}
        assert [json.loads(message.payload) for message in (first, second, third)] == [
            {"interval": 60, "unit": "C"},
            {"deleted": ["unit"]},
            {"interval": 30},
        ]

    async def test_what_the_device_has_been_told_it_is_not_told_again(
        self, clients: Clients, gateway: Gateway, device: FleetDevice
    ) -> None:
        gateway.serving.command("attribute", "set", device.name, "shared", "interval=60")
        client = await clients.paho(device, 4)
        await client.subscribe(ATTRIBUTES, qos=1)
        await client.message()
        untold = "SELECT count(*) FROM gateway_devices_attribute WHERE NOT is_told AND key = 'interval'"
        await until(lambda: gateway.query(untold) == [(0,)], "the acknowledgement")
        await client.disconnect()
        gateway.serving.command("attribute", "set", device.name, "shared", 'unit="C"')

        again = await clients.paho(device, 4)
        await again.subscribe(ATTRIBUTES, qos=1)

        assert json.loads((await again.message()).payload) == {"unit": "C"}

    async def test_a_device_that_does_not_subscribe_is_sent_nothing(
        self, clients: Clients, gateway: Gateway, device: FleetDevice
    ) -> None:
        client = await clients.paho(device, 4)
        send(gateway, device, "reboot")
        await client.publish("v1/devices/me/telemetry", b'{"t": 1}', qos=1)

        assert client.messages.empty()
        assert states(gateway, device) == ["queued"]

    async def test_a_command_of_nobody_is_told_to_who_sent_it(
        self, clients: Clients, gateway: Gateway, device: FleetDevice
    ) -> None:
        code, out, _ = await Sending(gateway, device, "reboot", "--expires", "0.2", "--wait", "60").result()

        assert (code, out) == (1, "expired\n")


class TestHttp:
    async def poll(self, gateway: Gateway, device: FleetDevice, what: str, timeout_ms: int = 30_000) -> Response:
        url = f"{gateway.url}/api/v1/{device.token}/{what}?timeout={timeout_ms}"
        return await asyncio.to_thread(request, url)

    async def test_a_command_ends_the_poll_and_is_answered(self, gateway: Gateway, device: FleetDevice) -> None:
        polling = asyncio.create_task(self.poll(gateway, device, "rpc"))
        sending = Sending(gateway, device, "setValve", '{"open": true}', "--wait", "60")

        answer = await polling
        command = answer.json()
        taken = await asyncio.to_thread(
            request, f"{gateway.url}/api/v1/{device.token}/rpc/{command['id']}", b'{"done": 1}'
        )

        assert (answer.status, answer.headers["Content-Type"], taken.status) == (200, "application/json", 200)
        assert command == {"id": command["id"], "method": "setValve", "params": {"open": True}}
        assert await sending.result() == (0, '{"done":1}\n', "")

    async def test_one_that_waits_is_there_at_once_and_they_come_one_by_one(
        self, gateway: Gateway, device: FleetDevice
    ) -> None:
        for number in range(3):
            send(gateway, device, "step", str(number), "--one-way")

        polled = [(await self.poll(gateway, device, "rpc")).json()["params"] for _ in range(3)]

        assert polled == [0, 1, 2]
        await until(lambda: states(gateway, device) == ["delivered"] * 3, "the deliveries")

    @pytest.mark.parametrize("what", ["rpc", "attributes/updates"])
    async def test_408_when_nothing_comes_in_time(self, gateway: Gateway, device: FleetDevice, what: str) -> None:
        answer = await self.poll(gateway, device, what, timeout_ms=50)

        assert answer.status == 408

    async def test_changed_attributes_end_the_poll(self, gateway: Gateway, device: FleetDevice) -> None:
        polling = asyncio.create_task(self.poll(gateway, device, "attributes/updates"))
        gateway.serving.command("attribute", "set", device.name, "shared", "interval=60")
        changed = (await polling).json()
        polling = asyncio.create_task(self.poll(gateway, device, "attributes/updates"))
        gateway.serving.command("attribute", "delete", device.name, "shared", "interval")

        assert (changed, (await polling).json()) == ({"interval": 60}, {"deleted": ["interval"]})

    async def test_a_client_that_has_left_takes_no_command_with_it(self, gateway: Gateway, device: FleetDevice) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.http_port)
        writer.write(f"GET /api/v1/{device.token}/rpc?timeout=30000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()
        await writer.wait_closed()
        send(gateway, device, "reboot", "--one-way")

        assert (await self.poll(gateway, device, "rpc")).json()["method"] == "reboot"

    async def test_a_time_to_wait_that_is_no_number_is_refused(self, gateway: Gateway, device: FleetDevice) -> None:
        answer = await asyncio.to_thread(request, f"{gateway.url}/api/v1/{device.token}/rpc?timeout=soon")

        assert answer.status == 400


class TestWebSocket:
    @pytest.fixture
    async def connection(self, gateway: Gateway, device: FleetDevice) -> AsyncIterator[ClientConnection]:
        async with self.log_in(gateway, device) as connection:
            yield connection

    def log_in(self, gateway: Gateway, device: FleetDevice) -> connect:
        url = f"ws://{gateway.host}:{gateway.http_port}/ws/device/"
        return connect(url, additional_headers={"Authorization": f"Bearer {device.token}"})

    async def receive(self, connection: ClientConnection) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return json.loads(await connection.recv())

    async def ask(self, connection: ClientConnection, **message: Any) -> Any:
        await connection.send(json.dumps(message))
        return await self.receive(connection)

    async def test_a_command_over_websocket_is_answered_and_its_sender_gets_the_answer(
        self, connection: ClientConnection, gateway: Gateway, device: FleetDevice
    ) -> None:
        assert await self.ask(connection, id=1, subscribe=["commands"]) == {"ack": 1}
        sending = Sending(gateway, device, "setValve", '{"open": true}', "--wait", "60")

        command = (await self.receive(connection))["command"]
        taken = await self.ask(connection, id=2, answer={"done": 1}, to=command["id"])

        assert command == {"id": command["id"], "method": "setValve", "params": {"open": True}}
        assert taken == {"ack": 2}
        assert await sending.result() == (0, '{"done":1}\n', "")

    async def test_a_command_is_delivered_when_the_device_says_so_and_only_once(
        self, connection: ClientConnection, gateway: Gateway, device: FleetDevice
    ) -> None:
        number = int(send(gateway, device, "reboot", "--one-way"))
        await connection.send('{"id": 1, "subscribe": ["commands"]}')
        told = [await self.receive(connection), await self.receive(connection)]
        sent = states(gateway, device)
        acknowledged = await self.ask(connection, id=2, delivered=number)
        again = await self.ask(connection, id=3, delivered=number)

        assert {"command": {"id": number, "method": "reboot", "params": None}} in told
        assert (sent, acknowledged) == (["sent"], {"ack": 2})
        assert again == {"error": f"no command '{number}' waits for this", "id": 3}
        await until(lambda: states(gateway, device) == ["delivered"], "the delivery")

    async def test_a_command_that_the_device_has_not_acknowledged_comes_again_over_websocket_with_a_mark(
        self, connection: ClientConnection, gateway: Gateway, device: FleetDevice
    ) -> None:
        assert await self.ask(connection, id=1, subscribe=["commands"]) == {"ack": 1}
        send(gateway, device, "reboot")
        first = await self.receive(connection)
        await connection.close()

        async with self.log_in(gateway, device) as again:
            assert await self.ask(again, id=1, subscribe=["commands"]) == {"ack": 1}
            second = await self.receive(again)

        assert second == {"command": {**first["command"], "redelivered": True}}

    async def test_changed_and_deleted_shared_attributes_are_told_over_websocket(
        self, connection: ClientConnection, gateway: Gateway, device: FleetDevice
    ) -> None:
        assert await self.ask(connection, id=1, subscribe=["attributes"]) == {"ack": 1}
        await asyncio.to_thread(gateway.serving.command, "attribute", "set", device.name, "shared", "interval=60")
        changed = await self.receive(connection)
        await asyncio.to_thread(gateway.serving.command, "attribute", "delete", device.name, "shared", "interval")

        assert changed == {"attributes": {"interval": 60}}
        assert await self.receive(connection) == {"deletedAttributes": ["interval"]}

    async def test_the_device_reports_asks_and_calls_and_is_answered_in_order(
        self, connection: ClientConnection
    ) -> None:
        await connection.send('{"id": 1, "telemetry": {"t": 1}}')
        await connection.send('{"id": 2, "attributes": {"firmware": "1.0.3"}}')
        await connection.send("{id: 3, attributesRequest: {clientKeys: 'firmware'}}")
        await connection.send('{"id": 4, "call": {"method": "getSessionLimits"}}')
        await connection.send('{"id": 5, "claim": {"secretKey": "s"}}')
        answers = [await self.receive(connection) for _ in range(5)]

        assert answers[4] == {"ack": 5}
        assert answers[:3] == [{"ack": 1}, {"ack": 2}, {"ack": 3, "answer": {"client": {"firmware": "1.0.3"}}}]
        assert (answers[3]["ack"], answers[3]["answer"]["maxInflightMessages"]) == (4, 1)

    @pytest.mark.parametrize(
        ("message", "why"),
        [
            ({"attributes": 5}, "expected a JSON object"),
            ({"attributes": {}, "call": {}}, "a message says one thing, not attributes and call"),
            ({"subscribe": ["all"]}, "subscribe to a list of commands, attributes"),
            ({"answer": 1}, "there is no command ''"),
            ({"answer": 1, "to": 999_999}, "there is no command 999999"),
            ({"delivered": 999_999}, "no command '999999' waits for this"),
        ],
    )
    async def test_what_is_refused_is_answered_and_the_connection_lives(
        self, connection: ClientConnection, message: dict[str, Any], why: str
    ) -> None:
        refused = await self.ask(connection, id="x", **message)

        assert refused["error"].startswith(why)
        assert await self.ask(connection, id=2, telemetry={"t": 1}) == {"ack": 2}
