"""Devices on WebSocket, by the websockets library, through the real server, to the real database."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.integration.devices.conftest import Gateway, Watched
from tests.support.administrator import Administrator
from tests.support.fleet import FleetDevice
from tests.support.waiting import until

TS = 1_700_000_000_000

LogIn: TypeAlias = Callable[[FleetDevice], Awaitable[ClientConnection]]


@pytest.fixture
async def log_in(gateway: Gateway) -> AsyncIterator[LogIn]:
    """Opens a device's WebSocket."""
    opened: list[ClientConnection] = []

    async def open_one(device: FleetDevice) -> ClientConnection:
        opened.append(await connect(url(gateway), additional_headers={"Authorization": f"Bearer {device.token}"}))
        return opened[-1]

    yield open_one
    for connection in opened:
        await connection.close()


def url(gateway: Gateway) -> str:
    return f"ws://{gateway.host}:{gateway.http_port}/ws/device/"


async def receive(connection: ClientConnection) -> Any:
    async with asyncio.timeout(30):
        return json.loads(await connection.recv())


class TestTelemetry:
    async def test_an_ack_means_stored(self, log_in: LogIn, gateway: Gateway, device: FleetDevice) -> None:
        connection = await log_in(device)

        for number in (1, 2):
            await connection.send(json.dumps({"ts": TS + number, "values": {"t": number}}))
            assert await receive(connection) == {"ack": number}
            assert len(gateway.stored(device)) == number

    async def test_the_ack_has_the_id_that_the_device_gave(
        self, log_in: LogIn, gateway: Gateway, device: FleetDevice
    ) -> None:
        connection = await log_in(device)

        for given in ("a", 7, None, [1]):
            await connection.send(json.dumps({"id": given, "telemetry": [{"t": 1}]}))
            assert await receive(connection) == {"ack": given}
        await connection.send(b'{"t": 2}')
        assert await receive(connection) == {"ack": 5}

    async def test_a_message_that_is_no_json_by_the_book_has_its_id_and_its_readings(
        self, log_in: LogIn, gateway: Gateway, device: FleetDevice
    ) -> None:
        connection = await log_in(device)

        await connection.send("{id: 'a', telemetry: {out: 11.5, in: nan}}")
        assert await receive(connection) == {"ack": "a"}
        await connection.send('\ufeff{"id": [7], "telemetry": {"ts": "1700000000000", "values": {"t": +1}},}')
        assert await receive(connection) == {"ack": [7]}

        assert {(key, value) for key, _, value in gateway.stored(device)} == {("out", 11.5), ("t", 1.0)}

    async def test_an_error_names_the_position_of_a_fault_in_the_message(
        self, log_in: LogIn, device: FleetDevice
    ) -> None:
        connection = await log_in(device)

        for message, fault in (
            ('{"id": 1, "telemetry": {"€": "\\ud800"}}', '"\\ud800"'),
            ("{id: 1, telemetry: {'€': '\\ud800'}}", "'\\ud800'"),
            ('{"id": 1, "telemetry": {"€" 5}}', "5"),
        ):
            await connection.send(message)
            error = (await receive(connection))["error"]
            assert error.endswith(f"(byte {len(message[: message.index(fault)].encode())})"), error

    async def test_an_id_is_nested_no_deeper_than_a_value(self, log_in: LogIn, device: FleetDevice) -> None:
        connection = await log_in(device)

        for depth, answer in ((32, "ack"), (33, "error")):
            await connection.send('{"id": %s, "telemetry": {}}' % ("[" * depth + "]" * depth))
            assert answer in await receive(connection)

    @pytest.mark.parametrize("beside", [[], ["fieldgate.v1"]])
    async def test_the_token_may_come_as_a_subprotocol(
        self, gateway: Gateway, device: FleetDevice, beside: list[str]
    ) -> None:
        offered = [Subprotocol(name) for name in (*beside, device.token)]

        async with connect(url(gateway), subprotocols=offered) as connection:
            assert connection.subprotocol == offered[0]
            await connection.send('{"t": 1}')
            assert await receive(connection) == {"ack": 1}

    async def test_the_acks_follow_the_commit_in_the_order_of_the_messages(
        self, log_in: LogIn, gateway: Gateway, device: FleetDevice
    ) -> None:
        connection = await log_in(device)
        with gateway.locked():
            for _ in range(3):
                await connection.send('{"t": 1}')
            await connection.send("nonsense")
            await connection.send('{"t": 2}')
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await connection.recv()
            assert gateway.stored(device) == []

        answers = [await receive(connection) for _ in range(5)]

        assert [answer.get("ack", answer.get("id")) for answer in answers] == [1, 2, 3, 4, 5]
        assert "error" in answers[3]
        assert len(gateway.stored(device)) == 4

    async def test_many_messages_at_once_are_all_acknowledged(
        self, log_in: LogIn, gateway: Gateway, device: FleetDevice
    ) -> None:
        connection = await log_in(device)

        with gateway.locked():
            for number in range(5_000):
                await connection.send(json.dumps({"ts": TS + number, "values": {"t": 1}}))
            await asyncio.sleep(0.5)

        assert [(await receive(connection))["ack"] for _ in range(5_000)] == list(range(1, 5_001))
        assert len(gateway.stored(device)) == 5_000

    async def test_neither_acks_nor_errors_wait_without_end(
        self, log_in: LogIn, gateway: Gateway, device: FleetDevice
    ) -> None:
        connection = await log_in(device)

        async def flood() -> None:
            for _ in range(4_000):
                async with asyncio.timeout(0.5):  # until the socket is not read any more
                    await connection.send("x" * 10_000)

        with gateway.locked():
            await connection.send('{"t": 1}')
            with pytest.raises(TimeoutError):
                await flood()

        assert await receive(connection) == {"ack": 1}
        connection.transport.abort()


