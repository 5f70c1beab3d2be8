"""Workers: gateway.worker, over the in-memory layer."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from gateway.consumer import AsyncConsumer
from gateway.layers import InMemoryChannelLayer
from gateway.management.commands import runworker
from gateway.routing import ChannelNameRouter
from gateway.worker import Worker
from protocols.asgi import Application, Receive, Scope, Send
from protocols.log_lines import LINES_AT_ONCE
from tests.support.waiting import until


class Prints(AsyncConsumer):
    """Keeps what it is told, fails when told."""

    seen: list[tuple[str, int]]

    async def print_number(self, event: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        self.seen.append((self.scope["channel"], event["number"]))

    async def print_fail(self, event: dict[str, Any]) -> None:
        raise RuntimeError("a fault of the handler")


@pytest.fixture
def seen() -> list[tuple[str, int]]:
    Prints.seen = []
    return Prints.seen


@pytest.fixture
def layer() -> InMemoryChannelLayer:
    return InMemoryChannelLayer()


@asynccontextmanager
async def working(application: Application, layer: InMemoryChannelLayer, *channels: str) -> AsyncIterator[None]:
    task = asyncio.create_task(Worker(application, list(channels), layer).handle())
    yield
    task.cancel()
    await asyncio.wait({task})


async def test_messages_of_each_channel_are_handled_in_order(
    layer: InMemoryChannelLayer, seen: list[tuple[str, int]]
) -> None:
    router = ChannelNameRouter({"one": Prints.as_asgi(), "two": Prints.as_asgi()})
    for number in range(20):
        await layer.send("one", {"type": "print.number", "number": number})
        await layer.send("two", {"type": "print.number", "number": number})

    async with working(router, layer, "one", "two"):
        await until(lambda: len(seen) == 40)

    for channel in ("one", "two"):
        assert [number for name, number in seen if name == channel] == list(range(20))


async def test_a_failing_message_is_logged_and_costs_no_other(
    layer: InMemoryChannelLayer, seen: list[tuple[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10):
        await layer.send("one", {"type": "print.number", "number": number})
        await layer.send("one", {"type": "print.fail"})
        await layer.send("one", {"type": "print.unknown"})
        await layer.send("one", {"number": "without a type"})

    async with working(Prints.as_asgi(), layer, "one"):
        await until(lambda: len(seen) == 10)
        await until(lambda: len(caplog.records) == 2 * LINES_AT_ONCE)

    assert [number for _, number in seen] == list(range(10))
    assert {record.getMessage() for record in caplog.records} == {
        "a message of type print.fail on channel one failed",
        "a message of type print.unknown on channel one failed",
        "message without a type on channel one, keys: number",
    }


async def test_an_application_that_takes_no_message_drops_that_one_only(
    layer: InMemoryChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[Any] = []
    calls = 0

    async def takes_every_second(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            taken.append((await receive())["number"])

    for number in range(4):
        await layer.send("one", {"type": "n", "number": number})
    async with working(takes_every_second, layer, "one"):
        await until(lambda: len(taken) == 2)

    assert taken == [1, 3]
    assert [record.getMessage() for record in caplog.records] == ["message of type n on channel one was not taken"] * 2


async def test_what_was_not_begun_at_the_end_stays_in_the_layer(layer: InMemoryChannelLayer) -> None:
    begun, finish, done = asyncio.Event(), asyncio.Event(), []

    class Slow(AsyncConsumer):
        async def work_do(self, event: dict[str, Any]) -> None:
            begun.set()
            await finish.wait()
            done.append(event["number"])

    for number in range(5):
        await layer.send("one", {"type": "work.do", "number": number})
    work = asyncio.create_task(Worker(Slow.as_asgi(), ["one"], layer).handle())
    await begun.wait()

    work.cancel()
    await asyncio.sleep(0)
    finish.set()
    await asyncio.wait({work})

    left = [message["number"] for _, message in layer.channels.get("one", ())]
    assert done + left == list(range(5))
    assert done


def test_a_signal_ends_the_worker(layer: InMemoryChannelLayer, seen: list[tuple[str, int]]) -> None:
    class Stops(AsyncConsumer):
        async def stop_now(self, event: dict[str, Any]) -> None:
            signal.raise_signal(signal.SIGTERM)

    layer.sync.send("one", {"type": "stop.now"})

    Worker(Stops.as_asgi(), ["one"], layer).run()


def test_a_worker_needs_a_layer(settings: Any) -> None:
    with pytest.raises(ValueError, match="Channel layer is not valid"):
        Worker(Prints.as_asgi(), ["one"], None)
    settings.CHANNEL_LAYERS = {}
    with pytest.raises(CommandError, match=r"You do not have any CHANNEL_LAYERS configured\."):
        call_command("runworker", "one")


def test_runworker_may_be_given_another_class_of_workers(settings: Any) -> None:
    ran = []

    class Noting(Worker):
        def run(self) -> None:
            ran.append(self.channels)

    class Derived(runworker.Command):
        worker_class = Noting

    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "gateway.layers.redis.RedisChannelLayer"}}
    call_command(Derived(), "one", "two")

    assert ran == [["one", "two"]]


def test_runworker_refuses_a_layer_in_memory_which_nobody_else_can_send_to(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "gateway.layers.InMemoryChannelLayer"}}

    with pytest.raises(CommandError, match="needs a layer that several processes share"):
        call_command("runworker", "one")
