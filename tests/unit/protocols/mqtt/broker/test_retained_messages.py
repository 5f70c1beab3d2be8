"""Retained messages by topic: one each, found by filter, counted."""

import pytest

from protocols.mqtt.broker.retained_messages import RetainedMessages
from protocols.mqtt.message import Message


def message(topic: str, payload: bytes = b"x") -> Message:
    return Message(topic, payload, retain=True, now=0.0)


@pytest.fixture
def retained() -> RetainedMessages:
    return RetainedMessages()


def test_one_message_is_kept_per_topic(retained: RetainedMessages) -> None:
    retained.put(message("a"))
    last = message("a", b"longer")
    retained.put(last)

    assert retained.get("a") is last
    assert len(retained) == 1
    assert retained.size_bytes == len("a") + len("longer")


def test_messages_are_found_by_filter(retained: RetainedMessages) -> None:
    for topic in ("a/b", "a/c", "d"):
        retained.put(message(topic))

    assert sorted(found.topic for found in retained.match("a/+")) == ["a/b", "a/c"]
    assert [found.topic for found in retained.match("d")] == ["d"]
    assert retained.match("e") == []


def test_a_message_that_is_removed_leaves_nothing(retained: RetainedMessages) -> None:
    retained.put(message("a"))

    retained.remove("a")
    retained.remove("a")

    assert retained.get("a") is None
    assert (len(retained), retained.size_bytes, retained.levels) == (0, 0, 0)


def test_levels_of_topics_that_begin_alike_are_counted_once(retained: RetainedMessages) -> None:
    for topic in ("a/b", "a/c/d", "a"):
        retained.put(message(topic))
    assert retained.levels == 4

    retained.remove("a/c/d")
    assert retained.levels == 2

    retained.remove("a")
    assert retained.levels == 2
