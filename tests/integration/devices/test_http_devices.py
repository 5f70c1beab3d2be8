"""Devices on HTTP, by curl and by hand, through the real server, to the real database."""

import asyncio
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.devices.conftest import Gateway, Watched
from tests.support.fleet import FleetDevice
from tests.support.waiting import until

TS = 1_700_000_000_000


@pytest.fixture
def connection(gateway: Gateway) -> Iterator[http.client.HTTPConnection]:
    """A connection that is kept from one request to the next."""
    opened = http.client.HTTPConnection(gateway.host, gateway.http_port, timeout=30)
    yield opened
    opened.close()


def post(
    connection: http.client.HTTPConnection, path: str, body: bytes, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection.request("POST", path, body, headers)
    with connection.getresponse() as response:
        return response.status, response.headers, response.read()


def telemetry(device: FleetDevice) -> str:
    return f"/api/v1/{device.token}/telemetry"


class TestTelemetry:
    def test_200_means_stored(
        self, connection: http.client.HTTPConnection, gateway: Gateway, device: FleetDevice
    ) -> None:
        for number in range(3):
            body = json.dumps({"ts": TS + number, "values": {"t": number}}).encode()

            status, _, answer = post(connection, telemetry(device), body)

            assert (status, answer) == (200, b"")
            assert len(gateway.stored(device)) == number + 1

    def test_curl_sends_telemetry(self, gateway: Gateway, device: FleetDevice) -> None:
        done = subprocess.run(
            ["curl", "-sf", "-w", "%{http_code}", "-d", '{"temperature": 22}', gateway.url + telemetry(device)],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )

        assert done.stdout == "200"
        assert [(key, value) for key, _, value in gateway.stored(device)] == [("temperature", 22.0)]

    @pytest.mark.parametrize("header", ["Authorization", "X-Device-Token"])
    def test_the_token_may_come_in_a_header(
        self, connection: http.client.HTTPConnection, gateway: Gateway, device: FleetDevice, header: str
    ) -> None:
        value = f"Bearer {device.token}" if header == "Authorization" else device.token

        status, _, _ = post(connection, "/api/v1/telemetry", b'{"t": 1}', **{header: value})

        assert status == 200
        assert len(gateway.stored(device)) == 1

    async def test_the_answer_follows_the_commit(
        self, connection: http.client.HTTPConnection, gateway: Gateway, device: FleetDevice
    ) -> None:
        with gateway.locked():
            answer = asyncio.create_task(asyncio.to_thread(post, connection, telemetry(device), b'{"t": 1}'))
            await asyncio.sleep(0.5)
            assert not answer.done()
            assert gateway.stored(device) == []

        assert (await answer)[0] == 200
        assert len(gateway.stored(device)) == 1

    def test_a_body_in_chunks(
        self, connection: http.client.HTTPConnection, gateway: Gateway, device: FleetDevice
    ) -> None:
        connection.request("POST", telemetry(device), iter([b'{"t"', b": ", b"1}"]), encode_chunked=True)

        with connection.getresponse() as response:
            assert response.status == 200
        assert len(gateway.stored(device)) == 1


class TestRefusals:
    """Each has its status, one line in the log and a counter; nothing is stored, and nothing else suffers."""

    @pytest.mark.parametrize(
        ("path", "why"), [("/api/v1/unknown/telemetry", "unknown token"), ("/api/v1/telemetry", "no token")]
    )
    async def test_a_post_with_a_token_that_is_none_is_401(
        self, connection: http.client.HTTPConnection, watched: Watched, path: str, why: str
    ) -> None:
        status, headers, body = post(connection, path, b'{"t": 1}')

        assert (status, headers["www-authenticate"], json.loads(body)) == (401, "Bearer", {"error": why})
        line = await watched.line()
        assert why in line
        assert "from 127.0.0.1:" in line
        assert "/unknown" not in line
        assert watched.risen(f'gateway_device_logins_refused_total{{protocol="http",reason="{why}"}}') == 1

    async def test_400_for_what_is_no_telemetry(
        self, connection: http.client.HTTPConnection, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        status, headers, body = post(connection, telemetry(device), b"temperature=22")

        assert (status, headers["content-type"]) == (400, "application/json")
        assert json.loads(body)["error"].startswith("not JSON")
        line = await watched.line()
        assert f"refused what {device.name} ({device.pk}) sent" in line
        assert "http POST /api/v1/***/telemetry from 127.0.0.1:" in line
        assert "not JSON" in line
        assert watched.risen('gateway_payloads_refused_total{protocol="http",reason="payload"}') == 1
        self._goes_on(connection, gateway, device)

    async def test_413_for_a_body_that_is_too_large(
        self, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        large = b'{"t": 1}' + b" " * 262_144
        head = f"POST {telemetry(device)} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(large)}\r\n\r\n"

        assert await self._answer(gateway, head.encode() + large) == 413

        line = await watched.line()
        assert f"refused what {device.name} ({device.pk}) sent: http POST /api/v1/***/telemetry from 127.0.0.1:" in line
        assert "more than 262144 bytes" in line
        assert watched.risen("gateway_consumer_bodies_too_large_total") == 1
        assert watched.risen('gateway_payloads_refused_total{protocol="http",reason="too_large"}') == 1
        assert gateway.stored(device) == []

    @pytest.mark.parametrize(("token", "length", "status"), [("own", 262_145, 413), ("unknown", 5, 401)])
    async def test_what_the_head_decides_is_answered_before_the_body_is_sent_with_the_reason(
        self, gateway: Gateway, device: FleetDevice, token: str, length: int, status: int
    ) -> None:
        token = device.token if token == "own" else token
        head = f"POST /api/v1/{token}/telemetry HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        reader, writer = await asyncio.open_connection(gateway.host, gateway.http_port)
        writer.write(head.encode())

        async with asyncio.timeout(30):
            response = await reader.read()

        writer.close()
        answer, _, body = response.partition(b"\r\n\r\n")
        assert int(answer.split()[1]) == status
        assert b"content-type: application/json" in answer.lower()
        assert json.loads(body)["error"] == {413: "more than 262144 bytes", 401: "unknown token"}[status]

    async def test_413_for_one_that_is_far_too_large_before_it_is_sent(
        self, gateway: Gateway, device: FleetDevice, watched: Watched
    ) -> None:
        head = f"POST {telemetry(device)} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**9}\r\n\r\n"

        assert await self._answer(gateway, head.encode()) == 413

        assert f"refused what {device.name} ({device.pk}) sent" in await watched.line()

    @pytest.mark.parametrize(
        "request_without_its_end",
        [b"Content-Length: 100\r\n\r\n" + b'{"t": 1}', b"Transfer-Encoding: chunked\r\n\r\n8\r\n" + b'{"t": 1}\r\n'],
    )
    async def test_a_body_that_is_cut_short_stores_nothing(
        self, gateway: Gateway, device: FleetDevice, watched: Watched, request_without_its_end: bytes
    ) -> None:
        with socket.create_connection((gateway.host, gateway.http_port)) as raw:
            raw.sendall(f"POST {telemetry(device)} HTTP/1.1\r\nHost: x\r\n".encode() + request_without_its_end)
            await asyncio.sleep(0.1)

        assert "it left before the end of its request body" in await watched.line()
        assert watched.risen('gateway_http_aborted_total{reason="body_cut_short"}') == 1
        assert gateway.stored(device) == []

    async def test_400_for_what_is_no_http(self, gateway: Gateway, watched: Watched) -> None:
        assert await self._answer(gateway, b"\x16\x03\x01 hello\r\n\r\n") == 400

        assert "with 400" in await watched.line()
        assert sum(watched.risen(name) for name in gateway.counters() if "http_refused" in name) == 1

    def test_405_and_404_for_other_requests(
        self, connection: http.client.HTTPConnection, gateway: Gateway, device: FleetDevice
    ) -> None:
        for method, path, expected in (
            ("GET", telemetry(device), 405),
            ("POST", f"/api/v1/{device.token}/nonsense", 404),
            ("GET", "/api/v1/", 404),
        ):
            connection.request(method, path)
            with connection.getresponse() as response:
                assert response.status == expected
                response.read()
        self._goes_on(connection, gateway, device)

    async def test_a_device_that_leaves_before_the_answer_is_stored_all_the_same(
        self, gateway: Gateway, device: FleetDevice
    ) -> None:
        head = f"POST {telemetry(device)} HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n"
        with gateway.locked(), socket.create_connection((gateway.host, gateway.http_port)) as raw:
            raw.sendall(head.encode() + b'{"t": 1}')
            await asyncio.sleep(0.2)
            raw.close()
            await asyncio.sleep(0.2)

        await until(lambda: len(gateway.stored(device)) == 1, "the reading")

    def _goes_on(self, connection: http.client.HTTPConnection, gateway: Gateway, device: FleetDevice) -> None:
        """The connection lives, and its next reading is the only one that is stored."""
        assert post(connection, telemetry(device), b'{"good": 1}')[0] == 200
        assert [key for key, _, _ in gateway.stored(device)] == ["good"]

    async def _answer(self, gateway: Gateway, request: bytes) -> int:
        """The status of the answer to a request sent by hand, which the server then closes the connection on."""
        reader, writer = await asyncio.open_connection(gateway.host, gateway.http_port)
        writer.write(request)
        async with asyncio.timeout(30):
            response = await reader.read()
        writer.close()
        return int(response.split()[1])


class TestRevocation:
    def test_a_token_is_refused(
        self, connection: http.client.HTTPConnection, gateway: Gateway, device: FleetDevice
    ) -> None:
        assert post(connection, telemetry(device), b'{"t": 1}')[0] == 200
        new = gateway.serving.command("device", "rotate", device.name).stdout.strip()
        deadline = time.monotonic() + 30

        while post(connection, telemetry(device), b'{"t": 1}')[0] != 401:
            assert time.monotonic() < deadline
            time.sleep(0.05)

        assert post(connection, f"/api/v1/{new}/telemetry", b'{"t": 1}')[0] == 200


def test_no_token_is_in_the_log(gateway: Gateway, devices: Any) -> None:
    used = gateway.query("SELECT hint FROM gateway_devices_credential")
    assert used
    assert not any("/api/v1/" in line and "/api/v1/***" not in line for line in gateway.serving.log)
