"""Eclipse Paho's client, its callbacks turned into awaitables of the test's event loop."""

import asyncio
from collections.abc import Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.support.waiting import DEADLINE_S


def properties(packet_type: int, **values: Any) -> Properties:
    """Paho's properties from ours: `properties(PacketTypes.PUBLISH, TopicAlias=1)`."""
    made = Properties(packet_type)
    for name, value in values.items():
        setattr(made, name, value)
    return made


class PahoClient:
    """A client with its network thread; it does not reconnect by itself."""

    def __init__(
        self,
        address: tuple[str, int],
        client_id: str,
        version: int,
        *,
        clean: bool = True,
        transport: str = "tcp",
        username: str | None = None,
        password: str | None = None,
        will: tuple[str, bytes, int, bool] | None = None,
        connect_properties: dict[str, Any] | None = None,
    ) -> None:
        before_5 = version < 5
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=clean if before_5 else None,
            protocol=paho.MQTTProtocolVersion(version),
            transport=transport,
            reconnect_on_failure=False,
        )
        if username is not None:
            self.client.username_pw_set(username, password)
        if will is not None:
            self.client.will_set(*will)
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._clean_start: Any = paho.MQTT_CLEAN_START_FIRST_ONLY if before_5 else clean
        self._connect_properties = None
        if connect_properties is not None:
            self._connect_properties = properties(PacketTypes.CONNECT, **connect_properties)
        self._connected: asyncio.Future[tuple[Any, Any]] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.messages: asyncio.Queue[paho.MQTTMessage] = asyncio.Queue()
        self.disconnected: asyncio.Future[ReasonCode] = self._loop.create_future()
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message
        self.client.on_subscribe = self.client.on_unsubscribe = self._on_answer

    async def connect(self) -> tuple[Any, Any]:
        """Connects; returns the connect flags and the reason code."""
        self.client.connect_async(*self._address, clean_start=self._clean_start, properties=self._connect_properties)
        self.client.loop_start()
        async with asyncio.timeout(DEADLINE_S):
            return await self._connected

    async def subscribe(self, topic_filter: str, qos: int = 0, **options: Any) -> Sequence[ReasonCode]:
        """Subscribes; returns the reason codes. Options are those of MQTT 5, in Paho's names."""
        if options:
            _, mid = self.client.subscribe(topic_filter, options=SubscribeOptions(qos, **options))
        else:
            _, mid = self.client.subscribe(topic_filter, qos)
        return await self._answer(mid)

    async def unsubscribe(self, topic_filter: str) -> Sequence[ReasonCode]:
        """Unsubscribes; returns the reason codes."""
        _, mid = self.client.unsubscribe(topic_filter)
        return await self._answer(mid)

    async def publish(
        self, topic: str, payload: bytes, qos: int = 0, *, retain: bool = False, **publish_properties: Any
    ) -> None:
        """Publishes, and returns when the message is acknowledged (at QoS 0: written)."""
        made = properties(PacketTypes.PUBLISH, **publish_properties) if publish_properties else None
        info = self.client.publish(topic, payload, qos, retain, made)
        await asyncio.to_thread(info.wait_for_publish, DEADLINE_S)
        assert info.is_published()

    async def message(self) -> paho.MQTTMessage:
        """The next message."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.messages.get()

    async def disconnect(self) -> None:
        """Sends a DISCONNECT and ends the thread. Idempotent."""
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)

    async def _answer(self, mid: int | None) -> Any:
        assert mid is not None
        answer = self._answers[mid] = self._loop.create_future()
        async with asyncio.timeout(DEADLINE_S):
            return await answer

    # Called in Paho's thread.

    def _on_connect(self, _client: Any, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        self._loop.call_soon_threadsafe(self._connected.set_result, (flags, code))

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._loop.call_soon_threadsafe(_set, self.disconnected, code)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._loop.call_soon_threadsafe(self.messages.put_nowait, message)

    def _on_answer(self, _client: Any, _data: Any, mid: int, codes: Any, _properties: Any) -> None:
        # Registered before it runs: the test's loop was busy sending the request when the answer was scheduled.
        self._loop.call_soon_threadsafe(lambda: _set(self._answers[mid], codes))


def _set(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
