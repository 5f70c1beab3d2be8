"""What one address can make a gateway log: a few lines of each kind, whatever it sends, and how often."""

import socket
from collections.abc import Iterator

import pytest

from protocols.log_lines import LINES_AT_ONCE
from protocols.mqtt.codec.decoder import encode
from protocols.mqtt.codec.packets import Connect
from tests.integration.devices.conftest import Gateway, running
from tests.support.waiting import until

TIMES = 150
NO_TOKEN = "x" * 32


def request(line: str, *headers: str, body: str = "") -> bytes:
    return "\r\n".join((line, "Host: localhost", "Connection: close", *headers, "", body)).encode()


FLOODS = {
    "an unknown token, MQTT": ("mqtt", encode(Connect(version=4, client_id="c", username=NO_TOKEN), 4)),
    "an unknown token, MQTT 5": ("mqtt", encode(Connect(version=5, client_id="c", username=NO_TOKEN), 5)),
    "no MQTT": ("mqtt", b"GET / HTTP/1.1\r\n\r\n"),
    "a malformed CONNECT": ("mqtt", b"\x10\x02\x00\x09"),
    "a version that there is not": ("mqtt", b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x01c"),
    "an unknown token, HTTP": (
        "http",
        request(f"POST /api/v1/{NO_TOKEN}/telemetry HTTP/1.1", "Content-Length: 7", body='{"a":1}'),
    ),
    "no HTTP": ("http", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "a malformed request": ("http", b"GET / x HTTP/1.1\r\n\r\n"),
    "a target that is too long": ("http", request(f"GET /{'x' * 9_000} HTTP/1.1")),
    "another host": ("http", b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n"),
    "a WebSocket handshake that is none": (
        "http",
        request("GET /ws/device/ HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade"),
    ),
    "an unknown token, WebSocket": (
        "http",
        request(
            "GET /ws/device/ HTTP/1.1",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            f"Authorization: Bearer {NO_TOKEN}",
        ),
    ),
}
"""Where it is sent, and what."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One that answers failed logins at once."""
    with running(tmp_path_factory.mktemp("gateway"), "--set", "devices.max_failed_logins=0") as gateway:
        yield gateway


@pytest.mark.parametrize("name", FLOODS)
async def test_whatever_strangers_send_is_a_few_lines_in_the_log(name: str, gateway: Gateway) -> None:
    scheme, data = FLOODS[name]
    port = gateway.serving.port(scheme)
    before = len(gateway.serving.log)
    address = f"127.0.0.{2 + list(FLOODS).index(name)}"

    for _ in range(TIMES):
        with socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(address, 0)) as connection:
            connection.sendall(data)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionError:
                pass

    await until(lambda: len(gateway.serving.log) > before, "a line")
    # of each kind, and some kinds have two: what the server says and what the application does; then one in 10 s
    assert len(gateway.serving.log) - before < 4 * LINES_AT_ONCE, gateway.serving.log[before:]
