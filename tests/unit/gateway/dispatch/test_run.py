"""How a consumer lives and, whatever happens, ends: disconnect() once, the channel and the groups left."""

import asyncio
from typing import Any, ClassVar

import pytest
from prometheus_client import REGISTRY

from gateway.consumer import AsyncConsumer
from gateway.exceptions import StopConsumer
from gateway.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from gateway.layers import InMemoryChannelLayer
from gateway.testing import ApplicationCommunicator, WebsocketCommunicator
from protocols.asgi import Event
from protocols.inbox import Inbox


class Room(AsyncWebsocketConsumer):
    groups = ["room"]
    disconnect_grace_s = 0
    disconnects: ClassVar[list[int]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.disconnects = []

    async def disconnect(self, code: int) -> None:
        self.disconnects.append(code)


def test_a_consumer_of_ours_takes_no_task_but_its_own() -> None:
    async def run() -> None:
        inbox = Inbox()

        async def send(event: Event) -> None:
            assert len(asyncio.all_tasks()) == 2  # this test and the consumer

        consumer = asyncio.create_task(AsyncWebsocketConsumer()({"type": "websocket"}, inbox.receive, send))
        inbox.feed({"type": "websocket.connect"}, 0)
        inbox.disconnect({"type": "websocket.disconnect", "code": 1000})
        await consumer

    asyncio.run(run())


async def test_without_a_layer_there_is_no_channel_name(served: Any, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {}

    class Asking(AsyncConsumer):
        async def ask(self, event: Any) -> None:
            has_name = hasattr(self, "channel_name")
            await self.send({"type": "answer", "layer": self.channel_layer, "has_name": has_name})

    async with ApplicationCommunicator(served(Asking.as_asgi()), {"type": "test"}) as connection:
        await connection.send_input({"type": "ask"})

        assert await connection.receive_output() == {"type": "answer", "layer": None, "has_name": False}


async def test_a_message_to_its_own_channel_reaches_a_consumer(served: Any, layer: InMemoryChannelLayer) -> None:
    class Direct(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            await self.accept()
            await self.send(text_data=self.channel_name)

        async def hello(self, event: Any) -> None:
            await self.send(text_data="hello")

    async with WebsocketCommunicator(served(Direct.as_asgi()), "/") as client:
        await client.connect()
        await layer.send(str(await client.receive_from()), {"type": "hello"})

        assert await client.receive_from() == "hello"


class TestDisconnectIsCalledOnceAndTheGroupsAreLeft:
    async def test_when_the_client_leaves(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Room):
            pass

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()
            assert len(layer.groups["room"]) == 1
            await client.disconnect(code=1001)

        assert Subject.disconnects == [1001]
        assert layer.groups == {}
        assert layer.local.channels == {}

    async def test_when_a_handler_raises(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Room):
            async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
                raise ZeroDivisionError

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        await client.send_to("x")
        with pytest.raises(ZeroDivisionError):
            await client.wait()

        assert Subject.disconnects == [1011]
        assert layer.groups == {}
        assert layer.local.channels == {}

    async def test_when_connect_raises(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Room):
            async def connect(self) -> None:
                raise ZeroDivisionError

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        with pytest.raises(ZeroDivisionError):
            await client.connect()

        assert Subject.disconnects == [1011]
        assert layer.local.channels == {}

    async def test_when_a_handler_of_a_layer_message_raises(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Room):
            async def fail(self, event: Any) -> None:
                raise ZeroDivisionError

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        await layer.group_send("room", {"type": "fail"})
        with pytest.raises(ZeroDivisionError):
            await client.wait()

        assert Subject.disconnects == [1011]
        assert layer.groups == {}

    async def test_when_the_server_cancels_it(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Room):
            pass

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        await client.stop()

        assert Subject.disconnects == [1012]
        assert layer.local.channels == {}

    async def test_when_the_server_cancels_it_in_a_handler(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Room):
            async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
                await self.send(text_data="in the handler")
                await asyncio.Event().wait()

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        await client.send_to("x")
        assert await client.receive_from() == "in the handler"
        await client.stop()

        assert Subject.disconnects == [1012]
        assert layer.local.channels == {}

    async def test_when_a_handler_stops_the_consumer(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Room):
            async def stop(self, event: Any) -> None:
                raise StopConsumer

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()
            await layer.group_send("room", {"type": "stop"})
            await client.wait()

        assert Subject.disconnects == [1000]
        assert layer.local.channels == {}

    async def test_when_a_handler_still_runs_as_the_client_leaves(
        self, served: Any, layer: InMemoryChannelLayer
    ) -> None:
        cancelled = []
        interrupted = REGISTRY.get_sample_value("gateway_consumer_handlers_interrupted_total") or 0

        class Subject(Room):
            async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
                await self.send(text_data="in the handler")
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(text_data)
                    raise

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()
            await client.send_to("one")
            assert await client.receive_from() == "in the handler"
            await client.send_to("two, which nobody handles any more")
            await client.disconnect(code=1001)

        assert cancelled == ["one"]
        assert Subject.disconnects == [1001]
        assert layer.local.channels == {}
        assert REGISTRY.get_sample_value("gateway_consumer_handlers_interrupted_total") == interrupted + 1

    async def test_when_a_handler_takes_no_notice_of_that(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Room):
            async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
                await self.send(text_data="in the handler")
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass

            async def disconnect(self, code: int) -> None:
                async with asyncio.timeout(30):  # would see a cancellation that was left over
                    await asyncio.sleep(0)
                await super().disconnect(code)

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()
            await client.send_to("one")
            assert await client.receive_from() == "in the handler"
            await client.send_to("two")
            await client.disconnect(code=1001)

        assert Subject.disconnects == [1001]

    async def test_when_a_handler_turns_its_interruption_into_a_failure(
        self, served: Any, layer: InMemoryChannelLayer
    ) -> None:
        class Subject(Room):
            async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
                await self.send(text_data="in the handler")
                try:
                    await asyncio.Event().wait()
                finally:
                    raise ZeroDivisionError

            async def disconnect(self, code: int) -> None:
                async with asyncio.timeout(30):
                    await asyncio.sleep(0)
                await super().disconnect(code)

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        await client.send_to("x")
        await client.receive_from()
        with pytest.raises(ZeroDivisionError):
            await client.disconnect(code=1001)

        assert Subject.disconnects == [1001]

    async def test_when_the_client_leaves_while_disconnect_runs_for_another_reason(
        self, served: Any, layer: InMemoryChannelLayer
    ) -> None:
        entered, go_on = asyncio.Event(), asyncio.Event()

        class Subject(Room):
            async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
                raise StopConsumer

            async def disconnect(self, code: int) -> None:
                entered.set()
                await go_on.wait()
                await super().disconnect(code)

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        await client.send_to("x")
        await entered.wait()
        await client.send_input({"type": "websocket.disconnect", "code": 1001})
        assert await client.receive_nothing(timeout=0.01)  # the grace, which is none, is not for disconnect()
        go_on.set()
        await client.wait()

        assert Subject.disconnects == [1000]

    async def test_when_disconnect_itself_raises(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Room):
            async def disconnect(self, code: int) -> None:
                await super().disconnect(code)
                raise ZeroDivisionError

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        with pytest.raises(ZeroDivisionError):
            await client.disconnect(code=1001)

        assert Subject.disconnects == [1001]
        assert layer.local.channels == {}

    async def test_when_disconnect_raises_after_a_handler_did_and_the_first_fault_is_told(
        self, served: Any, layer: InMemoryChannelLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Subject(Room):
            async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
                raise KeyError("first")

            async def disconnect(self, code: int) -> None:
                raise ZeroDivisionError

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        await client.send_to("x")
        with pytest.raises(KeyError, match="first"):
            await client.wait()

        assert "disconnect handler failed" in caplog.text
        assert layer.local.channels == {}

    async def test_when_the_groups_cannot_be_left(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Subject(Room):
            async def connect(self) -> None:
                await self.accept()
                self.groups = ["a name that is no str", None]  # type: ignore[list-item]

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        with pytest.raises(TypeError):
            await client.disconnect()

        assert Subject.disconnects == [1000]
        assert layer.local.channels == {}

    async def test_when_it_is_cancelled_before_its_first_event_there_is_nothing_to_tell(
        self, served: Any, layer: InMemoryChannelLayer
    ) -> None:
        class Subject(Room):
            pass

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            assert await client.receive_nothing(timeout=0)

        assert Subject.disconnects == []
        assert layer.local.channels == {}

    async def test_when_a_raw_consumer_does_not_stop_by_itself(self, served: Any) -> None:
        class Raw(AsyncConsumer):
            calls: ClassVar[list[Any]] = []

            async def websocket_connect(self, event: Any) -> None:
                await self.send({"type": "websocket.accept"})

            async def websocket_disconnect(self, event: Any) -> None:
                self.calls.append(event)

        client = WebsocketCommunicator(served(Raw.as_asgi()), "/")
        await client.connect()
        await client.disconnect()

        assert len(Raw.calls) == 1

    async def test_when_receive_of_a_foreign_server_raises(self, layer: InMemoryChannelLayer) -> None:
        class Subject(Room):
            pass

        events: list[Event] = [{"type": "websocket.connect"}]

        async def receive() -> Event:
            if events:
                return events.pop()
            raise ConnectionResetError("gone")

        async def send(event: Event) -> None:
            pass

        with pytest.raises(ConnectionResetError, match="gone"):
            await Subject.as_asgi()({"type": "websocket"}, receive, send)

        assert Subject.disconnects == [1006]
        assert layer.local.channels == {}


async def test_events_before_the_disconnect_are_handled_first(served: Any) -> None:
    received = []

    class Subject(AsyncWebsocketConsumer):
        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await asyncio.sleep(0)
            received.append(text_data)

    async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
        await client.connect()
        for text in ("one", "two", "three"):
            await client.send_to(text)
        await client.disconnect()

    assert received == ["one", "two", "three"]


async def test_a_foreign_server_is_read_no_faster_than_the_consumer_handles() -> None:
    read = 0
    go_on = asyncio.Event()

    class Slow(AsyncWebsocketConsumer):
        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await go_on.wait()

    async def receive() -> Event:
        nonlocal read
        read += 1
        if read == 1:
            return {"type": "websocket.connect"}
        if read == 1000:
            return {"type": "websocket.disconnect", "code": 1000}
        return {"type": "websocket.receive", "bytes": bytes(10_000)}

    async def send(event: Event) -> None:
        pass

    consumer = asyncio.create_task(Slow.as_asgi()({"type": "websocket"}, receive, send))
    for _ in range(100):
        await asyncio.sleep(0)
    assert read < 40

    go_on.set()
    await consumer
    assert read == 1000


async def test_a_sender_that_cannot_see_its_peer_leave_is_interrupted_all_the_same(served: Any) -> None:
    class Endless(AsyncWebsocketConsumer):
        disconnect_grace_s = 0

        async def connect(self) -> None:
            await self.accept()
            while True:
                await self.send(text_data="x")
                if self._gateway_run.inbox.disconnected:
                    continue
                await asyncio.sleep(0)

    client = WebsocketCommunicator(served(Endless.as_asgi()), "/")
    await client.connect()
    await client.disconnect()


async def test_the_disconnect_of_a_synchronous_consumer_waits_for_its_handler(served: Any) -> None:
    import threading

    entered, go_on = asyncio.Event(), threading.Event()
    order = []
    loop = asyncio.get_running_loop()

    class Subject(WebsocketConsumer):
        def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            loop.call_soon_threadsafe(entered.set)
            go_on.wait(5)
            order.append("handler ends")

        def disconnect(self, code: int) -> None:
            order.append("disconnect")

    client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
    await client.connect()
    await client.send_to("x")
    await entered.wait()
    await client.send_input({"type": "websocket.disconnect", "code": 1000})
    go_on.set()
    await client.wait()

    assert order == ["handler ends", "disconnect"]
