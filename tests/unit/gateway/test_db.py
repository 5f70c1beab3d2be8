"""Database connections are given back after each handler, and left alone inside a transaction."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.db import connections, transaction
from django.test import TestCase

from gateway.consumer import AsyncConsumer, SyncConsumer
from gateway.db import aclose_old_connections, close_old_connections, database_sync_to_async
from gateway.dispatch import threads
from gateway.testing import ApplicationCommunicator
from tests.support.databases import default_database


class AsyncCounting(AsyncConsumer):
    async def count(self, event: Any) -> None:
        await self.send({"type": "count", "count": await get_user_model().objects.acount()})


class SyncCounting(SyncConsumer):
    def count(self, event: Any) -> None:
        self.send({"type": "count", "count": get_user_model().objects.count()})


@pytest.mark.parametrize("consumer", [AsyncCounting, SyncCounting])
class TestInsideTheTransactionOfATestCase:
    """As pytest-django's `db` and Django's TestCase have it: the test and the consumer see one transaction."""

    @pytest.mark.django_db
    def test_a_consumer_sees_what_the_test_has_made(self, consumer: type[AsyncConsumer]) -> None:
        get_user_model().objects.create_user("alice")

        async def talk() -> Any:
            async with ApplicationCommunicator(consumer.as_asgi(), {"type": "test"}) as communicator:
                await communicator.send_input({"type": "count"})
                return await communicator.receive_output()

        assert async_to_sync(talk)() == {"type": "count", "count": 1}
        assert get_user_model().objects.count() == 1


class TestCaseWithAConsumer(TestCase):
    async def test_the_connection_stays_open(self) -> None:
        await get_user_model().objects.acreate(username="bob")
        async with ApplicationCommunicator(SyncCounting.as_asgi(), {"type": "test"}) as communicator:
            await communicator.send_input({"type": "count"})
            answer = await communicator.receive_output()

        assert answer == {"type": "count", "count": 1}
        assert await get_user_model().objects.acount() == 1


class Threaded(AsyncConsumer):
    async def name(self, event: Any) -> None:
        await self.send({"type": "name", "thread": await database_sync_to_async(threading.get_ident)()})


@pytest.mark.django_db(transaction=True)
async def test_a_database_in_memory_is_used_in_one_thread_by_the_test_and_all_consumers() -> None:
    """SQLite does not let a connection to it wait for another one: each would find tables locked now and then."""
    thread = await database_sync_to_async(threading.get_ident)()
    for _ in range(2):
        async with ApplicationCommunicator(Threaded.as_asgi(), {"type": "test"}) as communicator:
            await communicator.send_input({"type": "name"})
            assert await communicator.receive_output(timeout=30) == {"type": "name", "thread": thread}


@pytest.fixture
def file_database(tmp_path: Path, django_db_blocker: Any) -> Iterator[None]:
    """`default` is a file whose connections are not kept: Django's databases for tests are in memory, and those are
    never closed. Django's own backend makes the file.
    """
    settings = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "test.sqlite3"}
    with django_db_blocker.unblock(), default_database(settings):
        yield


def query() -> None:
    connections["default"].ensure_connection()


def is_open() -> bool:
    return connections["default"].connection is not None


class AsyncQuerying(AsyncConsumer):
    async def query(self, event: Any) -> None:
        await sync_to_async(query)()  # as asynchronous methods of the ORM do it
        await self.send({"type": "done", "open": await sync_to_async(is_open)()})


class SyncQuerying(SyncConsumer):
    def query(self, event: Any) -> None:
        query()
        self.send({"type": "done", "open": is_open()})


@pytest.mark.parametrize("consumer", [AsyncQuerying, SyncQuerying])
async def test_a_handler_leaves_no_connection_open(
    consumer: type[AsyncConsumer], file_database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = threads.ThreadPool(size=1)
    monkeypatch.setattr(threads, "_pool", pool)

    async with ApplicationCommunicator(consumer.as_asgi(), {"type": "test"}) as communicator:
        await communicator.send_input({"type": "query"})
        assert await communicator.receive_output() == {"type": "done", "open": True}
        await communicator.receive_nothing(timeout=0)

        assert not await asyncio.wrap_future(pool.least_busy().submit(is_open))


@pytest.fixture
def kept(file_database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connections are kept."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)


@pytest.mark.parametrize("consumer", [AsyncQuerying, SyncQuerying])
async def test_a_connection_that_is_to_be_kept_is_kept_until_the_threads_are_told_to_close_theirs(
    consumer: type[AsyncConsumer], kept: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = threads.ThreadPool(size=1)
    monkeypatch.setattr(threads, "_pool", pool)
    async with ApplicationCommunicator(consumer.as_asgi(), {"type": "test"}) as communicator:
        await communicator.send_input({"type": "query"})
        await communicator.receive_output()
    await database_sync_to_async(query)()
    assert await asyncio.wrap_future(pool.least_busy().submit(is_open))
    assert await sync_to_async(is_open)()

    await threads.close_connections()

    assert not await asyncio.wrap_future(pool.least_busy().submit(is_open))
    assert not await sync_to_async(is_open)()


async def test_a_thread_that_waits_for_its_database_is_not_waited_for_beyond_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = threads.ThreadPool(size=1)
    answered = threading.Event()
    waiting = pool.least_busy().submit(answered.wait)

    await threads.close_connections(timeout_s=0.01)

    assert not waiting.done()
    answered.set()


async def test_database_sync_to_async_closes_what_the_call_has_opened(file_database: None) -> None:
    await database_sync_to_async(query)()

    assert not await sync_to_async(is_open)()


async def test_aclose_old_connections_closes_what_async_orm_use_has_opened(file_database: None) -> None:
    await sync_to_async(query)()
    assert await sync_to_async(is_open)()
    await aclose_old_connections()

    assert not await sync_to_async(is_open)()


def test_a_connection_in_a_transaction_is_left_open(file_database: None) -> None:
    with transaction.atomic():
        close_old_connections()

        assert is_open()


def test_a_connection_that_is_no_longer_in_one_is_closed(file_database: None) -> None:
    with transaction.atomic():
        pass
    close_old_connections()

    assert not is_open()


def test_a_database_in_memory_stays_open(django_db_setup: None, django_db_blocker: Any) -> None:
    """Django does not close it; asking would be taken by pytest-django for an access without the mark."""
    with django_db_blocker.unblock():
        connections["default"].ensure_connection()
    with django_db_blocker.block():
        close_old_connections()

    assert connections["default"].connection is not None
