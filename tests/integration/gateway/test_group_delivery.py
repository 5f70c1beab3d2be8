"""A message to a group, all the way to its consumers: none is lost or encoded twice, nobody waits for the slow."""

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from gateway.generic.sse import AsyncSseConsumer
from gateway.generic.websocket import AsyncWebsocketConsumer
from gateway.layers import BaseChannelLayer, InMemoryChannelLayer, Message, channel_layers
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from gateway.layers.serializers import MsgPackSerializer, registry
from gateway.routing import ProtocolTypeRouter
from protocols.asgi import Application, Event
from protocols.http import HttpOptions, HttpServer
from protocols.inbox import Inbox
from protocols.runner import ApplicationRun
from protocols.server import Listener
from tests.support.redis import ClusterSetup, RedisServer
from tests.support.waiting import until

MESSAGES = 1000
STAYING = 20
PASSING = 500


class Peer:
    """A consumer at work for a connection that keeps what it is sent."""

    def __init__(self, application: Application) -> None:
        self.texts: list[str] = []
        self.accepted = asyncio.Event()
        self.ended = asyncio.Event()
        self.inbox = Inbox()
        scope: Any = {"type": "websocket", "path": "/", "headers": []}
        self.run = ApplicationRun(application, scope, self._send, inbox=self.inbox, on_finished=self._finished)
        self.inbox.feed({"type": "websocket.connect"}, 0)

    async def _send(self, event: Event) -> None:
        if event["type"] == "websocket.send":
            self.texts.append(event["text"])  # type: ignore[arg-type]
        else:
            self.accepted.set()

    def _finished(self, error: BaseException | None) -> None:
        assert error is None
        self.ended.set()

    async def leave(self) -> None:
        self.run.disconnect({"type": "websocket.disconnect", "code": 1000})
        await self.ended.wait()


class Member(AsyncWebsocketConsumer):
    groups = ["group"]
    mailbox_capacity = MESSAGES

    async def note(self, message: Message) -> None:
        await self.send(text_data=message["text"])


@pytest.fixture
def default_layer() -> Iterator[Callable[[BaseChannelLayer], None]]:
    """Sets the layer of the consumers for the time of a test."""
    old = channel_layers.backends.pop("default", None)
    yield lambda layer: channel_layers.backends.__setitem__("default", layer)
    channel_layers.backends.pop("default", None)
    if old is not None:
        channel_layers.set("default", old)


@pytest.fixture(params=["memory", "pubsub", "redis", "cluster pubsub", "cluster redis"])
async def layers(
    request: pytest.FixtureRequest, default_layer: Callable[[BaseChannelLayer], None]
) -> AsyncIterator[tuple[BaseChannelLayer, BaseChannelLayer]]:
    """The layer of the consumers, and that of another process (where there can be one)."""
    if request.param == "memory":
        only = InMemoryChannelLayer()
        default_layer(only)
        yield only, only
        return
    host: Any
    if request.param.startswith("cluster"):
        cluster: ClusterSetup = request.getfixturevalue("redis_cluster")
        host = {"cluster": cluster.addresses}
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        host = server.url
    layer_class = RedisPubSubChannelLayer if request.param.endswith("pubsub") else RedisChannelLayer
    prefix = f"test-{uuid.uuid4().hex}"
    here, elsewhere = (layer_class(hosts=[host], prefix=prefix) for _ in range(2))
    default_layer(here)
    yield here, elsewhere
    await here.close()
    await elsewhere.close()


