"""A handler begun while its task waits cannot be told from one that the task has begun."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from protocols.asgi import Event, Receive, Scope, Send
from protocols.eager_handlers import LONGEST_TURN
from protocols.runner import ApplicationRun, Inbox

Handler = Callable[[Event], Awaitable[Any]]

DISCONNECT: Event = {"type": "disconnect"}
visits: ContextVar[tuple[str, ...]] = ContextVar("visits", default=())


def visit(name: Any) -> None:
    visits.set((*visits.get(), name))


class Worker:
    """An application that hands each event to `handler`, of which a stand-in may begin all but the first."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.inbox = Inbox()
        self.handled = 0
        self.turns_of_the_task = 0
        self.ends: list[BaseException | None] = []
        self.visits: tuple[str, ...] = ()
        self.run = ApplicationRun(self, {"type": "test"}, self._send, inbox=self.inbox, on_finished=self.ends.append)

    @property
    def task(self) -> "asyncio.Task[None]":
        return self.run.task

    async def _send(self, event: Event) -> None:
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inbox.appoint(self.handler, self._after)
        try:
            event = await self.inbox.next()
            while not self.inbox.finished:
                self.turns_of_the_task += 1
                await self.handler(event)
                self._after()
                event = await self.inbox.next()
        finally:
            self.visits = visits.get()

    def _after(self) -> None:
        self.handled += 1

    def deliver(self, *names: str) -> None:
        for name in names:
            self.inbox.deliver({"type": name})

    async def end(self) -> None:
        self.run.disconnect(DISCONNECT)
        await passes()
        assert self.ends == [None]


