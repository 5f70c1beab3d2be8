"""await_many_dispatch: the loop of Channels' consumers, for those who have built on it."""

import asyncio
from typing import Any

import pytest

from gateway.exceptions import StopConsumer
from gateway.utils import await_many_dispatch


async def test_what_comes_from_any_source_is_dispatched_until_dispatch_raises() -> None:
    queues: list[asyncio.Queue[dict[str, Any]]] = [asyncio.Queue(), asyncio.Queue()]
    dispatched = []

    async def dispatch(message: dict[str, Any]) -> None:
        dispatched.append(message["type"])
        if message["type"] == "stop":
            raise StopConsumer
        queues[0].put_nowait({"type": "stop"})

    queues[1].put_nowait({"type": "go"})
    before = asyncio.all_tasks()
    with pytest.raises(StopConsumer):
        await await_many_dispatch([queue.get for queue in queues], dispatch)

    assert dispatched == ["go", "stop"]
    assert asyncio.all_tasks() == before


async def test_what_a_source_raises_is_raised() -> None:
    async def broken() -> dict[str, Any]:
        raise ZeroDivisionError

    async def dispatch(message: dict[str, Any]) -> None: ...

    with pytest.raises(ZeroDivisionError):
        await await_many_dispatch([broken, asyncio.Queue[dict[str, Any]]().get], dispatch)
