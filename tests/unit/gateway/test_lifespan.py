"""ASGI's lifespan protocol, from both sides."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.lifespan import Lifespan, LifespanApplication, LifespanError, relying_on
from protocols.asgi import Receive, Scope, Send


def unexpected() -> None:
    raise AssertionError("the lifespan did not fail")


async def test_the_context_is_entered_on_startup_and_left_on_shutdown() -> None:
    steps = []

    @asynccontextmanager
    async def running(state: dict[str, Any]) -> AsyncIterator[None]:
        steps.append("entered")
        state["answer"] = 42
        yield
        steps.append("left")

    lifespan = Lifespan(LifespanApplication(running), on_failure=unexpected)

    await lifespan.startup()
    assert (steps, lifespan.state) == (["entered"], {"answer": 42})

    await lifespan.shutdown()
    assert steps == ["entered", "left"]


async def test_a_failure_on_startup_is_the_reason_why_the_server_does_not_start() -> None:
    @asynccontextmanager
    async def running(state: dict[str, Any]) -> AsyncIterator[None]:
        raise RuntimeError("no disk")
        yield

    with pytest.raises(LifespanError, match="RuntimeError: no disk"):
        await Lifespan(LifespanApplication(running), on_failure=unexpected).startup()


async def test_a_failure_on_shutdown_is_told() -> None:
    @asynccontextmanager
    async def running(state: dict[str, Any]) -> AsyncIterator[None]:
        yield
        raise RuntimeError("could not commit")

    lifespan = Lifespan(LifespanApplication(running), on_failure=unexpected)
    await lifespan.startup()

    with pytest.raises(LifespanError, match="could not commit"):
        await lifespan.shutdown()


async def test_an_application_that_raises_at_once_does_without_lifespans(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError(f"no application for {scope['type']}")

    lifespan = Lifespan(application, on_failure=unexpected)

    await lifespan.startup()
    await lifespan.shutdown()
    assert not caplog.records


async def test_background_work_that_breaks_off_is_reported_while_the_server_runs() -> None:
    failed = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("the writer died")

    lifespan = Lifespan(application, on_failure=failed.set)
    await lifespan.startup()

    await asyncio.wait_for(failed.wait(), 5)
    await lifespan.shutdown()


class TestRelyingOnTasks:
    @pytest.mark.parametrize("fault", [ZeroDivisionError("on purpose"), None], ids=["raises", "returns"])
    async def test_a_task_that_ends_ends_the_application(
        self, fault: Exception | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        end, failed = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await end.wait()
            if fault is not None:
                raise fault

        @asynccontextmanager
        async def running(state: dict[str, Any]) -> AsyncIterator[None]:
            async with relying_on(asyncio.create_task(work(), name="writer")):
                yield

        lifespan = Lifespan(LifespanApplication(running), on_failure=failed.set)
        await lifespan.startup()
        assert not failed.is_set()

        end.set()

        await asyncio.wait_for(failed.wait(), 5)
        assert ("ZeroDivisionError: on purpose" if fault else "the task writer has ended") in caplog.text

    async def test_while_it_works_the_application_ends_as_ever(self) -> None:
        work = asyncio.create_task(asyncio.Event().wait())

        @asynccontextmanager
        async def running(state: dict[str, Any]) -> AsyncIterator[None]:
            async with relying_on(work):
                yield

        lifespan = Lifespan(LifespanApplication(running), on_failure=unexpected)
        await lifespan.startup()
        await lifespan.shutdown()

        assert not work.done()
        work.cancel()
