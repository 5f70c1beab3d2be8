"""HTTP as clients speak it that nobody here wrote: httpx, curl, and plain sockets."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocols.asgi import Receive, Scope, Send
from protocols.runner import ClientDisconnectedError
from tests.integration.http.serving import Events, certificate, echo, serving

Run = Callable[[Coroutine[Any, Any, None]], None]


async def curl(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--show-error", "--include", "--max-time", "10", *arguments,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode()


def test_a_client_keeps_its_connection_and_streams_both_ways(run: Run) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 16_384

    async def main() -> None:
        async with serving(echo) as server, httpx.AsyncClient(base_url=f"http://{server.addresses[0]}") as client:
            for _ in range(3):
                assert (await client.post("/", content=b"body")).text == "body"
            response = await client.put("/", content=pieces())
            assert response.content == b"x" * 64 * 16_384
            assert response.headers["x-method"] == "PUT"
            assert response.headers["transfer-encoding"] == "chunked"
            assert (await client.head("/")).content == b""

    run(main())


def test_curl_in_its_various_moods(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        body = tmp_path / "body"
        body.write_bytes(b"y" * 100_000)
        async with serving(echo) as server:
            url = f"http://{server.addresses[0]}/"
            output = await curl("--header", "Expect: 100-continue", "--data-binary", f"@{body}", url)
            assert output.startswith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
            assert output.endswith("y" * 100_000)

            output = await curl("--http1.0", "--data", "old", url)
            assert "x-version: 1.0" in output
            assert output.endswith("\r\n\r\nold")

            output = await curl("--http2", "--data", "upgrade?", url)
            assert output.startswith("HTTP/1.1 200 OK")

            output = await curl("--request-target", "http://elsewhere/x", url)
            assert output.startswith("HTTP/1.1 200 OK")

    run(main())


def test_a_large_body_that_is_refused_still_gets_its_answer(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        body = tmp_path / "body"
        body.write_bytes(b"z" * 3_000_000)
        async with serving(echo, max_body_bytes=1000) as server:
            output = await curl("--header", "Expect:", "--data-binary", f"@{body}", f"http://{server.addresses[0]}/")
            assert output.startswith("HTTP/1.1 413 ")

    run(main())


def send_all_then_read(address: str, tls: ssl.SSLContext | None, data: bytes) -> bytes:
    """What a simple client does: it looks for the answer only when it has sent all."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address.removeprefix("unix:"))
    else:
        connection = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
    connection.settimeout(10)
    if tls is not None:
        connection = tls.wrap_socket(connection, server_hostname="localhost")
    received = b""
    with connection:
        with contextlib.suppress(OSError):  # the rest is not taken
            connection.sendall(data)
        with contextlib.suppress(OSError):
            while part := connection.recv(65_536):
                received += part
    return received


@pytest.mark.parametrize("wire", ["tcp", "tls", "unix"])
@pytest.mark.parametrize("by", ["the server", "the application"])
def test_a_client_that_is_still_sending_its_body_gets_the_answer(run: Run, tmp_path: Path, wire: str, by: str) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        if by == "the server":
            await receive()
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    async def main() -> None:
        options: dict[str, Any] = {"max_body_bytes": 1000} if by == "the server" else {}
        trusted = None
        if wire == "tls":
            options["tls"] = certificate(tmp_path)
            trusted = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        if wire == "unix":
            options["bind"] = f"unix:{tmp_path}/socket"
        size = 2_500_000
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
        async with serving(refuse, **options) as server:
            answer = await asyncio.to_thread(send_all_then_read, server.addresses[0], trusted, head + bytes(size))
            assert answer.startswith(b"HTTP/1.1 413 " if by == "the server" else b"HTTP/1.1 401 "), answer

    run(main())


