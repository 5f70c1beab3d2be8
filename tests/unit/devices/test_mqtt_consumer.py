"""The consumer of devices that speak MQTT, without a server. What needs one: tests/integration/devices."""

from devices.consumers.mqtt import DeviceMqttConsumer
from devices.consumers.provisioning import ProvisioningMqttConsumer
from gateway.testing import MqttCommunicator


async def test_a_device_that_is_cut_off_has_its_will_held_back() -> None:
    """It has lost the right to publish, and a will is a publish."""
    async with MqttCommunicator(DeviceMqttConsumer.as_asgi(), allow_anonymous=True, state={"devices": None}) as client:
        await client.connect()

        client.inbox.post({"type": "device.cut", "reason": "credential revoked"})

        assert await client.receive_output() == {
            "type": "mqtt.close",
            "reason_code": 0x87,
            "reason_string": "credential revoked",
            "will": False,
        }


async def test_a_session_for_provisioning_ends_with_its_time() -> None:
    async with MqttCommunicator(ProvisioningMqttConsumer.as_asgi(), username="provision") as client:
        await client.connect()

        client.inbox.post({"type": "provisioning.ended"})

        closed = await client.receive_output()
        assert (closed["type"], closed["reason_code"]) == ("mqtt.close", 0xA0)
