"""Background and periodic work of a consumer: beside or between its handlers, bounded, and never beyond its life."""

import asyncio
import threading
from typing import Any, ClassVar

import pytest

from gateway.dispatch.run import MAX_POSTED
from gateway.exceptions import StopConsumer
from gateway.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from gateway.testing import WebsocketCommunicator


def collector() -> list[Any]:
    return []


class Ticking(AsyncWebsocketConsumer):
    async def tick(self) -> None:
        await self.send(text_data="tick")


class TickingInAThread(WebsocketConsumer):
    def tick(self) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.send(text_data="tick")


class FailingTicks(AsyncWebsocketConsumer):
    async def tick(self) -> None:
        raise LookupError

    async def background_failed(self, event: Any) -> None:
        await self.send(text_data=type(event["error"]).__name__)


class EndlessWork(AsyncWebsocketConsumer):
    """Has work that does not end by itself; logs its end, and fails when it receives something."""

    log: list[str]

    async def connect(self) -> None:
        self.spawn(self.work())
        await self.accept()

    async def work(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            self.log.append("work ended")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        raise ZeroDivisionError

    async def disconnect(self, code: int) -> None:
        self.log.append("disconnect")


class TestSpawn:
    async def test_work_runs_while_a_handler_waits(self, served: Any) -> None:
        class Subject(AsyncWebsocketConsumer):
            async def connect(self) -> None:
                await self.accept()
                done = asyncio.Event()

                async def work() -> None:
                    await self.send(text_data="from the background")
                    done.set()

                self.spawn(work())
                await done.wait()
                await self.send(text_data="from the handler")

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert [await client.receive_from() for _ in range(2)] == ["from the background", "from the handler"]

    async def test_work_is_cancelled_and_awaited_before_disconnect_is_called(self, served: Any) -> None:
        class Subject(EndlessWork):
            log = collector()

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

        assert Subject.log == ["work ended", "disconnect"]

    @pytest.mark.parametrize("end", ["a handler raises", "the server cancels"])
    async def test_work_ends_however_the_consumer_ends(self, served: Any, end: str) -> None:
        class Subject(EndlessWork):
            log = collector()

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        if end == "a handler raises":
            await client.send_to(text_data="now")
            with pytest.raises(ZeroDivisionError):
                await client.wait()
        else:
            await client.stop()

        assert Subject.log == ["work ended", "disconnect"]

    async def test_a_failure_is_logged_and_given_to_the_hook(self, served: Any, caplog: Any) -> None:
        class Subject(AsyncWebsocketConsumer):
            async def connect(self) -> None:
                await self.accept()
                self.spawn(self.work())

            async def work(self) -> None:
                raise LookupError("no such thing")

            async def background_failed(self, event: Any) -> None:
                await self.close(4000, reason=str(event["error"]))

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert await client.receive_output() == {"type": "websocket.close", "code": 4000, "reason": "no such thing"}
        assert "background work failed" in caplog.text

    async def test_by_default_a_failure_of_work_does_not_end_the_consumer(self, served: Any, caplog: Any) -> None:
        class Subject(AsyncWebsocketConsumer):
            async def connect(self) -> None:
                await self.accept()
                task = self.spawn(self.work())
                await asyncio.wait([task])

            async def work(self) -> None:
                raise LookupError

            async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
                await self.send(text_data="still here")

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()
            await client.send_to(text_data="?")

            assert await client.receive_from() == "still here"

    async def test_stop_consumer_ends_the_consumer(self, served: Any) -> None:
        class Subject(AsyncWebsocketConsumer):
            async def connect(self) -> None:
                await self.accept()
                self.spawn(self.work())

            async def work(self) -> None:
                raise StopConsumer

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        await client.wait()

    async def test_work_that_runs_at_a_time_is_limited(self, served: Any) -> None:
        class Subject(AsyncWebsocketConsumer):
            max_background = 2

            async def connect(self) -> None:
                await self.accept()
                self.spawn(asyncio.sleep(3600))
                self.every(3600, self.tick)
                with pytest.raises(RuntimeError, match="has 2 pieces of background work, as many as it may"):
                    self.spawn(asyncio.sleep(3600))
                await self.send(text_data="refused")

            async def tick(self) -> None: ...

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert await client.receive_from() == "refused"

    async def test_nothing_can_be_begun_when_the_connection_has_ended(self, served: Any) -> None:
        class Subject(AsyncWebsocketConsumer):
            async def connect(self) -> None:
                await self.accept()
                self.spawn(asyncio.sleep(3600))

            async def disconnect(self, code: int) -> None:
                with pytest.raises(RuntimeError, match="has ended"):
                    self.spawn(asyncio.sleep(3600))

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

    async def test_in_a_synchronous_consumer_a_function_runs_in_another_thread(self, served: Any) -> None:
        class Subject(WebsocketConsumer):
            def connect(self) -> None:
                self.accept()
                met = threading.Barrier(2)
                self.spawn(self.work, met)
                met.wait(1)

            def work(self, met: threading.Barrier) -> None:
                met.wait(1)
                self.send(text_data="side by side")

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert await client.receive_from() == "side by side"

    async def test_disconnect_of_a_synchronous_consumer_waits_for_its_work(self, served: Any) -> None:
        log = collector()
        go_on = threading.Event()

        class Subject(WebsocketConsumer):
            def connect(self) -> None:
                self.accept()
                self.spawn(self.work)

            def work(self) -> None:
                go_on.wait(1)
                log.append("work ended")

            def disconnect(self, code: int) -> None:
                log.append("disconnect")

        client = WebsocketCommunicator(served(Subject.as_asgi()), "/")
        await client.connect()
        await client.send_input({"type": "websocket.disconnect", "code": 1000})
        go_on.set()
        await client.wait()

        assert log == ["work ended", "disconnect"]


class TestEvery:
    async def test_a_function_is_called_again_and_again(self, served: Any) -> None:
        class Subject(Ticking):
            async def connect(self) -> None:
                await self.accept()
                self.every(0.01, self.tick)

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert [await client.receive_from() for _ in range(3)] == ["tick"] * 3

    async def test_a_repeated_function_is_called_in_turn_with_the_handlers_and_does_not_pile_up(
        self, served: Any
    ) -> None:
        class Subject(AsyncWebsocketConsumer):
            busy: ClassVar[bool] = False
            ticks: ClassVar[int] = 0

            async def connect(self) -> None:
                await self.accept()
                self.every(0.005, self.tick)
                type(self).busy = True
                await asyncio.sleep(0.1)
                type(self).busy = False

            async def tick(self) -> None:
                assert not self.busy
                type(self).ticks += 1

            async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
                await self.send(text_data=str(self.ticks))

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.send_input({"type": "websocket.connect"})
            await client.send_to(text_data="how many?")
            await client.receive_output()

            assert await client.receive_from() == "1"

    async def test_a_repeated_function_may_be_cancelled(self, served: Any) -> None:
        class Subject(AsyncWebsocketConsumer):
            async def connect(self) -> None:
                await self.accept()
                self.repetition = self.every(0.001, self.tick)

            async def tick(self) -> None:
                self.repetition.cancel()
                await self.send(text_data="tick")

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()
            await client.receive_from()

            assert await client.receive_nothing(0.02)

    async def test_a_failure_is_told_and_it_is_called_again(self, served: Any, caplog: Any) -> None:
        class Subject(FailingTicks):
            async def connect(self) -> None:
                await self.accept()
                self.every(0.001, self.tick)

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert [await client.receive_from() for _ in range(2)] == ["LookupError"] * 2

    async def test_a_synchronous_consumer_is_called_in_its_thread(self, served: Any) -> None:
        class Subject(TickingInAThread):
            def connect(self) -> None:
                self.accept()
                self.every(0.001, self.tick)

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert [await client.receive_from() for _ in range(2)] == ["tick"] * 2

    async def test_an_interval_of_nothing_is_refused(self, served: Any) -> None:
        class Subject(AsyncWebsocketConsumer):
            async def connect(self) -> None:
                with pytest.raises(ValueError, match="more than 0 seconds"):
                    self.every(0, self.connect)
                await self.accept()

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            assert (await client.connect())[0]


class TestLater:
    async def test_a_function_is_called_once(self, served: Any) -> None:
        class Subject(Ticking):
            async def connect(self) -> None:
                await self.accept()
                self.later(0.001, self.tick)
                self.later(0.02, self.end)

            async def end(self) -> None:
                await self.send(text_data="end")

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert [await client.receive_from(timeout=30) for _ in range(2)] == ["tick", "end"]

    async def test_what_it_calls_may_call_it_again_and_none_of_that_counts_when_it_is_over(self, served: Any) -> None:
        class Subject(AsyncWebsocketConsumer):
            max_background = 1
            calls = 0

            async def connect(self) -> None:
                await self.accept()
                self.later(0, self.tick)

            async def tick(self) -> None:
                self.calls += 1
                if self.calls < 5:
                    self.later(0, self.tick)
                else:
                    await self.send(text_data="five calls")

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert await client.receive_from(timeout=30) == "five calls"

    async def test_a_delayed_call_may_be_cancelled_and_then_makes_room_for_another(self, served: Any) -> None:
        class Subject(Ticking):
            max_background = 1

            async def connect(self) -> None:
                await self.accept()
                self.later(0, self.never).cancel()
                await asyncio.sleep(0)
                self.later(0, self.tick)

            async def never(self) -> None:
                raise AssertionError("it was cancelled")

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert await client.receive_from(timeout=30) == "tick"

    async def test_a_failure_of_a_delayed_call_is_logged_and_given_to_the_hook(self, served: Any, caplog: Any) -> None:
        class Subject(FailingTicks):
            async def connect(self) -> None:
                await self.accept()
                self.later(0, self.tick)

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert await client.receive_from(timeout=30) == "LookupError"
        assert caplog.text.count("background work failed") == 1

    async def test_in_a_synchronous_consumer_it_is_called_in_its_thread(self, served: Any) -> None:
        class Subject(TickingInAThread):
            def connect(self) -> None:
                self.accept()
                self.later(0.001, self.tick)

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert await client.receive_from(timeout=30) == "tick"


class TestPost:
    async def test_an_event_is_handled_before_all_else_that_waits(self, served: Any) -> None:
        class Subject(AsyncWebsocketConsumer):
            async def connect(self) -> None:
                await self.accept()
                asyncio.get_running_loop().call_soon(self.post, {"type": "note", "text": "posted"})

            async def note(self, event: Any) -> None:
                await self.send(text_data=event["text"])

            async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
                if text_data == "first":
                    self.post({"type": "note", "text": "posted by the first"})
                    await asyncio.sleep(0.01)
                await self.send(text_data=text_data)

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()
            assert await client.receive_from(timeout=30) == "posted"
            await client.send_to("first")
            await client.send_to("second")

            seen = [await client.receive_from(timeout=30) for _ in range(3)]
        assert seen == ["first", "posted by the first", "second"]

    async def test_a_synchronous_consumer_may_post_from_a_thread_of_its_own(self, served: Any) -> None:
        class Subject(WebsocketConsumer):
            def connect(self) -> None:
                self.accept()
                threading.Thread(target=self.post, args=[{"type": "note"}]).start()

            def note(self, event: Any) -> None:
                self.send(text_data="posted")

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            await client.connect()

            assert await client.receive_from(timeout=30) == "posted"

    async def test_too_many_events_are_an_error_of_whoever_posts_them(self, served: Any) -> None:
        class Subject(AsyncWebsocketConsumer):
            async def connect(self) -> None:
                await self.accept()
                for _ in range(MAX_POSTED):
                    self.post({"type": "note"})
                with pytest.raises(RuntimeError, match="10000 events"):
                    self.post({"type": "note"})

            async def note(self, event: Any) -> None:
                pass

        async with WebsocketCommunicator(served(Subject.as_asgi()), "/") as client:
            assert (await client.connect())[0]
