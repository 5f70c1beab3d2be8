"""Topic names, topic filters, and the trees against the letter of the specification."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocols.mqtt.broker.retained_messages import RetainedMessages
from protocols.mqtt.broker.subscription_tree import SubscriptionTree
from protocols.mqtt.codec.errors import InvalidTopicError
from protocols.mqtt.codec.packets import ReasonCode
from protocols.mqtt.codec.topic_rules import matches, split_shared, validate_topic_filter, validate_topic_name
from protocols.mqtt.message import Message

# Few level names, so that filters and topics meet; empty levels and "$" are where trees go wrong.
levels = st.sampled_from(("", "a", "b", "$SYS", "a$"))
topics = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)
filter_heads = st.lists(st.one_of(levels, st.just("+")), min_size=0, max_size=4)
topic_filters = st.builds(
    lambda head, tail: "/".join([*head, *tail]), filter_heads, st.sampled_from(([], ["#"], ["+"], ["a"]))
).filter(bool)


class TestNames:
    @pytest.mark.parametrize("topic", ["a", "/", "a/b", "/a", "a/", " ", "a b", "$SYS/x", "\ufeff", "a" * 65_535])
    def test_a_message_can_be_published_to(self, topic: str) -> None:
        validate_topic_name(topic)

    @pytest.mark.mqtt(
        "MQTT5-4.7.0-1",
        "MQTT5-4.7.3-1",
        "MQTT5-4.7.3-2",
        "MQTT5-4.7.3-3",
        "MQTT3-4.7.1-1",
        "MQTT3-4.7.3-1",
        "MQTT3-4.7.3-2",
        "MQTT3-4.7.3-3",
    )
    @pytest.mark.parametrize(
        ("topic", "rule"),
        [
            ("", "MQTT5-4.7.3-1"),
            ("a/+", "MQTT5-3.3.2-2"),
            ("a#", "MQTT5-3.3.2-2"),
            ("a\0", "MQTT5-4.7.3-2"),
            ("\ud800", "MQTT5-1.5.4-1"),
            ("a" * 65_536, "MQTT5-4.7.3-3"),
            ("\u00e9" * 32_768, "MQTT5-4.7.3-3"),
        ],
    )
    def test_a_message_cannot_be_published_to(self, topic: str, rule: str) -> None:
        with pytest.raises(InvalidTopicError) as caught:
            validate_topic_name(topic)

        assert caught.value.reason_code == ReasonCode.TOPIC_NAME_INVALID


class TestFilters:
    @pytest.mark.parametrize(
        "topic_filter",
        [
            "#",
            "+",
            "/",
            "a/#",
            "+/a",
            "a/+/b",
            "+/+/#",
            "/+",
            "$SYS/#",
            "$share/g/a",
            "$share/g/#",
            "$share/g//",
            "$share",
        ],
    )
    def test_a_valid_filter_is_taken(self, topic_filter: str) -> None:
        validate_topic_filter(topic_filter)

    @pytest.mark.mqtt(
        "MQTT5-4.7.1-1",
        "MQTT5-4.7.1-2",
        "MQTT5-4.7.3-1",
        "MQTT5-4.7.3-2",
        "MQTT5-4.7.3-3",
        "MQTT5-4.8.2-1",
        "MQTT5-4.8.2-2",
        "MQTT3-4.7.1-2",
        "MQTT3-4.7.1-3",
    )
    @pytest.mark.parametrize(
        ("topic_filter", "rule"),
        [
            ("", "MQTT5-4.7.3-1"),
            ("a\0", "MQTT5-4.7.3-2"),
            ("a" * 65_536, "MQTT5-4.7.3-3"),
            ("#/a", "MQTT5-4.7.1-1"),
            ("a/#/b", "MQTT5-4.7.1-1"),
            ("a#", "MQTT5-4.7.1-1"),
            ("a/b#", "MQTT5-4.7.1-1"),
            ("##", "MQTT5-4.7.1-1"),
            ("a+", "MQTT5-4.7.1-2"),
            ("+a/b", "MQTT5-4.7.1-2"),
            ("++", "MQTT5-4.7.1-2"),
            ("$share/", "MQTT5-4.8.2-1"),
            ("$share//a", "MQTT5-4.8.2-1"),
            ("$share/g+/a", "MQTT5-4.8.2-2"),
            ("$share/#/a", "MQTT5-4.8.2-2"),
            ("$share/g", "MQTT5-4.8.2-2"),
            ("$share/g/", "MQTT5-4.8.2-2"),
            ("$share/g/a#", "MQTT5-4.7.1-1"),
        ],
    )
    def test_an_invalid_filter_is_refused(self, topic_filter: str, rule: str) -> None:
        with pytest.raises(InvalidTopicError) as caught:
            validate_topic_filter(topic_filter)

        assert caught.value.reason_code == ReasonCode.TOPIC_FILTER_INVALID

    @pytest.mark.parametrize(
        ("topic_filter", "parts"),
        [
            ("a/b", (None, "a/b")),
            ("$share/g/a/+", ("g", "a/+")),
            ("$share/g//", ("g", "/")),
            ("$SYS/share", (None, "$SYS/share")),
        ],
    )
    def test_a_filter_of_a_shared_subscription_has_two_parts(
        self, topic_filter: str, parts: tuple[str | None, str]
    ) -> None:
        """[MQTT5-4.8.2]"""
        assert split_shared(topic_filter) == parts


class TestMatching:
    """The examples of [MQTT5-4.7.1] and [MQTT5-4.7.2]."""

    @pytest.mark.mqtt(
        "MQTT5-4.7.2-1", "MQTT5-4.7.3-4", "MQTT5-3.3.2-3", "MQTT3-4.7.2-1", "MQTT3-4.7.3-4", "MQTT3-3.3.2-3"
    )
    @pytest.mark.parametrize(
        ("topic_filter", "topic", "expected"),
        [
            ("sport/tennis/player1/#", "sport/tennis/player1", True),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
            ("sport/#", "sport", True),
            ("#", "sport/tennis", True),
            ("sport/tennis/+", "sport/tennis/player1", True),
            ("sport/tennis/+", "sport/tennis/player1/ranking", False),
            ("sport/+", "sport", False),
            ("sport/+", "sport/", True),
            ("+/+", "/finance", True),
            ("/+", "/finance", True),
            ("+", "/finance", False),
            ("#", "$SYS/monitor", False),
            ("+/monitor/Clients", "$SYS/monitor/Clients", False),
            ("$SYS/#", "$SYS/monitor", True),
            ("$SYS/#", "$SYS", True),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
            ("a/+", "a/$b", True),
            ("ACCOUNTS", "Accounts", False),
            ("/a", "a", False),
            ("a/", "a", False),
            ("+/#", "a", True),
            ("+/+/#", "a", False),
        ],
    )
    def test_a_filter_matches_a_topic_everywhere_alike(self, topic_filter: str, topic: str, expected: bool) -> None:
        subscriptions: SubscriptionTree[str] = SubscriptionTree()
        subscriptions.add(topic_filter, "client", "value")
        retained = RetainedMessages()
        retained.put(Message(topic, b"", now=0.0))

        assert matches(topic_filter, topic) is expected
        assert subscriptions.match(topic) == (["value"] if expected else [])
        assert [one.topic for one in retained.match(topic_filter)] == ([topic] if expected else [])

    @given(st.lists(topic_filters, max_size=20), topics)
    def test_the_tree_of_filters_agrees_with_the_reference(self, filters: list[str], topic: str) -> None:
        tree: SubscriptionTree[str] = SubscriptionTree()
        for topic_filter in filters:
            tree.add(topic_filter, "client", topic_filter)

        assert sorted(tree.match(topic)) == sorted(each for each in set(filters) if matches(each, topic))

    @given(st.lists(topics, max_size=20), topic_filters)
    def test_the_tree_of_topics_agrees_with_the_reference(self, stored: list[str], topic_filter: str) -> None:
        retained = RetainedMessages()
        for topic in stored:
            retained.put(Message(topic, b"", now=0.0))

        expected = sorted(topic for topic in set(stored) if matches(topic_filter, topic))
        assert sorted(message.topic for message in retained.match(topic_filter)) == expected


class SubscriptionTreeMachine(RuleBasedStateMachine):
    """A tree after any adds and removes equals a dict of what was added and not removed."""

    def __init__(self) -> None:
        super().__init__()
        self.tree: SubscriptionTree[int] = SubscriptionTree()
        self.model: dict[tuple[str, str], int] = {}

    @rule(topic_filter=topic_filters, key=st.sampled_from("xyz"), value=st.integers())
    def add(self, topic_filter: str, key: str, value: int) -> None:
        assert self.tree.add(topic_filter, key, value) is ((topic_filter, key) not in self.model)
        self.model[topic_filter, key] = value

    @rule(topic_filter=topic_filters, key=st.sampled_from("xyz"))
    def remove(self, topic_filter: str, key: str) -> None:
        assert self.tree.remove(topic_filter, key) is (self.model.pop((topic_filter, key), None) is not None)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove_one_of_those_there(self, data: st.DataObject) -> None:
        topic_filter, key = data.draw(st.sampled_from(sorted(self.model)))
        self.remove(topic_filter, key)

    @rule(topic=topics)
    def match(self, topic: str) -> None:
        expected = [value for (topic_filter, _), value in self.model.items() if matches(topic_filter, topic)]
        assert sorted(self.tree.match(topic)) == sorted(expected)

    @invariant()
    def nothing_is_left_of_what_was_removed(self) -> None:
        assert len(self.tree) == len(self.model)
        if not self.model:
            assert not self.tree._exact
            assert not self.tree._root.children


class RetainedMessagesMachine(RuleBasedStateMachine):
    """Retained messages after any puts and removes equal a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.retained = RetainedMessages()
        self.model: dict[str, Message] = {}

    @rule(topic=topics, payload=st.binary(max_size=9))
    def put(self, topic: str, payload: bytes) -> None:
        message = self.model[topic] = Message(topic, payload, now=0.0)
        self.retained.put(message)

    @rule(topic=topics)
    def remove(self, topic: str) -> None:
        self.retained.remove(topic)
        self.model.pop(topic, None)

    @rule(topic_filter=topic_filters)
    def match(self, topic_filter: str) -> None:
        expected = {topic: message for topic, message in self.model.items() if matches(topic_filter, topic)}
        found = self.retained.match(topic_filter)
        assert {message.topic: message for message in found} == expected
        assert len(found) == len(expected)

    @invariant()
    def nothing_is_left_of_what_was_removed(self) -> None:
        assert len(self.retained) == len(self.model)
        assert self.retained.size_bytes == sum(message.size_bytes for message in self.model.values())
        assert all(self.retained.get(topic) is message for topic, message in self.model.items())
        if not self.model:
            assert not self.retained._root.children
            assert self.retained.levels == 0


