"""amqtt's broker as a protocol server: Paho is the client, the application the authority."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from amqtt.plugins.base import BaseAuthPlugin, BasePlugin

from protocols.amqtt.options import AmqttOptions
from protocols.amqtt.server import AmqttServer
from protocols.asgi import Application, Event, Receive, Scope, Send
from protocols.server import Listener
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.paho_client import PahoClient
from tests.support.fleet import add_devices
from tests.support.serving import Serving
from tests.support.waiting import DEADLINE_S, until

Address: TypeAlias = tuple[str, int]
ServeAmqtt: TypeAlias = Callable[..., Awaitable[Address]]
Connect: TypeAlias = Callable[..., Awaitable[PahoClient]]


@pytest.fixture
async def serve_amqtt() -> AsyncIterator[ServeAmqtt]:
    """Starts a server for an application, with the listener options given; returns its address."""
    servers: list[AmqttServer] = []

    async def start(application: Application, **options: Any) -> Address:
        server = AmqttServer(
            application, [Listener(bind="127.0.0.1:0", options=AmqttOptions(**options))], state={"shared": 1}
        )
        servers.append(server)
        await server.start()
        host, _, port = server.addresses[0].rpartition(":")
        return host, int(port)

    yield start
    for server in servers:
        async with asyncio.timeout(30):
            await server.close()


@pytest.fixture
def application() -> AcceptEverything:
    return AcceptEverything()


@pytest.fixture
async def address(serve_amqtt: ServeAmqtt, application: AcceptEverything) -> Address:
    return await serve_amqtt(application)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    clients: list[PahoClient] = []

    async def connect_one(address: Address, client_id: str, *, code: int = 0, **options: Any) -> PahoClient:
        client = PahoClient(address, client_id, 4, **options)
        clients.append(client)
        assert (await client.connect())[1] == code
        return client

    yield connect_one
    for client in clients:
        await client.disconnect()


class Refusing(AcceptEverything):
    """Refuses who is called so, filters that begin with "secret" and payloads that say so."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["client_id"] == "refused":
            await receive()
            await send({"type": "mqtt.reject", "reason_code": 0x86, "log_reason": "sensor-7 is disabled"})
            await receive()
            return

        async def careful(event: Event) -> None:
            if event["type"] == "mqtt.ack" and self._secret:
                event = {**event, "reason_codes": [0x87]}
            await send(event)

        async def noting() -> Event:
            event = await receive()
            filters = [one["topic_filter"] for one in event.get("subscriptions", ())]
            self._secret = any(name.startswith("secret") for name in filters)
            return event

        await super().__call__(scope, noting, careful)

    _secret = False

    async def publish(self, event: Event, send: Send) -> None:
        payload = event["payload"]
        code = 0x87 if payload in (b"refuse me", b"drop me") else 0
        ack = {"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_code": code, "drop": payload == b"drop me"}
        await send({**ack, "route": payload != b"keep me"})


async def test_the_scope_and_the_events_are_those_of_every_mqtt_server(
    address: Address, application: AcceptEverything, connect: Connect
) -> None:
    client = await connect(
        address, "sensor", clean=False, username="user", password="secret", will=("gone", b"bye", 1, True)
    )
    await client.subscribe("a/+", 1)
    await client.publish("a/b", b"21.5", 1, retain=True)
    await client.unsubscribe("a/+")
    await client.disconnect()

    await until(lambda: application.seen("mqtt.disconnect", "sensor"), "the end")
    (scope,) = application.scopes
    assert scope["mqtt_version"] == 4
    assert (scope["username"], scope["clean_start"], scope["scheme"]) == ("user", False, "mqtt")
    assert scope["will"] == {"topic": "gone", "payload": b"bye", "qos": 1, "retain": True, "properties": {}}
    assert scope["server"] == address
    assert scope["state"] == {"shared": 1}
    events = {event["type"]: event for _, event in application.events}
    assert list(events) == [
        "mqtt.connect",
        "mqtt.subscribe",
        "mqtt.publish",
        "mqtt.unsubscribe",
        "mqtt.disconnect",
    ]
    assert events["mqtt.connect"]["password"] == b"secret"
    assert events["mqtt.subscribe"]["subscriptions"][0]["topic_filter"] == "a/+"
    publish = events["mqtt.publish"]
    assert (publish["topic"], publish["payload"], publish["qos"], publish["retain"]) == ("a/b", b"21.5", 1, True)
    assert events["mqtt.unsubscribe"]["topic_filters"] == ["a/+"]


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_goes_from_client_to_client(address: Address, connect: Connect, qos: int) -> None:
    subscriber = await connect(address, "subscriber")
    await subscriber.subscribe("a/#", qos)
    publisher = await connect(address, "publisher")

    await publisher.publish("a/b", b"21.5", qos)

    message = await subscriber.message()
    assert (message.topic, message.payload, message.qos) == ("a/b", b"21.5", qos)


