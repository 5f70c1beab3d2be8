"""Synchronous consumers: in order within a connection, side by side across connections, in a bounded pool."""

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from gateway.consumer import SyncConsumer
from gateway.dispatch import threads
from gateway.exceptions import StopConsumer
from gateway.layers import InMemoryChannelLayer
from gateway.testing import ApplicationCommunicator
from protocols.asgi import Application, Receive, Scope, Send


class Echo(SyncConsumer):
    def test_call(self, event: dict[str, Any]) -> None:
        self.send({"type": "called", "thread": threading.current_thread() is not threading.main_thread()})

    def test_stop(self, event: dict[str, Any]) -> None:
        raise StopConsumer

    def test_fail(self, event: dict[str, Any]) -> None:
        raise ZeroDivisionError


async def test_handlers_run_in_a_thread(served: Any) -> None:
    async with ApplicationCommunicator(served(Echo.as_asgi()), {"type": "test"}) as connection:
        await connection.send_input({"type": "test.call"})

        assert await connection.receive_output() == {"type": "called", "thread": True}


async def test_a_handler_may_stop_the_consumer(served: Any) -> None:
    connection = ApplicationCommunicator(served(Echo.as_asgi()), {"type": "test"})
    await connection.send_input({"type": "test.stop"})
    await connection.wait()


async def test_what_a_handler_raises_ends_the_consumer(served: Any) -> None:
    connection = ApplicationCommunicator(served(Echo.as_asgi()), {"type": "test"})
    await connection.send_input({"type": "test.fail"})
    with pytest.raises(ZeroDivisionError):
        await connection.wait()


async def test_an_unknown_event_ends_the_consumer(served: Any) -> None:
    connection = ApplicationCommunicator(served(Echo.as_asgi()), {"type": "test"})
    await connection.send_input({"type": "unknown"})
    with pytest.raises(ValueError, match="No handler for message type unknown"):
        await connection.wait()


async def test_a_handler_uses_the_layer_through_async_to_sync(served: Any, layer: InMemoryChannelLayer) -> None:
    class Sending(SyncConsumer):
        def relay(self, event: dict[str, Any]) -> None:
            assert self.channel_layer is not None
            async_to_sync(self.channel_layer.send)(self.channel_name, {"type": "arrived"})

        def arrived(self, event: dict[str, Any]) -> None:
            self.send({"type": "done"})

    async with ApplicationCommunicator(served(Sending.as_asgi()), {"type": "test"}) as connection:
        await connection.send_input({"type": "relay"})

        assert await connection.receive_output() == {"type": "done"}


async def test_a_thread_that_a_handler_has_started_may_send(served: Any) -> None:
    """At once: nothing but that event wakes the event loop, and it is sent in there."""
    sent_in = []

    class Working(SyncConsumer):
        def work(self, event: dict[str, Any]) -> None:
            threading.Thread(target=self.send, args=[{"type": "done"}]).start()

    def noting(application: Application) -> Application:
        async def noted(scope: Scope, receive: Receive, send: Send) -> None:
            async def noting_send(event: Any) -> None:
                sent_in.append(asyncio.get_running_loop())
                await send(event)

            await application(scope, receive, noting_send)

        return noted

    async with ApplicationCommunicator(noting(served(Working.as_asgi())), {"type": "test"}) as connection:
        await connection.send_input({"type": "work"})

        assert await connection.receive_output(timeout=30) == {"type": "done"}
    assert sent_in == [asyncio.get_running_loop()]


async def test_handlers_of_different_connections_run_at_the_same_time(served: Any) -> None:
    together = threading.Barrier(4, timeout=30)

    class Meeting(SyncConsumer):
        def meet(self, event: dict[str, Any]) -> None:
            together.wait()
            self.send({"type": "met"})

    connections = [ApplicationCommunicator(served(Meeting.as_asgi()), {"type": "test"}) for _ in range(4)]
    for connection in connections:
        await connection.send_input({"type": "meet"})

    for connection in connections:
        assert await connection.receive_output(timeout=30) == {"type": "met"}
        await connection.stop()


async def test_handlers_of_one_connection_run_in_order(served: Any) -> None:
    seen = []

    class Ordered(SyncConsumer):
        def number(self, event: dict[str, Any]) -> None:
            seen.append(event["n"])
            if event["n"] == 99:
                self.send({"type": "done"})

    async with ApplicationCommunicator(served(Ordered.as_asgi()), {"type": "test"}) as connection:
        for n in range(100):
            await connection.send_input({"type": "number", "n": n})
        await connection.receive_output()

    assert seen == list(range(100))


class TestThePool:
    def test_starts_threads_only_when_all_are_busy_and_no_more_than_its_size(self) -> None:
        pool = threads.ThreadPool(size=2)
        first = pool.least_busy()
        assert pool.least_busy() is first

        go_on = threading.Event()
        waiting = [first.submit(go_on.wait, 5)]
        second = pool.least_busy()
        assert second is not first

        waiting += [second.submit(go_on.wait, 5), second.submit(go_on.wait, 5)]
        assert pool.least_busy() is first
        go_on.set()
        assert all(future.result(5) for future in waiting)

    def test_the_pool_has_the_size_that_the_environment_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ASGI_THREADS", "3")

        assert threads.ThreadPool().size == 3

    async def test_the_pool_gives_all_calls_of_one_handler_the_same_thread(self) -> None:
        thread = threads.HandlerThread()
        thread.acquire()
        try:
            used = {await sync_to_async(threading.get_ident)() for _ in range(5)}
        finally:
            thread.release()

        assert len(used) == 1
        assert not thread.used

    async def test_the_pool_leaves_a_thread_sensitive_context_around_it_alone(self) -> None:
        from asgiref.sync import ThreadSensitiveContext

        async with ThreadSensitiveContext():
            outside = await sync_to_async(threading.get_ident)()
            thread = threads.HandlerThread()
            thread.acquire()
            inside = await sync_to_async(threading.get_ident)()
            thread.release()

        assert inside == outside

    async def test_no_thread_is_held_by_a_handler_that_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(threads, "_pool", threads.ThreadPool(size=1))
        release = asyncio.Event()

        async def handler() -> None:
            thread = threads.HandlerThread()
            thread.acquire()
            await sync_to_async(threading.get_ident)()
            await release.wait()
            thread.release()

        waiting = [asyncio.create_task(handler()) for _ in range(3)]
        thread = threads.HandlerThread()
        thread.acquire()
        await sync_to_async(threading.get_ident)()
        thread.release()
        release.set()
        await asyncio.gather(*waiting)