class TestRefusals:
    """Each has its status or close code, one line in the log and a counter, and nothing else suffers."""

    @pytest.mark.parametrize(
        ("headers", "why"), [({"Authorization": "Bearer unknown"}, "unknown token"), ({}, "no token")]
    )
    async def test_a_handshake_with_a_token_that_is_none_is_401(
        self, gateway: Gateway, watched: Watched, headers: dict[str, str], why: str
    ) -> None:
        await asyncio.sleep(1)  # the log has a line a second of logins of one address

        with pytest.raises(InvalidStatus) as refused:
            await connect(url(gateway), additional_headers=headers)

        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body) == {"error": why}
        line = await watched.line()
        assert "refused a device's login: websocket /ws/device/ from 127.0.0.1:" in line
        assert why in line
        assert watched.risen(f'gateway_device_logins_refused_total{{protocol="websocket",reason="{why}"}}') == 1

    async def test_what_is_no_telemetry_is_answered_and_the_connection_lives(
        self, log_in: LogIn, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        connection = await log_in(device)

        await connection.send("22 degrees")
        answer = await receive(connection)
        await connection.send('{"id": "x", "telemetry": 5}')
        with_id = await receive(connection)
        await connection.send('{"good": 1}')
        good = await receive(connection)

        assert answer["id"] == 1
        assert answer["error"].startswith("not JSON")
        await connection.send(json.dumps({"id": "x" * 100, "telemetry": {"t": 1}}))
        long_id = await receive(connection)

        assert long_id == {"error": "an id has at most 100 bytes", "id": 4}
        assert with_id == {"error": "expected a JSON object or array, got a number", "id": "x"}
        assert good == {"ack": 3}
        assert [key for key, _, _ in gateway.stored(device)] == ["good"]
        await until(lambda: len(watched.lines()) == 3, "three lines in the log")
        start = f"refused what {device.name} ({device.pk}) sent: websocket /ws/device/ from 127.0.0.1:"
        assert [start in line for line in watched.lines()] == [True] * 3
        assert watched.risen('gateway_payloads_refused_total{protocol="websocket",reason="payload"}') == 3

    @pytest.mark.parametrize(
        ("size_bytes", "line"),
        [
            (2**20, "closed the WebSocket of 127.0.0.1:"),
            (2**18, " sent: websocket /ws/device/ from 127.0.0.1:"),
        ],
    )
    async def test_1009_for_a_message_that_is_too_large(
        self, log_in: LogIn, gateway: Gateway, device: FleetDevice, watched: Watched, size_bytes: int, line: str
    ) -> None:
        connection = await log_in(device)

        await connection.send('{"t": 1}' + " " * size_bytes)
        with pytest.raises(ConnectionClosed) as closed:
            await receive(connection)

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert line in await watched.line()
        assert watched.risen('gateway_websocket_closed_total{code="1009"}') == 1
        assert gateway.stored(device) == []


class TestRevocation:
    async def test_revoking_in_the_admin_cuts_the_connection(
        self, log_in: LogIn, administrator: Administrator, device: FleetDevice
    ) -> None:
        connection = await log_in(device)
        fields = {"action": "disable_devices", "_selected_action": str(device.pk)}
        await asyncio.to_thread(administrator.submit, "/admin/gateway_devices/device/", **fields)

        with pytest.raises(ConnectionClosed) as closed:
            await receive(connection)

        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "disabled")

    async def test_revoking_on_the_command_line_cuts_the_connection(
        self, log_in: LogIn, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        connection = await log_in(device)
        await asyncio.to_thread(gateway.serving.command, "device", "rotate", device.name)

        with pytest.raises(ConnectionClosed) as closed:
            await receive(connection)

        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "credentials rotated")
        assert f"closing the WebSocket of {device.name}: credentials rotated" in await watched.line()
