"""What strangers can have a gateway hold: bodies that they begin to send to a page."""

import contextlib
import re
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
CLIENTS = 60
BODY = 2_400_000


def in_hand(gateway: Serving) -> int:
    with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=30) as response:
        found = re.search(rb"^gateway_http_bytes_in_hand (\S+)$", response.read(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


@contextmanager
def begun(gateway: Serving, path: str, size: int) -> Iterator[list[bytes]]:
    """Many clients that have sent all of a body but its last byte; gives what each has been answered by then."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    with ExitStack() as open_ones:
        answers = []
        for _ in range(CLIENTS):
            client = open_ones.enter_context(socket.create_connection(("127.0.0.1", gateway.port("http"))))
            client.settimeout(30)
            with contextlib.suppress(OSError):  # it is not taken
                client.sendall(head.encode() + b"x" * (size - 1))
            client.settimeout(0.2)
            answer = b""
            with contextlib.suppress(OSError):
                answer = client.recv(65_536)
            answers.append(answer)
        yield answers


@pytest.mark.parametrize("path", ["/login/", "/", "/admin/login/"])
def test_one_address_holds_no_more_than_its_share_in_memory_and_nothing_on_disk(
    serve: Callable[..., Serving], tmp_path: Path, path: str
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    gateway = serve(TMPDIR=str(temporary)).ready()
    urllib.request.urlopen(f"{gateway.url}/login/", timeout=30).close()
    before = psutil.Process(gateway.process.pid).memory_info().rss

    with begun(gateway, path, BODY) as answers:
        held = in_hand(gateway)
        grown = psutil.Process(gateway.process.pid).memory_info().rss - before
        waiting = answers.count(b"")
        refused = [answer for answer in answers if answer]

        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in refused), refused
        assert waiting == 16 * MIB // BODY
        assert held == waiting * (BODY - 1)
        assert list(temporary.iterdir()) == []
        assert grown < 100 * MIB  # of 144 that were sent, 16 are held; the rest is what an allocator keeps
        with urllib.request.urlopen(f"{gateway.url}/login/", timeout=30) as page:  # the others go on
            assert page.status == 200

    while in_hand(gateway):
        pass  # each look is a request: until the connections are seen to be closed
