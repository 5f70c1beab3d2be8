"""Topics are data of profiles: what each means, what a device may reach, and that nobody else knows any."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import devices.consumers
from devices.consumers.not_served import not_served
from devices.profiles import Match, Meaning, Topic, TopicTable, fill, installed_profiles, profile_of, reserved_topics
from devices.refusals import MessageRefusal

THINGSBOARD = profile_of("thingsboard")
CONSUMERS = Path(devices.consumers.__file__).parent

levels = st.text(st.characters(exclude_characters="/+#\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


class TestTable:
    table = TopicTable(
        Topic("a", Meaning.TELEMETRY),
        Topic("a/{id}", Meaning.CALL, "b/{id}"),
        Topic("a/{id}/c/{chunk}", Meaning.FIRMWARE_REQUEST),
    )

    def test_a_topic_is_found_with_what_stands_in_its_levels_and_where_the_answer_goes(self) -> None:
        assert self.table.find("a") == Match(Meaning.TELEMETRY)
        assert self.table.find("a/7") == Match(Meaning.CALL, {"id": "7"}, "b/7")
        assert self.table.find("a/7/c/0") == Match(Meaning.FIRMWARE_REQUEST, {"id": "7", "chunk": "0"})

    @pytest.mark.parametrize("name", ["", "b", "a/", "a//c/1", "a/1/2", "A", "a/1/c/2/3", "a\n", "a/1/c/2/"])
    def test_any_other_topic_is_not(self, name: str) -> None:
        assert self.table.find(name) is None

    def test_a_filter_is_that_of_a_row_or_of_none(self) -> None:
        assert self.table.subscription("a/+") == Topic("a/{id}", Meaning.CALL, "b/{id}")
        for other in ("a/1", "a/#", "#", "+", "a/{id}", "$share/g/a/+"):
            assert self.table.subscription(other) is None

    def test_two_rows_for_the_same_topics_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="two rows"):
            TopicTable(Topic("a/{one}", Meaning.CALL), Topic("a/{other}", Meaning.CLAIM))

    def test_an_answer_with_a_placeholder_of_its_own_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="has a placeholder"):
            TopicTable(Topic("a/{id}", Meaning.CALL, "b/{other}"))

    @given(levels, levels)
    def test_a_pattern_that_is_filled_in_is_found_again(self, one: str, other: str) -> None:
        name = fill("a/{id}/c/{chunk}", {"id": one, "chunk": other})

        assert self.table.find(name) == Match(Meaning.FIRMWARE_REQUEST, {"id": one, "chunk": other})


@pytest.mark.parametrize(
    ("topic", "meaning", "answer"),
    [
        ("v1/devices/me/telemetry", Meaning.TELEMETRY, None),
        ("v2/t", Meaning.TELEMETRY, None),
        ("v2/t/j", Meaning.TELEMETRY, None),
        ("v1/devices/me/attributes", Meaning.CLIENT_ATTRIBUTES, None),
        ("v2/a", Meaning.CLIENT_ATTRIBUTES, None),
        ("v1/devices/me/attributes/request/1", Meaning.ATTRIBUTES_REQUEST, "v1/devices/me/attributes/response/1"),
        ("v2/a/req/1", Meaning.ATTRIBUTES_REQUEST, "v2/a/res/1"),
        ("v2/a/req/j/1", Meaning.ATTRIBUTES_REQUEST, "v2/a/res/j/1"),
        ("v1/devices/me/rpc/response/5", Meaning.COMMAND_ANSWER, None),
        ("v2/r/res/5", Meaning.COMMAND_ANSWER, None),
        ("v1/devices/me/rpc/request/5", Meaning.CALL, "v1/devices/me/rpc/response/5"),
        ("v2/r/req/5", Meaning.CALL, "v2/r/res/5"),
        ("v1/devices/me/claim", Meaning.CLAIM, None),
        ("/provision/request", Meaning.PROVISION_REQUEST, "/provision/response"),
        ("v2/fw/request/3/chunk/0", Meaning.FIRMWARE_REQUEST, "v2/fw/response/3/chunk/0"),
        ("v2/sw/request/3/chunk/0", Meaning.SOFTWARE_REQUEST, "v2/sw/response/3/chunk/0"),
        ("v1/gateway/telemetry", Meaning.GATEWAY_TELEMETRY, None),
        ("v1/gateway/attributes/request", Meaning.GATEWAY_ATTRIBUTES_REQUEST, "v1/gateway/attributes/response"),
    ],
)
def test_what_thingsboard_firmware_publishes_means_this(topic: str, meaning: Meaning, answer: str | None) -> None:
    match = THINGSBOARD.uplink.find(topic)

    assert match is not None
    assert (match.meaning, match.answer_topic) == (meaning, answer)


@pytest.mark.parametrize("topic", THINGSBOARD.uplink.topics, ids=lambda topic: topic.pattern)
def test_the_answer_to_what_a_device_asks_is_something_that_it_may_subscribe_to(topic: Topic) -> None:
    if topic.answer is not None:
        assert THINGSBOARD.downlink.subscription(Topic(topic.answer, Meaning.CALL).topic_filter) is not None


class TestAccess:
    """A device reaches topics of its own only: all devices have the same, and each speaks with the gateway there."""

    @given(st.text() | st.lists(levels | st.sampled_from(["v1", "v2", "devices", "me", "+", "#"])).map("/".join))
    def test_no_filter_is_granted_but_those_in_the_table(self, topic_filter: str) -> None:
        granted = THINGSBOARD.downlink.subscription(topic_filter)

        assert granted is None or topic_filter in {topic.topic_filter for topic in THINGSBOARD.downlink.topics}

    @pytest.mark.parametrize("name", installed_profiles())
    def test_no_topic_of_the_table_is_anybody_elses(self, name: str) -> None:
        profile = installed_profiles()[name]
        for topic in (*profile.uplink.topics, *profile.downlink.topics):
            assert topic.pattern.startswith((*profile.reserved_topics, "/provision/")), topic
            assert "#" not in topic.pattern

    @given(levels.filter(lambda level: level != "me"), st.sampled_from(["telemetry", "attributes", "rpc/request/1"]))
    def test_the_topics_of_another_device_mean_nothing(self, other: str, rest: str) -> None:
        assert THINGSBOARD.uplink.find(f"v1/devices/{other}/{rest}") is None
        assert THINGSBOARD.downlink.subscription(f"v1/devices/{other}/{rest}") is None

    @given(st.text())
    def test_no_topic_and_no_path_raises_anything(self, name: str) -> None:
        for table in (THINGSBOARD.uplink, THINGSBOARD.requests, THINGSBOARD.bridged):
            table.find(name)
            table.subscription(name)


@pytest.mark.parametrize("meaning", Meaning)
def test_only_telemetry_and_what_gateways_say_is_never_acknowledged_and_ignored(meaning: Meaning) -> None:
    error = not_served(Match(meaning))

    is_telemetry = "TELEMETRY" in meaning.name or meaning.name.startswith("GATEWAY")
    assert error.refusal is (MessageRefusal.TOPIC if is_telemetry else MessageRefusal.IGNORED)
    assert meaning in error.text


def literals(path: Path) -> Iterator[str]:
    """The texts in a module that are no documentation."""
    tree = ast.parse(path.read_text())
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_consumers_know_no_topic_and_no_path_by_name() -> None:
    tables = [table for each in installed_profiles().values() for table in (each.uplink, each.downlink, each.bridged)]
    topics = {topic.pattern for table in tables for topic in table.topics}
    paths = {topic.pattern for each in installed_profiles().values() for topic in each.requests.topics}
    for path in CONSUMERS.rglob("*.py"):
        for text in literals(path):
            assert not any(prefix in text for prefix in reserved_topics()), (path, text)
            assert text not in topics | paths, (path, text)
