"""The communicators: what a test can rely on."""

import asyncio
import gc
from typing import Any

import pytest

from gateway.testing import ApplicationCommunicator, HttpCommunicator, MqttCommunicator, WebsocketCommunicator
from protocols.asgi import Receive, Scope, Send


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        if event["type"] == "fail":
            raise ZeroDivisionError
        if event["type"] == "end":
            return
        await send({"type": "echo", "of": event["type"]})


async def test_a_time_out_leaves_the_application_running() -> None:
    async with ApplicationCommunicator(echo, {"type": "test"}) as communicator:
        with pytest.raises(TimeoutError, match=r"sent nothing within 0\.001 s"):
            await communicator.receive_output(timeout=0.001)
        with pytest.raises(TimeoutError, match=r"did not end within 0\.001 s"):
            await communicator.wait(timeout=0.001)
        await communicator.send_input({"type": "hello"})

        assert await communicator.receive_output() == {"type": "echo", "of": "hello"}


async def test_receive_nothing_says_whether_something_came_and_does_not_take_it() -> None:
    async with ApplicationCommunicator(echo, {"type": "test"}) as communicator:
        assert await communicator.receive_nothing(timeout=0.001)
        await communicator.send_input({"type": "hello"})
        assert not await communicator.receive_nothing(timeout=1)

        assert await communicator.receive_output() == {"type": "echo", "of": "hello"}


async def test_what_the_application_raises_is_raised_at_once() -> None:
    communicator = ApplicationCommunicator(echo, {"type": "test"})
    await communicator.send_input({"type": "fail"})
    with pytest.raises(ZeroDivisionError):
        await communicator.receive_output(timeout=60)


async def fail_in_a_block(fault_of_the_test: Exception | None = None) -> None:
    async with ApplicationCommunicator(echo, {"type": "test"}) as communicator:
        await communicator.send_input({"type": "fail"})
        await communicator.receive_nothing(timeout=0.01)
        if fault_of_the_test is not None:
            raise fault_of_the_test


async def test_what_the_application_raises_is_raised_at_the_end_of_the_block() -> None:
    with pytest.raises(ZeroDivisionError):
        await fail_in_a_block()


async def test_the_fault_of_the_test_itself_is_not_hidden() -> None:
    with pytest.raises(AssertionError, match="mine"):
        await fail_in_a_block(AssertionError("mine"))


async def test_an_application_that_has_ended_sends_nothing_more() -> None:
    async with ApplicationCommunicator(echo, {"type": "test"}) as communicator:
        await communicator.send_input({"type": "end"})
        with pytest.raises(TimeoutError, match="has ended"):
            await communicator.receive_output(timeout=60)


async def test_an_application_that_has_failed_takes_nothing_more() -> None:
    communicator = ApplicationCommunicator(echo, {"type": "test"})
    await communicator.send_input({"type": "fail"})
    await communicator.receive_nothing(timeout=60)
    with pytest.raises(ZeroDivisionError):
        await communicator.send_input({"type": "hello"})


async def test_stop_need_not_be_awaited() -> None:
    ended = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
        finally:
            ended.set()

    communicator = ApplicationCommunicator(application, {"type": "test"})
    assert await communicator.receive_nothing(timeout=0.001)
    communicator.stop()

    await asyncio.wait_for(ended.wait(), 30)
    communicator.stop()


async def test_stop_raises_what_an_application_that_has_ended_raised() -> None:
    communicator = ApplicationCommunicator(echo, {"type": "test"})
    await communicator.send_input({"type": "fail"})
    await communicator.receive_nothing(timeout=30)
    with pytest.raises(ZeroDivisionError):
        communicator.stop()

    await communicator.stop(exceptions=False)


