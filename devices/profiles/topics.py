"""Which topics are a profile's own, and what each means: data, and the functions that read it.

A pattern is a topic in which `{name}` stands for one level, as in the rules of the bridge: it finds the topics of
messages, its topic filter has `+` there, and filled in it is the topic of a message to the device. The requests of HTTP
are patterns too: the method, a space, and the path behind `/api/v1/TOKEN/`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Final

_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")


@unique
class Meaning(StrEnum):
    """What a message is, whatever its topic or path; the value is for people.

    A consumer has a table of handlers by it. What no handler is in the table for is refused in one place,
    devices.consumers.not_served.
    """

    # From the device.
    TELEMETRY = "telemetry"
    UNREAD_TELEMETRY = "telemetry in a form that is not read"
    CLIENT_ATTRIBUTES = "client attributes"
    ATTRIBUTES_REQUEST = "a request for attributes"
    COMMAND_ANSWER = "an answer to a command"
    CALL = "a call of the server"
    CLAIM = "a claim"
    PROVISION_REQUEST = "a request to be provisioned"
    FIRMWARE_REQUEST = "a request for a chunk of firmware"
    SOFTWARE_REQUEST = "a request for a chunk of software"

    # From a device that speaks for others.
    GATEWAY_CONNECT = "a device behind a gateway that has come"
    GATEWAY_DISCONNECT = "a device behind a gateway that has gone"
    GATEWAY_TELEMETRY = "telemetry of devices behind a gateway"
    GATEWAY_CLIENT_ATTRIBUTES = "client attributes of devices behind a gateway"
    GATEWAY_ATTRIBUTES_REQUEST = "a request for attributes of a device behind a gateway"
    GATEWAY_COMMAND_ANSWER = "an answer of a device behind a gateway"
    GATEWAY_CLAIM = "a claim of devices behind a gateway"

    # To the device. By HTTP it asks for what is to be told: a long poll.
    ATTRIBUTES_ANSWER = "requested attributes"
    SHARED_ATTRIBUTES = "changed shared attributes"
    COMMAND = "a command"
    CALL_ANSWER = "the server's answer to a call"
    PROVISION_ANSWER = "the answer to a request to be provisioned"
    FIRMWARE_CHUNK = "a chunk of firmware"
    SOFTWARE_CHUNK = "a chunk of software"
    FIRMWARE_ERROR = "why there is no firmware"
    SOFTWARE_ERROR = "why there is no software"
    GATEWAY_ATTRIBUTES_ANSWER = "requested attributes of a device behind a gateway"
    GATEWAY_SHARED_ATTRIBUTES = "changed shared attributes of a device behind a gateway"
    GATEWAY_COMMAND = "a command for a device behind a gateway"


@dataclass(frozen=True, slots=True)
class Topic:
    """A row of a profile's table."""

    pattern: str
    meaning: Meaning
    answer: str | None = None
    """The pattern of the topic of the answer, with placeholders of `pattern`."""

    @property
    def topic_filter(self) -> str:
        """What a client subscribes to for it: "v1/devices/me/rpc/request/+"."""
        return _PLACEHOLDER.sub("+", self.pattern)


@dataclass(frozen=True, slots=True)
class Match:
    """What a message is by its topic."""

    meaning: Meaning
    levels: Mapping[str, str] = field(default_factory=dict)
    """What the placeholders stand for; each has at least one character."""
    answer_topic: str | None = None


def fill(pattern: str, levels: Mapping[str, str]) -> str:
    """The topic of a pattern with its placeholders filled in. Raises KeyError for one that is not in `levels`."""
    return _PLACEHOLDER.sub(lambda placeholder: levels[placeholder[1]], pattern)


class TopicTable:
    """The rows of a profile for one direction. A topic without placeholders is found by one look into a dict; the
    others are tried one after the other."""

    def __init__(self, *topics: Topic) -> None:
        """Raises ValueError for two rows whose topics are the same, or an answer with a placeholder of its own."""
        self.topics = topics
        self._by_filter = {topic.topic_filter: topic for topic in topics}
        if len(self._by_filter) < len(topics):
            raise ValueError("two rows for the same topics")
        self._literal: dict[str, Match] = {}
        self._patterns: list[tuple[re.Pattern[str], Topic]] = []
        for topic in topics:
            names = _PLACEHOLDER.findall(topic.pattern)
            if not set(_PLACEHOLDER.findall(topic.answer or "")) <= set(names):
                raise ValueError(f"the answer {topic.answer!r} has a placeholder that {topic.pattern!r} has not")
            if names:
                self._patterns.append((_compiled(topic.pattern), topic))
            else:
                self._literal[topic.pattern] = Match(topic.meaning, {}, topic.answer)

    def find(self, name: str) -> Match | None:
        """What a message with this topic is; None if the topic is not in the table."""
        match = self._literal.get(name)
        return match if match is not None else self._find_pattern(name)

    def row_of(self, name: str) -> Topic | None:
        """The row of a message with this topic; None if the topic is not in the table."""
        for regex, topic in self._patterns:
            if regex.fullmatch(name) is not None:
                return topic
        return self._by_filter.get(name) if name in self._literal else None

    def subscription(self, topic_filter: str) -> Topic | None:
        """The row that a client subscribes to with this filter; None if there is none."""
        return self._by_filter.get(topic_filter)

    def _find_pattern(self, name: str) -> Match | None:
        for regex, topic in self._patterns:
            found = regex.fullmatch(name)
            if found is not None:
                levels = found.groupdict()
                return Match(topic.meaning, levels, None if topic.answer is None else fill(topic.answer, levels))
        return None


def _compiled(pattern: str) -> re.Pattern[str]:
    parts = _PLACEHOLDER.split(pattern)  # text and names take turns
    names = [f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)]
    return re.compile("".join(names))