def test_a_unix_socket(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(echo, bind=f"unix:{tmp_path}/socket") as server:
            assert server.addresses == [f"unix:{tmp_path}/socket"]
            output = await curl("--unix-socket", f"{tmp_path}/socket", "--data", "hi", "http://any/")
            assert output.endswith("\r\n\r\nhi")

    run(main())


def test_tls(run: Run, tmp_path: Path) -> None:
    scopes: list[Scope] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    async def main() -> None:
        trusted = ssl.create_default_context(cafile=None)
        context = certificate(tmp_path)
        trusted.load_verify_locations(tmp_path / "cert.pem")
        async with serving(application, tls=context) as server, httpx.AsyncClient(verify=trusted) as client:
            url = f"https://localhost:{server.addresses[0].rpartition(':')[2]}/"
            assert (await client.post(url, content=b"s")).text == "s"

    run(main())
    assert scopes[0]["scheme"] == "https"
    assert scopes[0]["extensions"]["tls"]["tls_version"] == 0x0304


def test_events_arrive_as_they_are_sent_and_a_client_that_leaves_is_noticed_at_once(run: Run) -> None:
    async def main() -> None:
        events = Events()
        async with serving(events) as server:
            reader, writer = await asyncio.open_connection(*server.addresses[0].split(":"))
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b": hello\n\n\r\n")
            for number in range(3):
                await events.publish(b"data: %d\n\n" % number)
                assert await reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number

            writer.close()
            assert await asyncio.wait_for(events.disconnects.get(), 1) == {"type": "http.disconnect"}
            with pytest.raises(ClientDisconnectedError):
                await events.publish(b"late")

    run(main())


def read_to_the_end(client: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(1_000_000):
            data = piece
    return data


def test_a_client_that_reads_nothing_costs_a_bounded_amount_and_is_cut_off(run: Run) -> None:
    async def main() -> None:
        sent = 0

        async def flood(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal sent
            await send({"type": "http.response.start", "status": 200})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
                sent += 10_000

        async with serving(flood, write_timeout_s=0.4) as server:
            with socket.create_connection(server.addresses[0].split(":")) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await asyncio.sleep(0.2)
                sent_early = sent
                await asyncio.sleep(0.1)
                assert sent == sent_early
                assert 0 < sent < 16_000_000  # what the kernel's buffers hold, and not more than 200 kB of ours
                await asyncio.sleep(0.6)
                assert not read_to_the_end(client).endswith(b"0\r\n\r\n")

    run(main())


def test_a_client_that_sends_its_head_byte_by_byte_is_cut_off(run: Run) -> None:
    async def main() -> None:
        async with serving(echo, head_timeout_s=0.3) as server:
            reader, writer = await asyncio.open_connection(*server.addresses[0].split(":"))
            answer = asyncio.create_task(reader.read())
            for byte in b"GET / HTTP/1.1\r\nHost: x":
                if answer.done():
                    break
                writer.write(bytes((byte,)))
                await asyncio.sleep(0.05)
            assert (await answer).startswith(b"HTTP/1.1 408 ")
            writer.close()

    run(main())


def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    async def main() -> None:
        async with serving(echo) as server:
            reader, writer = await asyncio.open_connection(*server.addresses[0].split(":"))
            count = 3000
            for number in range(count):
                body = b"%d" % number
                writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            bodies = [part.rpartition(b"\r\n\r\n")[2] for part in (await reader.read()).split(b"HTTP/1.1 200 OK")]
            assert [int(body) for body in bodies if body] == list(range(count))
            writer.close()

    run(main())


def test_a_response_under_way_ends_before_the_server_does(run: Run) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        begun = asyncio.Event()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await gate.wait()
            await echo(scope, receive, send)

        async with serving(application) as server, httpx.AsyncClient() as client:
            asking = asyncio.create_task(client.post(f"http://{server.addresses[0]}/", content=b"x"))
            await begun.wait()
            closing = asyncio.create_task(server.close())
            await asyncio.sleep(0.1)
            assert not closing.done()
            gate.set()
            assert (await asking).text == "x"
            await closing

    run(main())
