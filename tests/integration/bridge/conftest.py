"""A gateway's MQTT server and its bridge, in this process; upstream a real Mosquitto."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from protocols.asgi import Application, Event, Receive, Scope, Send
from protocols.bridge.options import BridgeOptions
from protocols.bridge.server import BridgeServer
from protocols.bridge.topic_map import ReceiveRule, SendRule
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.server import MqttServer
from protocols.mqtt.storage.rows import Store
from protocols.server import Listener
from tests.integration.mqtt.paho_client import PahoClient
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import until

DEADLINE_S = 60.0


class Application_:  # noqa: N801  as the fixture's value
    """Takes bridges and clients, and acknowledges what comes by a bridge once `answering` is set."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.publishes: list[Event] = []
        """What came by bridges."""
        self.ends: list[Event] = []
        self.answering = asyncio.Event()
        self.answering.set()
        self.answer: Callable[[Event], Event] = lambda event: {"type": "mqtt.ack", "ack_id": event["ack_id"]}
        self.send_to_bridge: Send | None = None

    def payloads(self) -> list[bytes]:
        return [event["payload"] for event in self.publishes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_bridge = "bridge" in scope["extensions"]
        if is_bridge:
            self.scopes.append(scope)
            self.send_to_bridge = send
        while True:
            event = await receive()
            match event["type"]:
                case "mqtt.connect":
                    await send({"type": "mqtt.accept"})
                case "mqtt.publish":
                    if is_bridge:
                        self.publishes.append(event)
                        await self.answering.wait()
                        await send(self.answer(event))
                    else:
                        await send({"type": "mqtt.ack", "ack_id": event["ack_id"]})
                case "mqtt.subscribe":
                    granted = [subscription["qos"] for subscription in event["subscriptions"]]
                    await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_codes": granted})
                case "mqtt.disconnect":
                    if is_bridge:
                        self.ends.append(event)
                    return


class Gateway:
    """The two servers of one process. `address` is that of its own broker."""

    def __init__(
        self,
        application: Application,
        state: dict[str, Any],
        options: list[BridgeOptions],
        *,
        store: Store | None = None,
    ) -> None:
        listener = Listener(bind="127.0.0.1:0", options=MqttOptions(allow_anonymous=True))
        self._mqtt = MqttServer(application, [listener], state=state, store=store)
        self._bridge = BridgeServer(application, [Listener(bind="", options=one) for one in options], state=state)

    async def start(self) -> "Gateway":
        self._bridge.connect_to([self._mqtt, self._bridge])
        await self._mqtt.start()
        await self._bridge.start()
        return self

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self._mqtt.addresses[0].rpartition(":")
        return host, int(port)

    def status(self) -> str:
        (status,) = self._bridge.status().values()
        return status

    async def connected(self) -> "Gateway":
        await until(lambda: self.status() == "ok", "the bridge is connected")
        return self

    async def stop(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self._bridge.close()
            await self._mqtt.close()


OpenGateway: TypeAlias = Callable[..., Awaitable[Gateway]]
Connect: TypeAlias = Callable[..., Awaitable[PahoClient]]


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of its own for each test."""
    broker = Mosquitto(tmp_path / "upstream").start()
    yield broker
    broker.stop()


@pytest.fixture
def application() -> Application_:
    return Application_()


def options(upstream: Mosquitto, **given: Any) -> BridgeOptions:
    """A bridge both ways that connects again without much ado."""
    defaults: dict[str, Any] = {
        "url": upstream.url,
        "client_id": "bridge-1",
        "receive": (ReceiveRule(upstream="site/{device}/telemetry", local="in/{device}"),),
        "send": (SendRule(local="out/#", upstream="from/out/#"),),
        "reconnect_min_s": 0.05,
        "reconnect_max_s": 0.2,
    }
    return BridgeOptions(**{**defaults, **given})


@pytest.fixture
async def open_gateway(upstream: Mosquitto, application: Application_) -> AsyncIterator[OpenGateway]:
    """Starts gateways; keywords are those of BridgeOptions."""
    opened: list[Gateway] = []

    async def open_one(served: Application | None = None, *, store: Store | None = None, **given: Any) -> Gateway:
        gateway = Gateway(served or application, {}, [options(upstream, **given)], store=store)
        opened.append(gateway)
        return await gateway.start()

    yield open_one
    application.answering.set()
    for gateway in opened:
        await gateway.stop()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects Paho clients: `await connect(address, "client-id", 5)`."""
    clients: list[PahoClient] = []

    async def connect_one(address: tuple[str, int], client_id: str, version: int = 5, **given: Any) -> PahoClient:
        client = PahoClient(address, client_id, version, **given)
        clients.append(client)
        _, code = await client.connect()
        assert code == 0
        return client

    yield connect_one
    for client in clients:
        await client.disconnect()
