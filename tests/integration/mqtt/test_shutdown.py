"""The end of the server: every client is told, every will published, every application instance ended."""

from protocols.mqtt.options import MqttOptions
from protocols.mqtt.packets import Disconnect, Publish, ReasonCode, Will
from protocols.mqtt.server import MqttServer
from protocols.server import Listener
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.raw_client import RawClient
from tests.integration.mqtt.waiting import until


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