async def test_twenty_thousand_messages_arrive_while_five_hundred_others_come_and_go(
    layers: tuple[BaseChannelLayer, BaseChannelLayer],
) -> None:
    _, elsewhere = layers
    application = Member.as_asgi()
    staying = [Peer(application) for _ in range(STAYING)]
    for peer in staying:
        await peer.accepted.wait()

    async def come_and_go() -> None:
        for _ in range(PASSING // 10):
            passing = [Peer(application) for _ in range(10)]
            for peer in passing:
                await peer.accepted.wait()
            for peer in passing:
                await peer.leave()

    others = asyncio.create_task(come_and_go())
    for number in range(MESSAGES):
        await elsewhere.group_send("group", {"type": "note", "text": str(number)})
        await asyncio.sleep(0)
    await asyncio.wait_for(others, 30)

    expected = [str(number) for number in range(MESSAGES)]
    await until(lambda: all(len(peer.texts) == MESSAGES for peer in staying))
    assert all(peer.texts == expected for peer in staying)
    for peer in staying:
        await peer.leave()


class Counting(MsgPackSerializer):
    """Counts what it does."""

    encoded = decoded = 0

    def as_bytes(self, message: Message, *args: Any, **kwargs: Any) -> bytes:
        Counting.encoded += 1
        return super().as_bytes(message, *args, **kwargs)

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Message:
        Counting.decoded += 1
        return super().from_bytes(message, *args, **kwargs)


@pytest.mark.parametrize("layer_class", [RedisPubSubChannelLayer, RedisChannelLayer])
async def test_a_message_is_encoded_once_decoded_once_and_the_same_text_for_every_connection(
    layer_class: type[RedisPubSubChannelLayer | RedisChannelLayer],
    redis_server: RedisServer,
    default_layer: Callable[[BaseChannelLayer], None],
) -> None:
    registry.register_serializer("counting", Counting)
    prefix = f"test-{uuid.uuid4().hex}"
    here, elsewhere = (
        layer_class(hosts=[redis_server.url], prefix=prefix, serializer_format="counting") for _ in range(2)
    )
    default_layer(here)
    peers = [Peer(Member.as_asgi()) for _ in range(100)]
    for peer in peers:
        await peer.accepted.wait()
    Counting.encoded = Counting.decoded = 0

    await elsewhere.group_send("group", {"type": "note", "text": "x" * 200})
    await until(lambda: all(peer.texts for peer in peers))

    assert (Counting.encoded, Counting.decoded) == (1, 1)
    # One object for all: what the WebSocket server frames once (test_the_same_object_is_framed_once).
    assert len({id(peer.texts[0]) for peer in peers}) == 1
    for peer in peers:
        await peer.leave()
    await here.close()
    await elsewhere.close()


# A slow client

TEXT = "x" * 32_000
SLOW_CAPACITY = 20


class Dashboard(AsyncWebsocketConsumer):
    groups = ["dashboards"]
    mailbox_capacity = SLOW_CAPACITY
    taken: dict[str, int] = {}

    async def note(self, message: Message) -> None:
        await self.send(text_data=message["text"])
        self.taken[self.scope["path"]] = self.taken.get(self.scope["path"], 0) + 1


class Stream(AsyncSseConsumer):
    groups = ["dashboards"]
    mailbox_capacity = SLOW_CAPACITY

    async def note(self, message: Message) -> None:
        await self.send_event(message["text"])
        Dashboard.taken[self.scope["path"]] = Dashboard.taken.get(self.scope["path"], 0) + 1


UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n".format(
    "dGhlIHNhbXBsZSBub25jZQ=="
)


class Client(asyncio.Protocol):
    """Counts the bytes it reads."""

    received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)


@pytest.mark.parametrize("kind", ["websocket", "sse"])
async def test_a_slow_client_costs_a_bounded_amount_of_memory_and_delays_nobody(
    kind: str, default_layer: Callable[[BaseChannelLayer], None]
) -> None:
    layer = InMemoryChannelLayer()
    default_layer(layer)
    Dashboard.taken.clear()
    application = ProtocolTypeRouter({"websocket": Dashboard.as_asgi(), "http": Stream.as_asgi()})
    server = HttpServer(application, [Listener(bind="127.0.0.1:0", options=HttpOptions())], state={})
    await server.start()
    host, port = server.addresses[0].split(":")
    loop = asyncio.get_running_loop()

    async def connect(path: str) -> tuple[asyncio.Transport, Client]:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.setblocking(False)
        await loop.sock_connect(sock, (host, int(port)))
        transport, client = await loop.create_connection(Client, sock=sock)
        upgrade = UPGRADE if kind == "websocket" else ""
        transport.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n".encode())
        await until(lambda: bool(client.received))
        return transport, client

    slow, slow_client = await connect("/slow")
    fast = [await connect(f"/fast/{number}") for number in range(3)]
    await until(lambda: len(layer.groups.get("dashboards", ())) == 4)
    slow.pause_reading()

    dropped = 0
    for number in range(1, 1001):
        dropped += (await layer.group_send("dashboards", {"type": "note", "text": TEXT})).dropped
        if number % 10 == 0:
            # Each ten have to be there before the next ten: whoever waited for the slow one would not come to an end.
            expected = number * len(TEXT)
            await until(lambda: all(client.received >= expected for _, client in fast))  # noqa: B023

    # Of 32 MB, the slow one has what is in the kernel's buffers and in ours, and the rest was never kept for it.
    assert Dashboard.taken["/slow"] * len(TEXT) < 8_000_000
    assert dropped == 1000 - Dashboard.taken["/slow"] - SLOW_CAPACITY - 1  # one is being sent
    assert {path: count for path, count in Dashboard.taken.items() if path != "/slow"} == {
        f"/fast/{number}": 1000 for number in range(3)
    }
    for transport, _ in [(slow, slow_client), *fast]:
        transport.abort()
    async with asyncio.timeout(30):
        await server.close()