async def passes(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def at_work(handler: Handler) -> Worker:
    worker = Worker(handler)
    await passes()
    return worker


class TestBegun:
    async def test_a_handler_that_does_not_wait_ends_without_its_task(self) -> None:
        names = []

        async def handler(event: Event) -> None:
            names.append(event["type"])

        worker = await at_work(handler)
        worker.deliver("one", "two")
        worker.inbox.feed({"type": "an event, which comes before messages"}, 0)
        assert names == []
        await passes(1)

        assert names == ["an event, which comes before messages", "one", "two"]
        assert (worker.handled, worker.turns_of_the_task) == (3, 0)
        await worker.end()

    async def test_a_handler_is_run_by_its_task_as_far_as_it_can_see(self) -> None:
        tasks = []

        async def handler(event: Event) -> None:
            tasks.append(asyncio.current_task())
            await asyncio.sleep(0)
            tasks.append(asyncio.current_task())

        worker = await at_work(handler)
        worker.deliver("begun")
        await passes()

        assert tasks == [worker.task, worker.task]
        assert worker.turns_of_the_task == 0
        await worker.end()

    async def test_context_variables_are_those_of_the_task(self) -> None:
        async def handler(event: Event) -> None:
            visit(event["type"])
            await asyncio.sleep(0)
            visit(f"{event['type']}, gone on with")

        worker = await at_work(handler)
        worker.deliver("one")
        await passes()
        worker.deliver("two")
        await passes()
        await worker.end()

        assert worker.visits == ("one", "one, gone on with", "two", "two, gone on with")
        assert visits.get() == ()

    async def test_handlers_that_wait_are_handled_one_after_the_other_all_the_same(self) -> None:
        steps = []
        go_on = asyncio.Event()

        async def handler(event: Event) -> None:
            steps.append(f"begin {event['type']}")
            await go_on.wait()
            steps.append(f"end {event['type']}")

        worker = await at_work(handler)
        worker.deliver("one", "two")
        await passes()
        worker.deliver("three")
        await passes()
        assert steps == ["begin one"]
        go_on.set()
        await passes()

        assert steps == ["begin one", "end one", "begin two", "end two", "begin three", "end three"]
        assert worker.handled == 3
        await worker.end()

    async def test_one_that_never_has_enough_lets_others_have_their_turn(self) -> None:
        count = 0

        async def handler(event: Event) -> None:
            nonlocal count
            count += 1
            worker.deliver("again")

        worker = await at_work(handler)
        worker.deliver("first")
        await passes(3)

        assert count == 3 * LONGEST_TURN
        await worker.end()

    async def test_the_disconnect_event_is_for_the_task_and_messages_do_not_follow_it(self) -> None:
        names = []

        async def handler(event: Event) -> None:
            names.append(event["type"])

        worker = await at_work(handler)
        worker.deliver("a message")
        worker.inbox.feed({"type": "an event"}, 0)
        worker.run.disconnect(DISCONNECT)
        await passes()

        assert names == ["an event"]
        assert worker.ends == [None]

    async def test_a_handler_may_end_its_own_connection(self) -> None:
        names = []

        async def handler(event: Event) -> None:
            names.append(event["type"])
            worker.run.disconnect(DISCONNECT)

        worker = await at_work(handler)
        worker.deliver("one", "two")
        await passes()

        assert names == ["one"]
        assert worker.ends == [None]

    async def test_what_can_be_awaited_need_not_be_a_coroutine(self) -> None:
        future = asyncio.get_running_loop().create_future()
        worker = await at_work(lambda event: future)
        worker.deliver("one")
        await passes()
        assert worker.handled == 0
        future.set_result(None)
        await passes()

        assert worker.handled == 1
        await worker.end()

    async def test_a_task_that_middleware_has_put_between_does_its_work_itself(self) -> None:
        tasks = []

        async def handler(event: Event) -> None:
            tasks.append(asyncio.current_task())

        class Wrapped(Worker):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                self.inner = asyncio.create_task(super().__call__(scope, receive, send))
                await self.inner

        worker = Wrapped(handler)
        await passes()
        worker.deliver("one")
        await passes()

        assert tasks == [worker.inner]
        assert worker.turns_of_the_task == 1
        await worker.end()


class TestFailing:
    async def test_what_a_handler_raises_is_raised_in_the_task(self, caplog: pytest.LogCaptureFixture) -> None:
        error = ZeroDivisionError()

        async def handler(event: Event) -> None:
            raise error

        worker = await at_work(handler)
        worker.deliver("one", "two")
        await passes()

        assert worker.ends == [error]
        assert worker.handled == 0

    async def test_what_it_raises_after_a_wait_is_too(self, caplog: pytest.LogCaptureFixture) -> None:
        error = ZeroDivisionError()

        async def handler(event: Event) -> None:
            await asyncio.sleep(0)
            raise error

        worker = await at_work(handler)
        worker.deliver("one", "two")
        await passes()

        assert worker.ends == [error]
        assert worker.handled == 0

    async def test_a_function_that_raises_instead_of_returning_a_coroutine_fails_as_well(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        error = ZeroDivisionError()

        def handler(event: Event) -> Awaitable[None]:
            raise error

        worker = await at_work(handler)
        worker.deliver("one")
        await passes()

        assert worker.ends == [error]

    async def test_it_leaves_the_others_alone(self, caplog: pytest.LogCaptureFixture) -> None:
        async def failing(event: Event) -> None:
            raise ZeroDivisionError

        async def working(event: Event) -> None:
            pass

        workers = [await at_work(handler) for handler in (working, failing, working)]
        for worker in workers:
            worker.deliver("one")
        await passes()

        assert [worker.handled for worker in workers] == [1, 0, 1]
        assert asyncio.current_task() is not None
        await workers[0].end()
        await workers[2].end()


class Waiting:
    """A handler that waits, and notes how it is cancelled."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def __call__(self, event: Event) -> None:
        self.seen.append("begun")
        future = asyncio.get_running_loop().create_future()
        try:
            await future
        except asyncio.CancelledError as cancellation:
            task = asyncio.current_task()
            assert task is not None
            self.seen.append((cancellation.args, task.cancelling(), future.cancelled()))
            raise


class TestCancelling:
    async def test_before_the_beginning_nothing_is_begun(self) -> None:
        handler = Waiting()
        worker = await at_work(handler)
        worker.deliver("one")
        worker.task.cancel()
        await passes()

        assert handler.seen == []
        assert isinstance(worker.ends[0], asyncio.CancelledError)

    async def test_between_beginning_and_rest_it_cancels_what_the_handler_awaits(self) -> None:
        handler = Waiting()
        worker = await at_work(handler)
        worker.deliver("one")
        await passes(1)
        assert handler.seen == ["begun"]
        worker.task.cancel("why")
        await passes()

        assert handler.seen == ["begun", (("why",), 1, True)]
        assert isinstance(worker.ends[0], asyncio.CancelledError)

    async def test_in_the_rest_it_does_so_too(self) -> None:
        handler = Waiting()
        worker = await at_work(handler)
        worker.deliver("one")
        await passes()
        worker.task.cancel("why")
        await passes()

        assert handler.seen == ["begun", (("why",), 1, True)]
        assert isinstance(worker.ends[0], asyncio.CancelledError)

    async def test_a_handler_that_cancels_itself_is_cancelled_when_it_waits(self) -> None:
        handler = Waiting()

        async def cancelling(event: Event) -> None:
            worker.task.cancel("why")
            await handler(event)

        worker = await at_work(cancelling)
        worker.deliver("one")
        await passes()

        assert handler.seen == ["begun", (("why",), 1, True)]
        assert isinstance(worker.ends[0], asyncio.CancelledError)

    async def test_a_handler_that_cancels_itself_and_does_not_wait_is_the_last(self) -> None:
        names = []

        async def handler(event: Event) -> None:
            names.append(event["type"])
            worker.task.cancel()

        worker = await at_work(handler)
        worker.deliver("one", "two")
        await passes()

        assert names == ["one"]
        assert isinstance(worker.ends[0], asyncio.CancelledError)

    async def test_a_timeout_may_begin_before_the_wait_and_end_in_it(self) -> None:
        outcomes = []

        async def handler(event: Event) -> None:
            try:
                async with asyncio.timeout(0):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                outcomes.append(event["type"])

        worker = await at_work(handler)
        worker.deliver("one", "two")
        await passes()

        assert outcomes == ["one", "two"]
        assert worker.task.cancelling() == 0
        await worker.end()

    async def test_a_task_group_may_too(self) -> None:
        outcomes = []

        async def fail() -> None:
            raise ZeroDivisionError

        async def handler(event: Event) -> None:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(fail())
                    tasks.create_task(asyncio.Event().wait())
            except* ZeroDivisionError:
                outcomes.append(event["type"])

        worker = await at_work(handler)
        worker.deliver("one")
        await passes(20)

        assert outcomes == ["one"]
        await worker.end()

    async def test_a_future_that_others_await_too_is_awaited_by_all(self) -> None:
        """Between the beginning and the rest no task has it, and it must not look as if one had."""
        shared = asyncio.get_running_loop().create_future()

        async def handler(event: Event) -> None:
            await shared

        async def other() -> None:
            await shared

        worker = await at_work(handler)
        worker.deliver("one")
        others = []
        asyncio.get_running_loop().call_soon(lambda: others.append(asyncio.create_task(other())))
        await passes()
        shared.set_result(None)
        await passes()

        assert worker.handled == 1
        assert [task.done() and task.exception() for task in others] == [None]
        await worker.end()