@pytest.mark.parametrize("in_a_cycle", [False, True])
async def test_an_application_whose_communicator_is_forgotten_is_cancelled(in_a_cycle: bool) -> None:
    ended = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "begun"})
            await receive()
        except asyncio.CancelledError:
            ended.set()
            raise

    communicator = ApplicationCommunicator(application, {"type": "test"})
    await communicator.receive_output()
    if in_a_cycle:  # as the traceback of a test that has failed puts it into one
        vars(communicator)["itself"] = communicator
    del communicator
    gc.collect()

    await asyncio.wait_for(ended.wait(), 30)


async def test_no_task_is_left() -> None:
    before = asyncio.all_tasks()
    async with ApplicationCommunicator(echo, {"type": "test"}) as communicator:
        with pytest.raises(TimeoutError):
            await communicator.receive_output(timeout=0.001)

    assert asyncio.all_tasks() == before


def test_a_websocket_scope_has_the_path_unquoted_and_the_query_apart() -> None:
    headers, protocols = [(b"origin", b"http://x")], ["v1"]
    scope = WebsocketCommunicator(echo, "/caf%C3%A9/?a=b%20c", headers, protocols, spec_version="2.3").scope

    assert (scope["type"], scope["path"], scope["query_string"]) == ("websocket", "/café/", b"a=b%20c")
    assert (scope["headers"], scope["subprotocols"], scope["spec_version"]) == (headers, protocols, "2.3")


def test_a_path_is_text() -> None:
    with pytest.raises(TypeError, match="Expected str, got <class 'bytes'>"):
        WebsocketCommunicator(echo, b"/")  # type: ignore[arg-type]


def test_an_http_scope_has_the_method_in_capitals() -> None:
    scope = HttpCommunicator(echo, "post", "/a%20b?x=1", headers=[(b"host", b"h")]).scope

    assert (scope["type"], scope["method"], scope["path"]) == ("http", "POST", "/a b")
    assert (scope["query_string"], scope["headers"]) == (b"x=1", [(b"host", b"h")])


def test_an_mqtt_scope_is_that_of_the_contract_and_may_be_changed() -> None:
    scope = MqttCommunicator(echo, "c1", username="u", mqtt_version=4, keep_alive_s=5, state={"x": 1}).scope

    assert (scope["client_id"], scope["username"], scope["mqtt_version"]) == ("c1", "u", 4)
    assert (scope["keep_alive_s"], scope["state"], scope["will"]) == (5, {"x": 1}, None)
    assert "password" not in scope


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"type": "websocket.close"}, "Expected type 'websocket.send', but was 'websocket.close'"),
        ({"type": "websocket.send"}, "The response needs exactly one of 'text' or 'bytes'"),
        ({"type": "websocket.send", "text": "a", "bytes": b"b"}, "The response needs exactly one of"),
        ({"type": "websocket.send", "text": b"a"}, "Text frame payload is not str, it is <class 'bytes'>"),
        ({"type": "websocket.send", "bytes": "a"}, "Binary frame payload is not bytes, it is <class 'str'>"),
    ],
)
async def test_receive_from_says_what_is_wrong_with_a_frame(event: dict[str, Any], error: str) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(event)
        await receive()

    async with WebsocketCommunicator(application, "/") as client:
        with pytest.raises(AssertionError, match=error):
            await client.receive_from()


async def test_a_denial_response_is_a_refused_connection() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})

    async with WebsocketCommunicator(application, "/") as client:
        assert await client.connect() == (False, 401)


async def test_receive_json_from_wants_text() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.send", "bytes": b"{}"})
        await receive()

    async with WebsocketCommunicator(application, "/") as client:
        with pytest.raises(AssertionError, match="JSON data is not a text frame, it is <class 'bytes'>"):
            await client.receive_json_from()


async def test_send_to_takes_one_of_text_and_bytes() -> None:
    async with WebsocketCommunicator(echo, "/") as client:
        for arguments in ({}, {"text_data": "a", "bytes_data": b"b"}):
            with pytest.raises(AssertionError, match="exactly one of text_data or bytes_data"):
                await client.send_to(**arguments)  # type: ignore[arg-type]
