"""Topic names and topic filters: what MQTT allows, and whether one matches the other."""

import re
from typing import Final

from protocols.mqtt.codec.errors import InvalidTopicError
from protocols.mqtt.codec.packets import ReasonCode

MAX_TOPIC_BYTES: Final = 65_535
SHARE_PREFIX: Final = "$share/"
STATUS_PREFIX: Final = "$SYS/"
_BRIDGE_STATE: Final = re.compile(r"\$SYS/broker/connection/[^/]+/state")
"""Where each of Mosquitto's bridges says to the broker it connects to whether it is there, retained and by its will. It
does so unless told not to, and a Mosquitto takes it of any client that may publish."""


def validate_topic_name(topic: str) -> None:
    """Raises InvalidTopicError (0x90) unless messages can be published to `topic`."""
    if "+" in topic or "#" in topic:  # [MQTT5-3.3.2-2] [MQTT3-3.3.2-2]
        raise InvalidTopicError(ReasonCode.TOPIC_NAME_INVALID, "a topic name has no wildcards")
    _validate_text(topic, ReasonCode.TOPIC_NAME_INVALID, "topic name")


def validate_topic_filter(topic_filter: str) -> None:
    """Raises InvalidTopicError (0x8F) unless `topic_filter`, shared or not, can be subscribed to."""
    _validate_text(topic_filter, ReasonCode.TOPIC_FILTER_INVALID, "topic filter")
    if topic_filter.startswith(SHARE_PREFIX):
        _, share_name, *rest = topic_filter.split("/", 2)
        if not share_name or "+" in share_name or "#" in share_name:  # [MQTT5-4.8.2-1] [MQTT5-4.8.2-2]
            raise InvalidTopicError(ReasonCode.TOPIC_FILTER_INVALID, "a share name is not empty and has no wildcards")
        if not rest or not rest[0]:  # [MQTT5-4.8.2-2]
            raise InvalidTopicError(ReasonCode.TOPIC_FILTER_INVALID, "a share name is followed by a topic filter")
        topic_filter = rest[0]
    if "#" not in topic_filter and "+" not in topic_filter:
        return
    levels = topic_filter.split("/")
    for level in levels[:-1]:
        if "#" in level:  # [MQTT5-4.7.1-1] [MQTT3-4.7.1-2]
            raise InvalidTopicError(ReasonCode.TOPIC_FILTER_INVALID, "'#' is the last level or nothing")
    for level in levels:
        if len(level) > 1 and ("#" in level or "+" in level):  # [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT3-4.7.1-3]
            raise InvalidTopicError(ReasonCode.TOPIC_FILTER_INVALID, "a wildcard fills its level")


def _validate_text(text: str, reason_code: ReasonCode, what: str) -> None:
    if not text:  # [MQTT5-4.7.3-1] [MQTT3-4.7.3-1]
        raise InvalidTopicError(reason_code, f"a {what} is not empty")
    if "\0" in text:  # [MQTT5-4.7.3-2] [MQTT3-4.7.3-2]
        raise InvalidTopicError(reason_code, f"a {what} has no U+0000")
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:  # [MQTT5-1.5.4-1]
        raise InvalidTopicError(reason_code, f"a {what} has no surrogates") from error
    if size > MAX_TOPIC_BYTES:  # [MQTT5-4.7.3-3] [MQTT3-4.7.3-3]
        raise InvalidTopicError(reason_code, f"a {what} has at most {MAX_TOPIC_BYTES} bytes")


def split_shared(topic_filter: str) -> tuple[str | None, str]:
    """The share name and the filter proper of a valid filter: ("g", "a/+") for "$share/g/a/+", (None, it) for others.

    [MQTT5-4.8.2]
    """
    if not topic_filter.startswith(SHARE_PREFIX):
        return None, topic_filter
    _, share_name, inner = topic_filter.split("/", 2)
    return share_name, inner


def is_status_topic(topic: str) -> bool:
    """Whether a topic or a filter (not shared) is of the tree in which the broker speaks of itself [MQTT5-4.7.2], and
    not one of those where bridges speak of themselves, which are as any topic."""
    return topic.startswith(STATUS_PREFIX) and _BRIDGE_STATE.fullmatch(topic) is None


def is_wildcard(topic_filter: str) -> bool:
    """Whether a valid filter can match more than one topic."""
    return "+" in topic_filter or "#" in topic_filter


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a valid filter (not shared) matches a topic name, by the letter of [MQTT5-4.7]: what the trees must agree
    with. For one pair it is quicker than a tree."""
    filter_levels, topic_levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and filter_levels[0] in ("+", "#"):  # [MQTT5-4.7.2-1] [MQTT3-4.7.2-1]
        return False
    for index, level in enumerate(filter_levels):
        if level == "#":  # the parent level too: "sport/#" matches "sport" [MQTT5-4.7.1.2]
            return True
        if index == len(topic_levels) or level not in ("+", topic_levels[index]):
            return False
    return len(filter_levels) == len(topic_levels)
