"""The inbox of an application: order, back-pressure and one disconnect event."""

import asyncio

import pytest

from protocols.inbox import Inbox


async def passes(count: int = 6) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_inbox_gives_events_in_the_order_they_came_and_the_disconnect_after_them() -> None:
    inbox = Inbox()
    inbox.feed({"type": "a"}, 1)
    inbox.disconnect({"type": "gone"})
    inbox.feed({"type": "b"}, 1)

    assert [(await inbox.receive())["type"] for _ in range(4)] == ["a", "b", "gone", "gone"]


async def test_a_second_disconnect_does_not_count() -> None:
    inbox = Inbox()
    inbox.disconnect({"type": "gone", "code": 1})
    inbox.disconnect({"type": "gone", "code": 2})

    assert (await inbox.receive())["code"] == 1


async def test_an_inbox_stops_the_socket_over_the_high_water_mark_and_restarts_it_when_empty() -> None:
    calls: list[str] = []
    inbox = Inbox(pause=lambda: calls.append("pause"), resume=lambda: calls.append("resume"), high_water_bytes=10)
    for _ in range(3):
        inbox.feed({"type": "a"}, 6)
    assert calls == ["pause"]

    await inbox.receive()
    await inbox.receive()
    assert calls == ["pause"]
    await inbox.receive()
    assert calls == ["pause", "resume"]


async def test_a_waiter_that_is_cancelled_loses_nothing() -> None:
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.receive())
    await passes()
    waiting.cancel()
    inbox.feed({"type": "a"}, 1)
    await passes()

    assert (await inbox.receive())["type"] == "a"


async def test_next_takes_events_before_messages_and_receive_takes_no_messages() -> None:
    inbox = Inbox()
    inbox.deliver({"type": "message"})
    inbox.feed({"type": "event"}, 1)

    assert (await inbox.next())["type"] == "event"
    assert (await inbox.next())["type"] == "message"


async def test_two_waiting_tasks_are_an_error_that_says_so() -> None:
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.receive())
    await passes()

    with pytest.raises(RuntimeError, match="one place only"):
        await inbox.receive()
    waiting.cancel()


async def test_an_unread_event_comes_again_before_the_others() -> None:
    inbox = Inbox()
    inbox.feed({"type": "first"}, 1)
    inbox.feed({"type": "second"}, 1)
    inbox.unread(await inbox.receive())

    assert [(await inbox.receive())["type"] for _ in range(2)] == ["first", "second"]


async def test_what_a_consumer_posts_comes_before_all_else_to_next_only() -> None:
    inbox = Inbox()
    inbox.feed({"type": "event"}, 1)
    inbox.post({"type": "posted"})

    assert (await inbox.receive())["type"] == "event"
    inbox.feed({"type": "event"}, 1)
    assert [(await inbox.next())["type"] for _ in range(2)] == ["posted", "event"]


async def test_messages_that_wait_at_the_disconnect_are_not_given_out() -> None:
    inbox = Inbox()
    inbox.deliver({"type": "message"})
    inbox.disconnect({"type": "gone"})

    assert (await inbox.next())["type"] == "gone"
    assert inbox.finished


async def test_discarded_events_leave_the_disconnect_as_the_next() -> None:
    inbox = Inbox()
    inbox.feed_many([{"type": "a"}, {"type": "b"}], 2)
    inbox.disconnect({"type": "gone"})

    assert inbox.discard_events() == 2
    assert (await inbox.next())["type"] == "gone"
