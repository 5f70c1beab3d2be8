"""However a consumer does not take a publish, its client is not told yes: by the real server, for every version."""

import asyncio
from typing import Any, Final

import pytest

from gateway.exceptions import Reject, StopConsumer
from gateway.generic.mqtt import AsyncMqttConsumer, MqttConsumer
from protocols.mqtt.codec.packets import Disconnect, PubAck, Publish, PubRec
from tests.integration.mqtt.fixture_types import OpenRaw, Serve
from tests.integration.mqtt.raw_client import RawClient

ENDED: Final = None
"""The connection ends without a word."""

REASON: Final = "not today"

WAYS: Final[dict[str, int | None]] = {
    # how, as the topic says it, and the code that a client is told which can be told; None: its connection is closed
    "reject": 0x99,
    "drop": 0x90,
    "fail": 0x83,
    "default": 0x87,
    "status": 0x87,
    "future/reject": 0x99,
    "future/drop": 0x90,
    "future/fail": 0x83,
    "future/cancelled": 0x83,
    "no future": 0x83,
    "close": None,
    "stop": None,
}


def raised(way: str) -> Exception:
    match way.rpartition("/")[2]:
        case "reject":
            return Reject(0x99, REASON)
        case "drop":
            return Reject(0x90, REASON, drop=True)
        case "stop":
            return StopConsumer()
    return ZeroDivisionError()


class Asynchronous(AsyncMqttConsumer):
    async def connect(self, password: bytes | None) -> None:
        await self.accept()

    async def receive_publish(self, topic: str, payload: bytes, **how: Any) -> Any:
        if topic in ("default", "status"):
            self.unrestricted = topic == "status"
            return await super().receive_publish("$SYS/broker" if topic == "status" else topic, payload, **how)
        if topic == "close":
            await self.close()
            return None
        if topic == "no future":
            return "stored"
        if not topic.startswith("future/"):
            raise raised(topic)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(self._end, future, topic)
        return future

    @staticmethod
    def _end(future: "asyncio.Future[None]", way: str) -> None:
        if way == "future/cancelled":
            future.cancel()
        else:
            future.set_exception(raised(way))


class Synchronous(MqttConsumer):
    def connect(self, password: bytes | None) -> None:
        self.accept()

    def receive_publish(self, topic: str, payload: bytes, **how: Any) -> None:
        if topic in ("default", "status"):
            self.unrestricted = topic == "status"
            super().receive_publish("$SYS/broker" if topic == "status" else topic, payload, **how)
        elif topic == "close":
            self.close()
        else:
            raise raised(topic)


async def answer(client: RawClient, topic: str, qos: int) -> int | None:
    """The reason code of the acknowledgement or the DISCONNECT; ENDED, also for a PINGRESP at QoS 0."""
    client.send(Publish(topic=topic, payload=b"x", qos=qos, packet_id=qos and 1))
    try:
        packet = await client.receive()
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return ENDED
    assert isinstance(packet, PubAck | PubRec | Disconnect), packet
    return packet.reason_code


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("consumer", [Asynchronous, Synchronous])
async def test_what_is_not_taken_is_not_acknowledged_as_if_it_were(
    serve: Serve, raw: OpenRaw, consumer: type[AsyncMqttConsumer | MqttConsumer], version: int, qos: int
) -> None:
    address = await serve(consumer.as_asgi())
    for way, code in WAYS.items():
        if consumer is Synchronous and "future" in way:
            continue
        client = await raw(f"{consumer.__name__} {version} {way}", version, to=address)

        told = await answer(client, way, qos)

        if version == 5:
            assert (way, told) == (way, code or {"close": 0x98, "stop": 0x83}[way])
        else:
            assert (way, told) == (way, 0 if way.endswith("drop") else ENDED)


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("consumer", [Asynchronous, Synchronous])
async def test_at_qos_0_its_client_loses_the_connection_unless_it_is_dropped(
    serve: Serve, raw: OpenRaw, consumer: type[AsyncMqttConsumer | MqttConsumer], version: int
) -> None:
    address = await serve(consumer.as_asgi())
    for way, code in WAYS.items():
        if consumer is Synchronous and "future" in way:
            continue
        client = await raw(f"{consumer.__name__} {version} {way}", version, to=address)
        if way.endswith("drop"):
            client.send(Publish(topic=way, payload=b"x"), Publish(topic="drop", payload=b"x", qos=1, packet_id=1))
            assert await client.receive() == PubAck(1, *((0x90, {"reason_string": REASON}) if version == 5 else ()))
        else:
            told = await answer(client, way, 0)
            assert (way, told) == (way, (code or {"close": 0x98, "stop": 0x83}[way]) if version == 5 else ENDED)
