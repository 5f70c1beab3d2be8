"""The end of the server: every client is told, every will published, every application instance ended."""

import asyncio

from protocols.asgi import Event, Send
from protocols.mqtt.codec.packets import Disconnect, PubAck, Publish, ReasonCode, Will
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.server import MqttServer
from protocols.server import Listener
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.raw_client import RawClient
from tests.support.waiting import until


async def test_a_server_that_closes_says_goodbye_and_publishes_the_wills() -> None:
    """[MQTT5-4.13.2-1] [MQTT5-3.1.2-8]"""
    application = AcceptEverything()
    listener = Listener(bind="127.0.0.1:0", options=MqttOptions(allow_anonymous=True))
    server = MqttServer(application, [listener], state={})
    await server.start()
    host, _, port = server.addresses[0].rpartition(":")
    new, old = [await RawClient.open((host, int(port)), version) for version in (5, 4)]
    await new.connect("new")
    await new.subscribe("gone")
    await old.connect("old", will=Will(topic="gone", payload=b"old"))

    server.stop_accepting()
    await server.close()

    assert await new.receive() == Publish(topic="gone", payload=b"old")
    goodbye = await new.receive()
    assert isinstance(goodbye, Disconnect)
    assert goodbye.reason_code == ReasonCode.SERVER_SHUTTING_DOWN
    await new.expect_end()
    await old.expect_end()
    for client_id in ("new", "old"):
        await until(lambda client_id=client_id: application.seen("mqtt.disconnect", client_id), "the event")
        assert [event["reason"] for event in application.seen("mqtt.disconnect", client_id)] == ["shutdown"]


class Committing(AcceptEverything):
    """Answers a publish when `commit` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.commit = asyncio.Event()

    async def publish(self, event: Event, send: Send) -> None:
        await self.commit.wait()
        await super().publish(event, send)


async def test_what_a_client_has_published_is_acknowledged_before() -> None:
    """It would be sent again, and stored twice."""
    application = Committing()
    server = MqttServer(application, [Listener(bind="127.0.0.1:0", options=MqttOptions())], state={})
    await server.start()
    host, _, port = server.addresses[0].rpartition(":")
    client = await RawClient.open((host, int(port)), 5)
    await client.connect("c")
    client.send(*(Publish(topic="t", qos=1, packet_id=number) for number in (1, 2, 3)))
    await until(lambda: server.broker.sessions.get("c"), "the session")
    (endpoint,) = server._endpoints.open
    await until(lambda: endpoint.connection.received_publishes == 3, "the publishes")

    closing = asyncio.create_task(server.close())
    client.send(Publish(topic="t", qos=1, packet_id=4))
    await asyncio.sleep(0.05)
    application.commit.set()

    assert [await client.receive() for _ in range(3)] == [PubAck(1), PubAck(2), PubAck(3)]
    assert isinstance(await client.receive(), Disconnect)
    await client.expect_end()
    await closing


async def test_answers_are_waited_for_at_shutdown_for_so_long_only() -> None:
    class Impatient(MqttServer):
        answer_grace_s = 0.01

    application = Committing()
    server = Impatient(application, [Listener(bind="127.0.0.1:0", options=MqttOptions())], state={})
    await server.start()
    host, _, port = server.addresses[0].rpartition(":")
    client = await RawClient.open((host, int(port)), 5)
    await client.connect("c")
    client.send(Publish(topic="t", qos=1, packet_id=1))

    closing = asyncio.create_task(server.close())

    assert isinstance(await client.receive(), Disconnect)
    await client.expect_end()
    application.commit.set()
    await closing
