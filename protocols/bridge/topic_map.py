"""Topics there and topics here: "site/{device}/telemetry" upstream is "v1/devices/{device}/telemetry" here.

A pattern is a topic in which `{name}` stands for one level and `#`, at the end, for all that are left. What a
placeholder stands for on one side is put in its place on the other.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from protocols.mqtt.codec.errors import InvalidTopicError
from protocols.mqtt.codec.topic_rules import SHARE_PREFIX, validate_topic_filter
from protocols.options import check_options, option

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}")
_REST: Final = "#"


def check_pattern(pattern: str) -> str:
    """The pattern. Raises ValueError, with what is wrong with it."""
    names = []
    for level in pattern.split("/"):
        placeholder = _PLACEHOLDER.fullmatch(level)
        if placeholder is not None:
            names.append(placeholder[1])
        elif level == "+":
            raise ValueError("a level that may be anything has a name here, as in {device}, instead of +")
        elif "{" in level or "}" in level:
            raise ValueError(f"{level!r}: a placeholder fills its level and has a name of letters, digits and _")
    if len(names) != len(set(names)):
        raise ValueError("a placeholder is there twice")
    if pattern.startswith(SHARE_PREFIX):
        raise ValueError("the name of a shared subscription is the key share")
    try:
        validate_topic_filter(filter_of(pattern))
    except InvalidTopicError as error:
        raise ValueError(str(error)) from None
    return pattern


def filter_of(pattern: str) -> str:
    """The topic filter of a pattern: "site/+/telemetry"."""
    return "/".join("+" if _PLACEHOLDER.fullmatch(level) else level for level in pattern.split("/"))


def overlap(one: str, other: str) -> bool:
    """Whether there are topics that both filters match."""
    ones, others = one.split("/"), other.split("/")
    for index in range(max(len(ones), len(others)) + 1):
        left = ones[index] if index < len(ones) else None
        right = others[index] if index < len(others) else None
        if _REST in (left, right):
            return True
        if left is None or right is None:
            return left is right
        if "+" not in (left, right) and left != right:
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveRule:
    """`[[listeners.receive]]`: which messages are taken from upstream, and what their topics are here."""

    upstream: str = option(help_text="the pattern of topics there", check=check_pattern)
    local: str | None = option(None, "the pattern of topics here; default: the same", check=check_pattern)
    qos: Literal[0, 1] = option(1, "of the subscription upstream", at_least=0, at_most=1)

    def __post_init__(self) -> None:
        check_options(self)
        _check_pair(self.upstream, self.local)

    @property
    def topics(self) -> "TopicMap":
        """From there to here."""
        return TopicMap(self.upstream, self.local or self.upstream)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRule:
    """`[[listeners.send]]`: which messages of the broker of this process are sent upstream, and as what."""

    local: str = option(help_text="the pattern of topics here", check=check_pattern)
    upstream: str | None = option(None, "the pattern of topics there; default: the same", check=check_pattern)
    qos: Literal[0, 1] = option(1, "of the subscription here, and of what is sent", at_least=0, at_most=1)

    def __post_init__(self) -> None:
        check_options(self)
        _check_pair(self.local, self.upstream)

    @property
    def topics(self) -> "TopicMap":
        """From here to there."""
        return TopicMap(self.local, self.upstream or self.local)


class TopicMap:
    """A rule for topics: from one pattern to another."""

    def __init__(self, source: str, target: str) -> None:
        """Trusts its arguments to have been checked."""
        self.source = filter_of(source)
        self.target = filter_of(target)
        self._regex = re.compile(_regex_of(source), re.DOTALL)
        self._levels = [_PLACEHOLDER.fullmatch(level) or level for level in target.split("/")]
        self._unchanged = source == target

    def apply(self, topic: str) -> str | None:
        """What `topic` is on the other side; None if the rule is not about it."""
        match = self._regex.fullmatch(topic)
        if match is None:
            return None
        if self._unchanged:
            return topic
        levels: list[str] = []
        for level in self._levels:
            if isinstance(level, re.Match):
                levels.append(match[level[1]])
            elif level != _REST:
                levels.append(level)
            elif match["_rest"] is not None:  # "plant/#" matches "plant" too [MQTT5-4.7.1.2]
                levels.append(match["_rest"])
        return "/".join(levels) or None


def first_match(maps: Iterable[TopicMap], topic: str) -> str | None:
    """What the first rule that is about `topic` makes of it."""
    for rule in maps:
        mapped = rule.apply(topic)
        if mapped is not None:
            return mapped
    return None


def looping(receive: Sequence[ReceiveRule], send: Sequence[SendRule]) -> tuple[ReceiveRule, SendRule] | None:
    """A pair of rules of which one takes back what the other has sent upstream."""
    for taking in receive:
        for giving in send:
            if overlap(taking.topics.source, giving.topics.target):
                return taking, giving
    return None


def _regex_of(pattern: str) -> str:
    levels = pattern.split("/")
    rest = levels[-1] == _REST
    if rest:
        levels.pop()
    parts = []
    for level in levels:
        placeholder = _PLACEHOLDER.fullmatch(level)
        parts.append(re.escape(level) if placeholder is None else f"(?P<{placeholder[1]}>[^/]*)")
    regex = "/".join(parts)
    if not rest:
        return regex
    return f"{regex}(?:/(?P<_rest>.*))?" if levels else "(?P<_rest>.*)"


def _check_pair(source: str, target: str | None) -> None:
    """Raises ValueError unless everything that `target` needs is in `source`."""
    if target is None:
        return
    known, wanted = set(_PLACEHOLDER.findall(source)), set(_PLACEHOLDER.findall(target))
    if known != wanted:
        raise ValueError(f"the two topics name different placeholders: {sorted(known)} and {sorted(wanted)}")
    if source.endswith(_REST) != target.endswith(_REST):
        raise ValueError("either both topics end with #, or none")
