"""Topics there and topics here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.bridge.topic_map import ReceiveRule, SendRule, TopicMap, check_pattern, filter_of, looping, overlap
from protocols.mqtt.codec.topic_rules import matches


@pytest.mark.parametrize(
    ("source", "target", "topic", "mapped"),
    [
        ("a/b", "a/b", "a/b", "a/b"),
        ("a/b", "c", "a/b", "c"),
        ("a/b", "c", "a/b/c", None),
        ("site/{device}/t", "v1/{device}/telemetry", "site/thermo-1/t", "v1/thermo-1/telemetry"),
        ("site/{device}/t", "v1/{device}/telemetry", "site//t", "v1//telemetry"),
        ("site/{device}/t", "v1/{device}/telemetry", "site/a/b/t", None),
        ("{a}/{b}", "{b}/{a}", "1/2", "2/1"),
        ("plant/#", "upstream/#", "plant/a/b", "upstream/a/b"),
        ("plant/#", "upstream/#", "plant", "upstream"),
        ("plant/#", "upstream/#", "plants", None),
        ("plant/#", "#", "plant/a", "a"),
        ("plant/#", "#", "plant", None),
        ("#", "upstream/#", "a/b", "upstream/a/b"),
        ("{site}/#", "x/{site}/y/#", "s/1/2", "x/s/y/1/2"),
        ("a.c/#", "b/#", "abc/1", None),
        ("line/{x}", "l/{x}", "line/a\nb", "l/a\nb"),
    ],
)
def test_what_a_placeholder_stands_for_is_put_in_its_place(
    source: str, target: str, topic: str, mapped: str | None
) -> None:
    assert TopicMap(source, target).apply(topic) == mapped


LEVELS = st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=4)


@given(LEVELS, st.lists(st.sampled_from(["a", "b", "{x}", "{y}", "#"]), min_size=1, max_size=4, unique=True))
def test_a_rule_is_about_the_topics_that_its_filter_matches(topic: list[str], pattern: list[str]) -> None:
    levels = [level for level in pattern if level != "#"] + ["#"] * ("#" in pattern)
    text = "/".join(levels)

    mapped = TopicMap(text, text).apply("/".join(topic))

    assert (mapped is not None) == matches(filter_of(text), "/".join(topic))


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "+", "#"]), min_size=1, max_size=3), min_size=2, max_size=2), LEVELS
)
def test_filters_overlap_if_a_topic_matches_both(filters: list[list[str]], topic: list[str]) -> None:
    one, other = (
        "/".join(level for i, level in enumerate(f) if level != "#" or i == len(f) - 1) or "a" for f in filters
    )
    name = "/".join(topic)

    if matches(one, name) and matches(other, name):
        assert overlap(one, other)
        assert overlap(other, one)


@pytest.mark.parametrize(
    ("one", "other", "overlapping"),
    [
        ("a/+", "+/b", True),
        ("a/#", "a", True),
        ("a/b", "a", False),
        ("a/+", "a", False),
        ("a/+/c", "a/b/d", False),
        ("#", "x/y", True),
    ],
)
def test_filters_that_no_topic_matches_both_of_do_not_overlap(one: str, other: str, overlapping: bool) -> None:
    assert overlap(one, other) is overlapping


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("", "is not empty"),
        ("a/+", "has a name here"),
        ("a/#/b", "last level"),
        ("a/b#", "fills its level"),
        ("a/{x}y", "fills its level"),
        ("a/{}", "fills its level"),
        ("a/{1}", "fills its level"),
        ("{x}/{x}", "there twice"),
        ("$share/g/a", "the key share"),
        ("a\0b", r"U\+0000"),
    ],
)
def test_a_pattern_says_what_is_wrong_with_it(pattern: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        check_pattern(pattern)


def test_both_sides_of_a_rule_have_the_same_placeholders() -> None:
    with pytest.raises(ValueError, match=r"\['a'\] and \['b'\]"):
        ReceiveRule(upstream="{a}", local="{b}")
    with pytest.raises(ValueError, match="both topics end with #"):
        SendRule(local="a/#", upstream="a/b")


def test_what_is_taken_back_is_found() -> None:
    receive = [ReceiveRule(upstream="x/y"), ReceiveRule(upstream="site/{device}/telemetry")]

    assert looping(receive, [SendRule(local="a/#", upstream="other/#")]) is None
    assert looping(receive, [SendRule(local="a/#", upstream="site/#")]) == (
        receive[1],
        SendRule(local="a/#", upstream="site/#"),
    )
