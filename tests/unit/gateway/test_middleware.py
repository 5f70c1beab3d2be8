"""The limit that `runserver --http_timeout` sets."""

import asyncio

import pytest

from gateway.middleware import HttpTimeout
from gateway.testing import ApplicationCommunicator, HttpCommunicator
from protocols.asgi import Receive, Scope, Send

START = {"type": "http.response.start", "status": 200, "headers": []}


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def test_a_response_that_does_not_begin_is_a_503() -> None:
    response = await HttpCommunicator(HttpTimeout(never, 0.001), "GET", "/").get_response()
    assert response["status"] == 503


async def test_one_that_has_begun_is_left_to_the_server_to_cut_off() -> None:
    async def stalls(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await never(scope, receive, send)

    client = HttpCommunicator(HttpTimeout(stalls, 0.001), "GET", "/")
    await client.send_request()
    assert (await client.receive_output())["status"] == 200
    with pytest.raises(TimeoutError):
        await client.wait()


async def test_a_time_out_of_the_application_itself_is_its_own() -> None:
    async def raises(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError("mine")

    client = HttpCommunicator(HttpTimeout(raises, 60), "GET", "/")
    with pytest.raises(TimeoutError, match="mine"):
        await client.get_response()


async def test_other_connections_have_no_limit() -> None:
    async with ApplicationCommunicator(HttpTimeout(never, 0.001), {"type": "websocket"}) as client:
        assert await client.receive_nothing(timeout=0.02)