class TestTheApplicationIsTheAuthority:
    async def test_a_client_that_it_rejects_is_not_authorised(
        self, serve_amqtt: ServeAmqtt, connect: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "gateway.amqtt")
        address = await serve_amqtt(Refusing())

        client = PahoClient(address, "refused", 4)
        _, code = await client.connect()

        assert code.getName() == "Not authorized"
        assert "refused refused: application, 0x86 sensor-7 is disabled" in caplog.messages
        await client.disconnect()

    async def test_a_filter_that_it_refuses_is_refused(self, serve_amqtt: ServeAmqtt, connect: Connect) -> None:
        client = await connect(await serve_amqtt(Refusing()), "client")

        assert [code.value for code in await client.subscribe("secret/#", 1)] == [0x80]
        assert [code.value for code in await client.subscribe("public/#", 1)] == [1]

    async def test_a_filter_whose_retained_messages_it_wants_to_be_asked_about_is_refused(
        self, serve_amqtt: ServeAmqtt, connect: Connect
    ) -> None:
        class Checking(AcceptEverything):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                async def checking(event: Event) -> None:
                    await send({**event, "check_retained": True})

                await super().__call__(scope, receive, checking)

        client = await connect(await serve_amqtt(Checking()), "client")

        assert [code.value for code in await client.subscribe("public/#", 1)] == [0x80]

    async def test_a_message_that_it_refuses_ends_the_connection(
        self, serve_amqtt: ServeAmqtt, connect: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        """amqtt has acknowledged it by then; that it was refused, the client is at least to notice."""
        publisher = await connect(await serve_amqtt(Refusing()), "publisher")

        await publisher.publish("a", b"refuse me", 1)

        async with asyncio.timeout(DEADLINE_S):
            await publisher.disconnected
        assert "closed publisher: application, refused a publish to 'a': 0x87" in caplog.messages

    async def test_a_message_that_it_drops_or_keeps_reaches_nobody(
        self, serve_amqtt: ServeAmqtt, connect: Connect
    ) -> None:
        address = await serve_amqtt(Refusing())
        subscriber = await connect(address, "subscriber")
        await subscriber.subscribe("a", 1)
        publisher = await connect(address, "publisher")

        for payload in (b"drop me", b"keep me", b"route me"):
            await publisher.publish("a", payload, 1)

        assert (await subscriber.message()).payload == b"route me"

    async def test_the_application_publishes_to_one_client(self, serve_amqtt: ServeAmqtt, connect: Connect) -> None:
        class Answering(AcceptEverything):
            async def publish(self, event: Event, send: Send) -> None:
                await super().publish(event, send)
                await send({"type": "mqtt.publish", "topic": "answer", "payload": event["payload"], "qos": 1})

        address = await serve_amqtt(Answering())
        asking, other = await connect(address, "asking"), await connect(address, "other")
        await other.subscribe("answer", 1)

        await asking.publish("ask", b"42", 1)

        assert (await asking.message()).payload == b"42"
        assert other.messages.empty()

    async def test_the_application_closes_a_connection(self, serve_amqtt: ServeAmqtt, connect: Connect) -> None:
        class Closing(AcceptEverything):
            async def publish(self, event: Event, send: Send) -> None:
                await send({"type": "mqtt.close"})

        application = Closing()
        client = await connect(await serve_amqtt(application), "client")

        client.client.publish("a", b"")

        await until(lambda: application.seen("mqtt.disconnect", "client"), "the end")
        assert application.seen("mqtt.disconnect", "client")[0]["reason"] == "application"

    async def test_the_application_holds_back_the_will_of_a_client_that_it_cuts(
        self, serve_amqtt: ServeAmqtt, connect: Connect
    ) -> None:
        class Closing(AcceptEverything):
            async def publish(self, event: Event, send: Send) -> None:
                await send({"type": "mqtt.close", "will": event["payload"] == b"publish"})

        application = Closing()
        address = await serve_amqtt(application)
        watcher = await connect(address, "watcher")
        await watcher.subscribe("gone/+", 1)

        for name in ("hold", "publish"):
            client = await connect(address, name, will=(f"gone/{name}", b"bye", 1, False))
            client.client.publish("a", name.encode())
            await until(lambda name=name: application.seen("mqtt.disconnect", name), "the end")  # type: ignore[misc]

        assert (await watcher.message()).topic == "gone/publish"

    async def test_a_session_is_not_given_to_another_identity(self, serve_amqtt: ServeAmqtt, connect: Connect) -> None:
        async def by_user(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "mqtt.accept", "client_id": f"{scope['username']}/{scope['client_id']}"})
            while (await receive())["type"] != "mqtt.disconnect":
                pass

        address = await serve_amqtt(by_user)
        first = await connect(address, "sensor", clean=False, username="one")
        await first.disconnect()

        villain = PahoClient(address, "sensor", 4, clean=False, username="two")
        _, code = await villain.connect()

        assert code.getName() == "Not authorized"
        await villain.disconnect()
        await connect(address, "sensor", clean=False, username="one")


