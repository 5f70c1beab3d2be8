"""What the broker relies on in a store of sessions and of retained messages; each implementation has to pass."""

from collections import Counter

import pytest

from protocols.mqtt.broker.retained_messages import MemoryRetainedStore, MemorySessionStore, RetainedStore, SessionStore
from protocols.mqtt.broker.session import Session
from protocols.mqtt.message import Message
from protocols.mqtt.options import MqttOptions


def session(client_id: str) -> Session:
    return Session(client_id, options=MqttOptions(), dropped=Counter())


def message(topic: str, payload: bytes = b"x") -> Message:
    return Message(topic, payload, retain=True, now=0.0)


@pytest.fixture(params=[MemorySessionStore])
def sessions(request: pytest.FixtureRequest) -> SessionStore:
    store: SessionStore = request.param()
    return store


@pytest.fixture(params=[MemoryRetainedStore])
def retained(request: pytest.FixtureRequest) -> RetainedStore:
    store: RetainedStore = request.param()
    return store


class TestSessionStore:
    def test_it_keeps_one_session_per_client_identifier(self, sessions: SessionStore) -> None:
        first, second = session("a"), session("a")
        sessions.put(first)
        sessions.put(second)

        assert sessions.get("a") is second
        assert sessions.get("b") is None
        assert list(sessions) == [second]
        assert len(sessions) == 1

    def test_it_forgets_exactly_the_session_it_is_told(self, sessions: SessionStore) -> None:
        old, new = session("a"), session("a")
        sessions.put(new)

        sessions.remove(old)
        assert sessions.get("a") is new

        sessions.remove(new)
        sessions.remove(new)
        assert len(sessions) == 0


class TestRetainedStore:
    def test_it_keeps_one_message_per_topic(self, retained: RetainedStore) -> None:
        retained.put(message("a"))
        last = message("a", b"longer")
        retained.put(last)

        assert retained.get("a") is last
        assert len(retained) == 1
        assert retained.size_bytes == len("a") + len("longer")

    def test_it_finds_by_filter(self, retained: RetainedStore) -> None:
        for topic in ("a/b", "a/c", "d"):
            retained.put(message(topic))

        assert sorted(found.topic for found in retained.match("a/+")) == ["a/b", "a/c"]
        assert [found.topic for found in retained.match("d")] == ["d"]
        assert retained.match("e") == []

    def test_it_forgets(self, retained: RetainedStore) -> None:
        retained.put(message("a"))

        retained.remove("a")
        retained.remove("a")

        assert retained.get("a") is None
        assert (len(retained), retained.size_bytes, retained.levels) == (0, 0, 0)

    def test_it_counts_the_levels_of_topics_that_begin_alike_once(self, retained: RetainedStore) -> None:
        for topic in ("a/b", "a/c/d", "a"):
            retained.put(message(topic))
        assert retained.levels == 4

        retained.remove("a/c/d")
        assert retained.levels == 2

        retained.remove("a")
        assert retained.levels == 2
