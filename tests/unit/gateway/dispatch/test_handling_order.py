"""Messages of a group at its members: in order, one handler at a time each, whatever one of them does."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from gateway.generic.websocket import AsyncWebsocketConsumer
from gateway.layers import InMemoryChannelLayer
from gateway.testing import WebsocketCommunicator
from tests.support.waiting import until


class Member(AsyncWebsocketConsumer):
    groups = ["room"]
    disconnect_grace_s = 0
    disconnects: ClassVar[list[str]]
    texts: ClassVar[list[str]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.disconnects = []
        cls.texts = []

    @property
    def name(self) -> str:
        return str(self.scope["path"])

    async def note(self, event: Any) -> None:
        await self.send(text_data=event["text"])

    async def disconnect(self, code: int) -> None:
        self.disconnects.append(self.name)


@contextlib.asynccontextmanager
async def members(served: Any, consumer: type[Member], *names: str) -> AsyncIterator[list[WebsocketCommunicator]]:
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for name in names:
            client = await stack.enter_async_context(WebsocketCommunicator(served(consumer.as_asgi()), name))
            await client.connect()
            clients.append(client)
        yield clients


async def test_a_handler_that_sends_to_its_own_group_is_called_again_not_by_itself(
    served: Any, layer: InMemoryChannelLayer
) -> None:
    depths = []

    class Echoing(Member):
        async def note(self, event: Any) -> None:
            depth, frame = 0, sys._getframe()
            while frame.f_back is not None:
                depth, frame = depth + 1, frame.f_back
            depths.append(depth)
            if event["left"]:
                await self.channel_layer.group_send("room", {**event, "left": event["left"] - 1})
            else:
                await self.send(text_data="done")

    async with members(served, Echoing, "/") as [client]:
        await layer.group_send("room", {"type": "note", "left": 50})
        assert await client.receive_from(timeout=30) == "done"

    assert len(depths) == 51
    assert len(set(depths)) == 1


async def test_messages_are_handled_in_the_order_sent_whether_or_not_handlers_wait(
    served: Any, layer: InMemoryChannelLayer
) -> None:
    class Sometimes(Member):
        async def note(self, event: Any) -> None:
            if event["text"] in {"2", "3", "6"}:
                await asyncio.sleep(0)
            self.texts.append(event["text"])

    async with members(served, Sometimes, "/"):
        for number in range(8):
            await layer.group_send("room", {"type": "note", "text": str(number)})
            if number % 3 == 2:
                await until(lambda number=number: len(Sometimes.texts) == number + 1)  # type: ignore[misc]
        await until(lambda: len(Sometimes.texts) == 8)

    assert Sometimes.texts == [str(number) for number in range(8)]


async def test_one_that_waits_holds_nobody_up(served: Any, layer: InMemoryChannelLayer) -> None:
    class Waiting(Member):
        async def note(self, event: Any) -> None:
            if self.name == "/slow":
                await asyncio.Event().wait()
            await super().note(event)

    async with members(served, Waiting, "/one", "/slow", "/two") as [one, slow, two]:
        for text in ("a", "b"):
            result = await layer.group_send("room", {"type": "note", "text": text})
            assert result.delivered == 3

        for client in (one, two):
            assert [await client.receive_from(timeout=30) for _ in range(2)] == ["a", "b"]
        assert await slow.receive_nothing(timeout=0)


async def test_one_that_fails_is_the_only_one_to_end(served: Any, layer: InMemoryChannelLayer) -> None:
    class Failing(Member):
        async def note(self, event: Any) -> None:
            if self.name == "/bad":
                raise ZeroDivisionError
            await super().note(event)

    bad = WebsocketCommunicator(served(Failing.as_asgi()), "/bad")
    async with members(served, Failing, "/one", "/two") as clients:
        await bad.connect()
        await layer.group_send("room", {"type": "note", "text": "a"})
        for client in clients:
            assert await client.receive_from(timeout=30) == "a"
        with pytest.raises(ZeroDivisionError):
            await bad.wait(timeout=30)

        assert Failing.disconnects == ["/bad"]
        assert len(layer.groups["room"]) == 2


async def test_a_handler_may_end_itself_and_others_that_the_same_message_is_for(
    served: Any, layer: InMemoryChannelLayer
) -> None:
    class Ending(Member):
        async def note(self, event: Any) -> None:
            self.texts.append(self.name)
            if self.name == "/ending":
                for client in (ending, other):
                    await client.send_input({"type": "websocket.disconnect", "code": 1001})

    async with members(served, Ending, "/ending", "/other", "/staying") as [ending, other, _]:
        await layer.group_send("room", {"type": "note"})
        for client in (ending, other):
            await client.wait(timeout=30)

        assert Ending.disconnects == ["/ending", "/other"]
        assert len(layer.groups["room"]) == 1
        await until(lambda: "/staying" in Ending.texts)

    assert Ending.texts[0] == "/ending"


async def test_the_mailbox_is_bounded_before_the_first_of_its_messages_is_handled(
    served: Any, layer: InMemoryChannelLayer
) -> None:
    class Small(Member):
        mailbox_capacity = 2

    async with members(served, Small, "/") as [client]:
        results = [await layer.group_send("room", {"type": "note", "text": text}) for text in "abc"]

        assert [(result.delivered, result.dropped) for result in results] == [(1, 0), (1, 0), (0, 1)]
        assert [await client.receive_from(timeout=30) for _ in range(2)] == ["a", "b"]
        assert await client.receive_nothing(timeout=0)
