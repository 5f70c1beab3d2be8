"""The channels of one process, with a clock of the test's own: gateway.layers.local."""

import asyncio
import threading
from typing import Any

import pytest

from gateway.layers.base import GroupSendResult, LayerEvent
from gateway.layers.dropped import DropLog
from gateway.layers.local import LocalChannels


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def local(clock: Clock) -> LocalChannels:
    return LocalChannels(capacity=lambda name: 3, expiry=60, group_expiry=600, drops=DropLog(), clock=clock)


class TestExpiry:
    async def test_a_message_is_kept_up_to_the_expiry(self, local: LocalChannels, clock: Clock) -> None:
        local.put("a", {"type": "first"})
        clock.now += 59
        local.put("a", {"type": "second"})
        clock.now += 1

        assert await local.get("a") == {"type": "second"}

    def test_who_lets_a_message_expire_stays_in_its_groups(self, local: LocalChannels, clock: Clock) -> None:
        local.join("group", "late")
        local.put_group("group", {"type": "m"})

        clock.now += 61
        local.put("other", {"type": "m"})

        assert list(local.groups["group"]) == ["late"]
        assert local.put_group("group", {"type": "m"}).delivered == 1

    def test_who_lets_a_message_expire_leaves_its_groups_where_that_is_asked_for(self, clock: Clock) -> None:
        local = LocalChannels(
            capacity=lambda name: 3, expiry=60, group_expiry=600, late_readers_leave=True, drops=DropLog(), clock=clock
        )
        local.join("group", "dead")
        local.put_group("group", {"type": "m"})

        clock.now += 61
        local.put("other", {"type": "m"})

        assert local.groups == {}
        assert not local.knows("dead")

    def test_queues_that_nobody_reads_are_swept_away(self, local: LocalChannels, clock: Clock) -> None:
        for number in range(100):
            local.put(f"gone.{number}", {"type": "m"})

        clock.now += 61
        local.put("last", {"type": "m"})

        assert set(local.channels) == {"last"}

    async def test_a_member_leaves_after_the_group_expiry_unless_it_is_attached(
        self, local: LocalChannels, clock: Clock
    ) -> None:
        local.attach("alive", lambda message: None)
        local.join("group", "alive")
        local.join("group", "forgotten")

        clock.now += 601
        local.put("any", {"type": "m"})

        assert set(local.groups["group"]) == {"alive"}


class TestBounds:
    def test_a_full_queue_refuses_and_makes_room_by_expiry(self, local: LocalChannels, clock: Clock) -> None:
        assert [local.put("a", {"type": "m"}) for _ in range(4)] == [True, True, True, False]
        clock.now += 60

        assert local.put("a", {"type": "m"})

    async def test_a_channel_without_use_takes_no_memory(self, local: LocalChannels) -> None:
        local.open("a")
        local.attach("a", lambda message: None)
        local.join("one", "a")
        local.join("two", "a")
        assert local.detach("a") == ["one", "two"]
        local.put("b", {"type": "m"})
        await local.get("b")
        local.join("one", "c")
        assert local.leave("one", "c")
        waiting = asyncio.create_task(local.get("d"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})

        assert local.channels == {}
        assert local.groups == {}
        assert local.detach("a") == []
        assert not local.leave("one", "c")


class TestReaders:
    async def test_readers_are_served_in_the_order_they_came(self, local: LocalChannels) -> None:
        readers = [asyncio.create_task(local.get("a")) for _ in range(3)]
        await asyncio.sleep(0)
        for number in range(3):
            local.put("a", {"type": "m", "number": number})

        assert [message["number"] for message in await asyncio.gather(*readers)] == [0, 1, 2]

    async def test_a_reader_cancelled_after_it_was_woken_leaves_the_message_to_the_next(
        self, local: LocalChannels
    ) -> None:
        first, second = asyncio.create_task(local.get("a")), asyncio.create_task(local.get("a"))
        await asyncio.sleep(0)
        local.put("a", {"type": "m"})
        first.cancel()

        assert await asyncio.wait_for(second, 30) == {"type": "m"}

    async def test_unread_messages_can_be_taken_when_nobody_waits(self, local: LocalChannels) -> None:
        local.put("a", {"type": "m"})
        assert local.take_unread("a") == [{"type": "m"}]

        reader = asyncio.create_task(local.get("a"))
        await asyncio.sleep(0)
        assert local.waiting("a") == 1
        assert local.take_unread("a") == []
        local.put("a", {"type": "n"})
        assert await reader == {"type": "n"}
        assert local.waiting("a") == 0


class TestThreads:
    async def test_a_message_from_another_thread_is_delivered_in_the_loop_of_its_owner(
        self, local: LocalChannels
    ) -> None:
        threads: list[int] = []
        arrived = asyncio.Event()

        def deliver(message: dict[str, Any]) -> None:
            threads.append(threading.get_ident())
            arrived.set()

        local.attach("a", deliver)
        local.join("group", "a")

        result = await asyncio.to_thread(local.put_group, "group", {"type": "m"})
        await asyncio.wait_for(arrived.wait(), 1)

        assert result == GroupSendResult(1, 0)
        assert threads == [threading.get_ident()]

    async def test_a_reader_is_woken_from_another_thread(self, local: LocalChannels) -> None:
        reader = asyncio.create_task(local.get("a"))
        await asyncio.sleep(0)

        await asyncio.to_thread(local.put, "a", {"type": "m"})

        assert await asyncio.wait_for(reader, 30) == {"type": "m"}

    def test_the_owner_of_a_closed_loop_is_forgotten(self, local: LocalChannels) -> None:
        async def attach() -> None:
            local.attach("a", lambda message: None)
            local.join("group", "a")

        asyncio.run(attach())

        assert local.put_group("group", {"type": "m"}) == GroupSendResult(0, 1)
        assert local.groups == {}

    def test_messages_outlive_the_loop_that_they_were_sent_in(self, local: LocalChannels) -> None:
        async def send() -> None:
            local.put("a", {"type": "m"})

        asyncio.run(send())

        assert asyncio.run(local.get("a")) == {"type": "m"}


async def test_events_of_the_layer_go_to_attached_channels_only(local: LocalChannels) -> None:
    got: list[Any] = []
    local.attach("attached", got.append)
    local.open("read")

    local.announce(["attached", "read", "unknown"], LayerEvent(type="layer.reconnected", generation=1))

    assert got == [{"type": "layer.reconnected", "generation": 1}]
    assert isinstance(got[0], LayerEvent)
    assert local.channels["read"].messages is None