class TestBounds:
    async def test_who_does_not_connect_in_time_is_cut(self, serve_amqtt: ServeAmqtt) -> None:
        host, port = await serve_amqtt(AcceptEverything(), connect_timeout_s=0.05)
        reader, writer = await asyncio.open_connection(host, port)

        try:
            assert await asyncio.wait_for(reader.read(), 30) == b""
        except ConnectionResetError:
            pass
        writer.close()

    async def test_a_client_of_another_version_is_one_line_in_the_log(
        self, serve_amqtt: ServeAmqtt, caplog: pytest.LogCaptureFixture
    ) -> None:
        """amqtt takes the properties of its CONNECT for the identifier, and waits for more."""
        caplog.set_level(logging.INFO, logger="gateway.amqtt")
        host, port = await serve_amqtt(AcceptEverything(), connect_timeout_s=0.2)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(bytes.fromhex("1013 00044d515454 05 02 003c 05 1100000064 0001 63"))

        with suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 30)

        await until(lambda: "no CONNECT packet of MQTT 3.1.1" in caplog.text, "the line")
        assert "Traceback" not in caplog.text
        writer.close()

    async def test_a_packet_that_is_too_large_ends_the_connection(
        self, serve_amqtt: ServeAmqtt, connect: Connect
    ) -> None:
        application = AcceptEverything()
        client = await connect(await serve_amqtt(application, max_packet_bytes=1_000), "client")

        client.client.publish("a", b"x" * 2_000)

        await until(lambda: application.seen("mqtt.disconnect", "client"), "the end")
        assert not application.seen("mqtt.publish", "client")

    @pytest.mark.parametrize("bound", ["max_connections", "max_connections_per_address"])
    async def test_one_connection_more_than_there_may_be_is_closed_at_once(
        self, serve_amqtt: ServeAmqtt, connect: Connect, bound: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        application = AcceptEverything()
        address = await serve_amqtt(application, **{bound: 1})
        first = await connect(address, "first")

        reader, writer = await asyncio.open_connection(*address)
        try:
            assert await asyncio.wait_for(reader.read(), 30) == b""
        except ConnectionResetError:
            pass
        writer.close()
        assert f"{bound} is 1" in caplog.text

        await first.disconnect()
        await until(lambda: application.seen("mqtt.disconnect", "first"), "its end")
        await connect(address, "second")


class PasswordPlugin(BaseAuthPlugin):  # type: ignore[misc]
    """A plug-in of amqtt's, as somebody may have written it: lets in who has the password of its configuration."""

    async def authenticate(self, *, session: Any) -> bool | None:
        return bool(session.password == self.config.password)

    @dataclass
    class Config:
        password: str = ""


class CountingPlugin(BasePlugin[Any]):  # type: ignore[misc]
    """Another: it counts messages."""

    count = 0

    async def on_broker_message_broadcast(self, *, client_id: str, message: Any) -> None:
        CountingPlugin.count += 1


class TestPlugins:
    @pytest.fixture
    def config_file(self, tmp_path: Path) -> Path:
        module = f"{__name__}"
        file = tmp_path / "amqtt.yaml"
        file.write_text(
            "listeners:\n  default:\n    type: tcp\n    bind: 0.0.0.0:1883\n"
            f"plugins:\n  - {module}.PasswordPlugin:\n      password: open sesame\n  - {module}.CountingPlugin\n"
        )
        return file

    async def test_plugins_of_amqtts_configuration_are_asked_too(
        self, serve_amqtt: ServeAmqtt, connect: Connect, config_file: Path, application: AcceptEverything
    ) -> None:
        address = await serve_amqtt(application, config_file=config_file)
        CountingPlugin.count = 0

        stranger = PahoClient(address, "stranger", 4, username="me", password="wrong")
        _, code = await stranger.connect()
        client = await connect(address, "client", username="me", password="open sesame")
        await client.publish("a", b"", 1)

        assert code.getName() == "Not authorized"
        await until(lambda: CountingPlugin.count == 1, "the plug-in has seen the message")
        await stranger.disconnect()

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("- a list", "expected a mapping"),
            ("auth:\n  allow-anonymous: true\n", "old way"),
            ("plugins: {", "while parsing"),
        ],
    )
    async def test_a_configuration_that_cannot_be_used_says_why(
        self, serve_amqtt: ServeAmqtt, tmp_path: Path, text: str, fault: str
    ) -> None:
        file = tmp_path / "amqtt.yaml"
        file.write_text(text)

        with pytest.raises(ValueError, match=fault):
            await serve_amqtt(AcceptEverything(), config_file=file)

    async def test_a_plug_in_that_is_not_there_is_named(self, serve_amqtt: ServeAmqtt, tmp_path: Path) -> None:
        file = tmp_path / "amqtt.yaml"
        file.write_text("plugins:\n  nowhere.at.all:\n")

        with pytest.raises(ValueError, match=r"nowhere\.at\.all"):
            await serve_amqtt(AcceptEverything(), config_file=file)


async def test_the_product_serves_devices_on_it(tmp_path: Path, connect: Connect) -> None:
    serving = Serving(tmp_path, "--set", "listeners.1.protocol=amqtt")
    try:
        serving.ready()
        (device,) = add_devices(serving, "thermo-1")
        client = await connect(("127.0.0.1", serving.port("amqtt")), "sensor", username=device.token)

        for number in range(20):
            await client.publish("v1/devices/me/telemetry", b'{"n": %d}' % number, 1)

        def stored() -> list[Any]:
            with closing(sqlite3.connect(tmp_path / "var/gateway.sqlite3", timeout=30)) as database:
                return database.execute("SELECT number FROM gateway_devices_reading ORDER BY number").fetchall()

        await until(lambda: len(stored()) == 20, "the readings")
        await client.disconnect()
        assert await asyncio.to_thread(serving.stop) == 0, serving.log
    finally:
        serving.kill()
