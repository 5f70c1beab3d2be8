"""WebSockets as clients speak them that nobody here wrote: websockets and aiohttp."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets
from websockets.asyncio.client import connect

from protocols.asgi import Receive, Scope, Send
from tests.integration.http.serving import certificate, echo, serving

Run = Callable[[Coroutine[Any, Any, None]], None]


def test_the_websockets_library(run: Run) -> None:
    async def main() -> None:
        async with serving(echo) as server:
            async with connect(f"ws://{server.addresses[0]}/", subprotocols=["a", "b"]) as client:  # type: ignore[list-item]
                assert client.subprotocol == "b"
                assert client.protocol.extensions == []
                for message in ("text", "grün", "", b"", b"\x00" * 70_000, "x" * 900_000):
                    await client.send(message)
                    assert await client.recv() == message
                await client.send(["frag", "ment", "ed"])
                assert await client.recv() == "fragmented"
                await asyncio.wait_for(await client.ping(), 1)
            assert client.close_code == 1000

    run(main())


def test_a_websocket_works_over_tls(run: Run, tmp_path: Path) -> None:
    schemes: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        schemes.append(scope["scheme"])
        await echo(scope, receive, send)

    async def main() -> None:
        context = certificate(tmp_path)
        trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        async with serving(application, tls=context, websocket_max_message_bytes=300_000) as server:
            url = f"wss://localhost:{server.addresses[0].rpartition(':')[2]}/"
            async with connect(url, ssl=trusted) as client:
                await client.send("x" * 200_000)
                assert await client.recv() == "x" * 200_000
                await client.send("x" * 400_000)
                with pytest.raises(websockets.ConnectionClosedError):
                    await client.recv()
                assert client.close_code == 1009

    run(main())
    assert schemes == ["wss"]


def test_the_aiohttp_client(run: Run) -> None:
    async def main() -> None:
        async with (
            serving(echo) as server,
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://{server.addresses[0]}/", compress=15) as client,
        ):
            await client.send_str("text")
            assert await client.receive_str() == "text"
            await client.send_bytes(b"bytes")
            assert await client.receive_bytes() == b"bytes"
            await client.close(code=4000, message=b"bye")
            assert client.close_code == 4000

    run(main())


def test_a_message_over_the_limit_is_1009(run: Run) -> None:
    async def main() -> None:
        async with (
            serving(echo, websocket_max_message_bytes=1000) as server,
            connect(f"ws://{server.addresses[0]}/") as client,
        ):
            await client.send("x" * 1000)
            assert await client.recv() == "x" * 1000
            await client.send("x" * 1_000_000)
            with pytest.raises(websockets.ConnectionClosedError):
                await client.recv()
            assert client.close_code == 1009

    run(main())


def test_the_application_can_refuse_with_a_response_of_its_own(run: Run) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"because")]})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    async def main() -> None:
        async with serving(application) as server:
            with pytest.raises(websockets.InvalidStatus) as caught:
                await connect(f"ws://{server.addresses[0]}/")
            assert caught.value.response.status_code == 401
            assert caught.value.response.headers["x-why"] == "because"
            assert caught.value.response.body == b"no"

    run(main())


def test_pings_keep_a_silent_client(run: Run) -> None:
    async def main() -> None:
        async with (
            serving(echo, websocket_ping_interval_s=0.1, websocket_ping_timeout_s=0.3) as server,
            connect(f"ws://{server.addresses[0]}/", ping_interval=None) as client,
        ):
            await asyncio.sleep(0.8)
            await client.send("still here")
            assert await client.recv() == "still here"

    run(main())


def test_a_thousand_messages_each_way_at_once(run: Run) -> None:
    async def main() -> None:
        async with serving(echo) as server, connect(f"ws://{server.addresses[0]}/", max_queue=None) as client:
            for number in range(1000):
                await client.send(str(number) * 50)
            assert [await client.recv() for _ in range(1000)] == [str(number) * 50 for number in range(1000)]

    run(main())


def test_closing_the_server_tells_clients_to_come_back(run: Run) -> None:
    ended: list[Any] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, _recording(receive, ended), send)

    async def main() -> None:
        async with serving(application) as server:
            clients = [await connect(f"ws://{server.addresses[0]}/") for _ in range(20)]
        for client in clients:
            with pytest.raises(websockets.ConnectionClosedError):
                await client.recv()
            assert client.close_code == 1012

    run(main())
    assert [event["code"] for event in ended] == [1012] * 20


def _recording(receive: Receive, ended: list[Any]) -> Receive:
    async def recording() -> Any:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            ended.append(event)
        return event

    return recording
