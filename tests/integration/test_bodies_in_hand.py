"""What strangers can have a gateway hold: bodies that they begin to send, to a page or to the device API."""

import contextlib
import re
import select
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.serving import Serving, serve

__all__ = ["serve"]

MIB = 1024 * 1024
CLIENTS = 40
BODY = 2_400_000
SHARE = 16 * MIB // BODY
"""How many of them have room in the share of one address."""


def in_hand(gateway: Serving) -> int:
    with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=30) as response:
        found = re.search(rb"^gateway_http_bytes_in_hand (\S+)$", response.read(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def becomes(gateway: Serving, size: int) -> bool:
    """Whether so many bytes are in hand, as soon as all that was sent is read. Each look is a request."""
    return any(in_hand(gateway) == size for _ in range(1000))


@contextmanager
def begun(gateway: Serving, path: str, size: int, *, answered: int) -> Iterator[list[bytes]]:
    """Many clients that have sent all of a body but its last byte; what those were answered that were, which are waited
    for."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    with ExitStack() as open_ones:
        clients = []
        for _ in range(CLIENTS):
            client = open_ones.enter_context(socket.create_connection(("127.0.0.1", gateway.port("http"))))
            client.settimeout(30)
            with contextlib.suppress(OSError):  # it is not taken
                client.sendall(head.encode() + b"x" * (size - 1))
            clients.append(client)
        readable: list[socket.socket] = []
        while len(readable) < answered:
            readable, *_ = select.select(clients, [], [], 30)
            assert readable, "nobody is answered"
        yield [client.recv(65_536) for client in readable]


@pytest.mark.parametrize("path", ["/login/", "/", "/admin/login/"])
def test_one_address_holds_no_more_than_its_share_in_memory_and_nothing_on_disk(
    serve: Callable[..., Serving], tmp_path: Path, path: str
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    gateway = serve("--set", "listeners.0.body_timeout_s=300", TMPDIR=str(temporary)).ready()
    urllib.request.urlopen(f"{gateway.url}/login/", timeout=30).close()
    before = psutil.Process(gateway.process.pid).memory_info().rss

    with begun(gateway, path, BODY, answered=CLIENTS - SHARE) as answers:
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers), answers
        assert len(answers) == CLIENTS - SHARE
        assert becomes(gateway, SHARE * (BODY - 1))
        grown = psutil.Process(gateway.process.pid).memory_info().rss - before
        assert list(temporary.iterdir()) == []
        assert grown < 60 * MIB  # of 90 that were sent, 14 are held; the rest is what an allocator keeps
        with urllib.request.urlopen(f"{gateway.url}/login/", timeout=30) as page:  # the others go on
            assert page.status == 200

    assert becomes(gateway, 0)


def test_the_device_api_holds_no_body_of_a_stranger(serve: Callable[..., Serving]) -> None:
    gateway = serve().ready()

    with begun(gateway, "/api/v1/0123456789abcdefghij/telemetry", 250_000, answered=CLIENTS) as answers:
        assert all(answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 429 ")) for answer in answers), answers
        assert in_hand(gateway) == 0