TestSubscriptionTreeMachine = SubscriptionTreeMachine.TestCase
TestSubscriptionTreeMachine.settings = settings(max_examples=50, stateful_step_count=30)
TestRetainedMessagesMachine = RetainedMessagesMachine.TestCase
TestRetainedMessagesMachine.settings = settings(max_examples=50, stateful_step_count=30)


class TestCost:
    def test_the_deepest_topic_and_filter_are_handled(self) -> None:
        deepest = "/".join("a" * 32_768)
        tree: SubscriptionTree[str] = SubscriptionTree()
        retained = RetainedMessages()
        for topic_filter in (deepest, deepest[:-1] + "+", deepest[:-1] + "#"):
            validate_topic_filter(topic_filter)
            tree.add(topic_filter, "client", topic_filter)
        retained.put(Message(deepest, b"", now=0.0))

        assert len(tree.match(deepest)) == 3
        assert len(retained.match(deepest[:-1] + "#")) == 1

        for topic_filter in (deepest, deepest[:-1] + "+", deepest[:-1] + "#"):
            assert tree.remove(topic_filter, "client")
        retained.remove(deepest)
        assert not tree._root.children
        assert not retained._root.children

    def test_subscriptions_that_do_not_match_are_not_visited(self) -> None:
        """Counted, not timed: the children of a node are looked up by name and never walked."""

        class CountingDict(dict[str, object]):
            walks = 0

            def __iter__(self):  # type: ignore[no-untyped-def]
                type(self).walks += 1
                return super().__iter__()

            def items(self):  # type: ignore[no-untyped-def]
                type(self).walks += 1
                return super().items()

            def values(self):  # type: ignore[no-untyped-def]
                type(self).walks += 1
                return super().values()

        tree: SubscriptionTree[int] = SubscriptionTree()
        for index in range(1000):
            tree.add(f"devices/{index}/+", index, index)
        devices = tree._root.children["devices"]
        devices.children = CountingDict(devices.children)  # type: ignore[assignment]

        assert tree.match("devices/500/temperature") == [500]
        assert CountingDict.walks == 0


class TestWhatASubscriptionTreeRemembers:
    """Of the topics that were looked up; that it never matters is shown by SubscriptionTreeMachine."""

    def test_what_a_tree_remembers_is_forgotten_when_a_filter_comes_or_goes(self) -> None:
        tree: SubscriptionTree[int] = SubscriptionTree()
        tree.add("a/+", "one", 1)
        assert list(tree.match("a/b")) == [1]
        tree.add("#", "two", 2)
        assert sorted(tree.match("a/b")) == [1, 2]
        tree.remove("a/+", "one")
        assert list(tree.match("a/b")) == [2]
        tree.add("#", "two", 3)
        assert list(tree.match("a/b")) == [3]

    def test_what_a_tree_remembers_is_bounded_in_topics_their_length_and_their_matches(self) -> None:
        tree: SubscriptionTree[int] = SubscriptionTree()
        tree.add("+", "one", 1)
        for number in range(5_000):
            tree.match(str(number))
        tree.match("x" * 60_000)
        for number in range(9):
            tree.add("many/+", number, number)
        tree.match("many/matches")

        assert len(tree._found) <= 4_096
        assert all(len(topic) <= 128 and len(found) <= 8 for topic, found in tree._found.items())
        assert len(tree.match("many/matches")) == 9
