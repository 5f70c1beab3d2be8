"""Token authentication: gateway.token_auth, with consumers on our inbox and on a plain `receive`."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.urls import path

from gateway.generic.http import AsyncHttpConsumer
from gateway.generic.mqtt import AsyncMqttConsumer
from gateway.generic.websocket import AsyncWebsocketConsumer
from gateway.routing import ProtocolTypeRouter, URLRouter
from gateway.testing import HttpCommunicator, MqttCommunicator, WebsocketCommunicator
from gateway.token_auth import HideQueryParameter, TokenAuthMiddleware, TokenUser
from protocols.asgi import Application, Event, Receive, Scope, Send

SOON_S = 0.25

ended: list[Any] = []


class Greeter(AsyncWebsocketConsumer):
    """Says who the user is; renews by a frame that names the token."""

    channel_layer_alias = "none"

    async def connect(self) -> None:
        await self.accept()
        await self.send(f"hello {self.scope['user']}")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(f"renewed {await self.scope['auth'].renew(text_data)}")

    async def disconnect(self, code: int) -> None:
        ended.append(code)


class Whoami(AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        await self.send_response(200, f"{self.scope['user']} {self.scope['query_string'].decode()}".encode())


class Stream(AsyncHttpConsumer):
    disconnect_grace_s = 0.01

    async def handle(self, body: bytes) -> None:
        await self.send_headers(headers=[(b"content-type", b"text/event-stream")])
        while True:
            await self.send_body(b"tick\n", more_body=True)
            await asyncio.sleep(0.01)

    async def disconnect(self) -> None:
        ended.append("stream")


class Meter(AsyncMqttConsumer):
    async def connect(self, password: bytes | None) -> None:
        assert password is None
        assert self.scope["username"] in (None, "meter-1")
        await self.accept()

    async def receive_publish(self, topic: str, payload: bytes, **kwargs: Any) -> None:
        assert payload == str(self.scope["user"]).encode()

    async def disconnect(self, reason_code: int, reason: str) -> None:
        ended.append((reason_code, reason))


async def get_token_user(token: str) -> Any:
    match token:
        case "ann-soon":
            return TokenUser("ann", time.time() + SOON_S)
        case "ann-past":
            return TokenUser("ann", datetime(2020, 1, 1, tzinfo=UTC))
        case "ann" | "bob":
            return token
    return None


application = ProtocolTypeRouter(
    {
        "websocket": Greeter.as_asgi(),
        "http": URLRouter([path("stream", Stream.as_asgi()), path("", Whoami.as_asgi())]),
        "mqtt": Meter.as_asgi(),
    }
)


@pytest.fixture(autouse=True)
def _nothing_ended_yet() -> None:
    ended.clear()


@pytest.fixture(params=["our server", "foreign server"])
def protect(request: pytest.FixtureRequest) -> Callable[..., Application]:
    """Wraps the application in the middleware; on a foreign server `receive` is not that of an inbox."""

    def protected(**options: Any) -> Application:
        middleware = TokenAuthMiddleware(application, get_token_user, **options)
        if request.param == "our server":
            return middleware

        async def served(scope: Scope, receive: Receive, send: Send) -> None:
            async def foreign_receive() -> Event:
                return await receive()

            await middleware(scope, foreign_receive, send)

        return served

    return protected


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"bearer " + token.encode())]


class TestWebSocket:
    async def test_the_token_may_be_in_the_header(self, protect: Callable[..., Application]) -> None:
        async with WebsocketCommunicator(protect(), "/", headers=bearer("ann")) as client:
            assert await client.connect() == (True, None)
            assert await client.receive_from() == "hello ann"

    async def test_the_token_may_be_the_subprotocol_after_bearer_which_is_chosen(
        self, protect: Callable[..., Application]
    ) -> None:
        async with WebsocketCommunicator(protect(), "/", subprotocols=["bearer", "ann", "chat"]) as client:
            assert await client.connect() == (True, "bearer")
            assert await client.receive_from() == "hello ann"

    async def test_the_application_sees_the_other_subprotocols_and_may_choose_one(self) -> None:
        async def chooses(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})

        protected = TokenAuthMiddleware(chooses, get_token_user)
        client = WebsocketCommunicator(protected, "/", subprotocols=["bearer", "ann", "chat"])
        assert await client.connect() == (True, "chat")
        await client.wait()

    async def test_the_token_may_be_the_first_message(self, protect: Callable[..., Application]) -> None:
        async with WebsocketCommunicator(protect(sources=["first_message"]), "/") as client:
            assert await client.connect() == (True, None)
            await client.send_json_to({"token": "ann"})
            assert await client.receive_from() == "hello ann"

        assert ended == [1000]

    @pytest.mark.parametrize("text", ['{"token": "wrong"}', '{"token": 1}', "[]", "{", ""])
    async def test_another_first_message_closes_with_4401(self, protect: Callable[..., Application], text: str) -> None:
        client = WebsocketCommunicator(protect(sources=["first_message"]), "/")
        await client.connect()
        await client.send_to(text_data=text)

        assert (await client.receive_output())["code"] == 4401
        await client.wait()
        assert ended == []

    async def test_no_first_message_in_time_closes_with_4401(self, protect: Callable[..., Application]) -> None:
        client = WebsocketCommunicator(protect(sources=["first_message"], first_message_timeout_s=0.01), "/")
        await client.connect()

        assert (await client.receive_output())["code"] == 4401
        await client.wait()

    async def test_a_client_may_leave_before_its_first_message(self, protect: Callable[..., Application]) -> None:
        client = WebsocketCommunicator(protect(sources=["first_message"]), "/")
        await client.connect()
        await client.disconnect()
        assert ended == []

    async def test_a_program_without_a_valid_token_is_answered_401(self, protect: Callable[..., Application]) -> None:
        for headers in ([], bearer("wrong"), bearer("ann-past"), bearer("")):
            client = WebsocketCommunicator(protect(), "/", headers=headers)
            client.scope["extensions"] = {"websocket.http.response": {}}
            assert await client.connect() == (False, 401)

            client = WebsocketCommunicator(protect(), "/", headers=headers)
            assert await client.connect() == (False, 4401)

    async def test_a_browser_with_a_wrong_token_is_closed_with_a_code_that_it_can_see(
        self, protect: Callable[..., Application]
    ) -> None:
        client = WebsocketCommunicator(protect(), "/", subprotocols=["bearer", "wrong"])
        assert await client.connect() == (True, "bearer")
        assert (await client.receive_output())["code"] == 4401
        await client.wait()

    async def test_a_token_that_expires_closes_with_4401(
        self, protect: Callable[..., Application], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "gateway.auth")
        client = WebsocketCommunicator(protect(), "/secret-free", headers=bearer("ann-soon"))
        await client.connect()
        await client.receive_from()

        assert (await client.receive_output())["code"] == 4401
        await client.disconnect(4401)

        assert ended == [4401]
        assert [record.getMessage() for record in caplog.records] == [
            "closed websocket /secret-free: its token has expired"
        ]

    async def test_the_client_may_go_on_with_a_new_token_of_the_same_user(
        self, protect: Callable[..., Application]
    ) -> None:
        async with WebsocketCommunicator(protect(), "/", headers=bearer("ann-soon")) as client:
            await client.connect()
            await client.receive_from()
            for token, renewed in (("bob", False), ("wrong", False), ("ann", True)):
                await client.send_to(token)
                assert await client.receive_from() == f"renewed {renewed}"

            assert await client.receive_nothing(timeout=SOON_S * 1.5)


class TestQueryParameter:
    async def test_the_query_string_is_not_looked_at_unless_a_parameter_is_named(
        self, protect: Callable[..., Application]
    ) -> None:
        response = await HttpCommunicator(protect(), "GET", "/?token=ann").get_response()
        assert response["status"] == 401

    async def test_the_token_is_taken_out_of_the_query_string(self, protect: Callable[..., Application]) -> None:
        client = HttpCommunicator(protect(query_parameter="token"), "GET", "/?a=%20b&token=ann&c")
        assert (await client.get_response())["body"] == b"ann a=%20b&c"

    def test_the_access_log_of_another_server_can_be_made_to_hide_it(self) -> None:
        masks = HideQueryParameter("token")
        record = logging.LogRecord(
            "uvicorn.access", 20, "", 0, '%s "%s" %d', ("127.0.0.1", "/ws?a=1&token=s3cret&b", 200), None
        )
        assert masks.filter(record)
        assert record.getMessage() == '127.0.0.1 "/ws?a=1&token=***&b" 200'
        record = logging.LogRecord("daphne", 20, "", 0, "GET /?token=s3cret HTTP/1.1", None, None)
        masks.filter(record)
        assert record.getMessage() == "GET /?token=*** HTTP/1.1"


class TestHttp:
    async def test_the_token_is_in_the_header(self, protect: Callable[..., Application]) -> None:
        response = await HttpCommunicator(protect(), "GET", "/?x=1", headers=bearer("ann")).get_response()
        assert (response["status"], response["body"]) == (200, b"ann x=1")

    @pytest.mark.parametrize(
        ("headers", "challenge"),
        [
            ([], b"Bearer"),
            ([(b"authorization", b"Basic YW5uOg==")], b"Bearer"),
            (bearer("wrong"), b'Bearer error="invalid_token"'),
            (bearer("ann-past"), b'Bearer error="invalid_token"'),
        ],
    )
    async def test_others_are_answered_401(
        self, protect: Callable[..., Application], headers: list[tuple[bytes, bytes]], challenge: bytes
    ) -> None:
        response = await HttpCommunicator(protect(), "GET", "/", headers=headers).get_response()
        assert response["status"] == 401
        assert (b"www-authenticate", challenge) in response["headers"]

    async def test_a_stream_ends_when_the_token_expires(self, protect: Callable[..., Application]) -> None:
        client = HttpCommunicator(protect(), "GET", "/stream", headers=bearer("ann-soon"))
        response = await client.get_response()
        await client.disconnect()

        assert response["body"].startswith(b"tick\n")
        assert ended == ["stream"]


class TestMqtt:
    @pytest.mark.parametrize(
        "credentials", [{"username": "ann"}, {"username": "meter-1", "password": b"ann"}, {"password": b"ann"}]
    )
    async def test_the_token_is_the_password_or_the_username(
        self, protect: Callable[..., Application], credentials: dict[str, Any]
    ) -> None:
        async with MqttCommunicator(protect(), **credentials) as client:
            assert await client.connect() == (True, 0)
            assert await client.publish("t", b"ann") == 0

        assert ended == [(0, "client")]

    @pytest.mark.parametrize(
        ("credentials", "code"),
        [({}, 0x87), ({"username": "wrong"}, 0x86), ({"username": "ann", "password": b"\xff"}, 0x86)],
    )
    async def test_others_are_rejected(
        self, protect: Callable[..., Application], credentials: dict[str, Any], code: int
    ) -> None:
        client = MqttCommunicator(protect(), **credentials)
        assert await client.connect() == (False, code)

    async def test_a_token_that_expires_disconnects_with_0x87(self, protect: Callable[..., Application]) -> None:
        async with MqttCommunicator(protect(), username="ann-soon") as client:
            await client.connect()
            event = await client.receive_output()
            assert (event["type"], event["reason_code"]) == ("mqtt.close", 0x87)


async def test_without_a_token_one_may_be_anonymous_where_none_is_required(
    protect: Callable[..., Application],
) -> None:
    response = await HttpCommunicator(protect(required=False), "GET", "/").get_response()
    assert response["body"] == b"AnonymousUser "
    response = await HttpCommunicator(protect(required=False), "GET", "/", headers=bearer("wrong")).get_response()
    assert response["status"] == 401
    async with WebsocketCommunicator(protect(required=False), "/") as client:
        await client.connect()
        assert await client.receive_from() == "hello AnonymousUser"


async def test_scopes_that_no_client_opened_go_through() -> None:
    seen = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    await TokenAuthMiddleware(inner, get_token_user)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_an_unknown_source_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="sources are of first_message, header, mqtt, subprotocol, not cookie"):
        TokenAuthMiddleware(application, get_token_user, sources=["cookie"])
