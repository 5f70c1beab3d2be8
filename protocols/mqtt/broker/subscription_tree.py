"""Subscriptions by topic filter: filters are stored, a topic is looked up. See retained_messages for the other way.

The tree is walked level by level over a frontier of nodes: no recursion, because a peer chooses the depth (a topic can
have 65,535 levels), and no visit to a node whose filter does not match so far, so that the cost does not grow with what
does not match.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Final, Generic, TypeVar

from protocols.mqtt.codec.topic_rules import is_wildcard

T = TypeVar("T")

# What a SubscriptionTree remembers: a peer that publishes to ever new topics gets at most a few megabytes of it.
_REMEMBERED_TOPICS: Final = 4_096
_REMEMBERED_CHARACTERS: Final = 128
_REMEMBERED_MATCHES: Final = 8

_NONE: Final[dict[Any, Any]] = {}
"""In place of a dict that a node has not needed yet; never changed. A peer may have ever so many nodes made."""


class _FilterNode(Generic[T]):
    """One level of the wildcard filters. `here` are the entries of filters that end at this level."""

    __slots__ = ("children", "here")

    def __init__(self) -> None:
        self.children: dict[str, _FilterNode[T]] = _NONE
        self.here: dict[Hashable, T] = _NONE


class SubscriptionTree(Generic[T]):
    """Values by topic filter and key: for each filter, at most one value per key.

    Filters without a wildcard are in a dict by the whole filter; the tree of levels holds the others. Where there is
    one of them, what was found for a topic is remembered until a filter comes or goes: devices publish to the same few
    topics over and over, and what a publish costs does not grow with the filters that do not match it.
    """

    __slots__ = ("_exact", "_found", "_root", "_size")

    def __init__(self) -> None:
        self._exact: dict[str, dict[Hashable, T]] = {}
        self._root: _FilterNode[T] = _FilterNode()
        self._found: dict[str, list[T]] = {}
        self._size = 0

    def __len__(self) -> int:
        """How many (filter, key) pairs are stored."""
        return self._size

    def add(self, topic_filter: str, key: Hashable, value: T) -> bool:
        """Stores `value`, in place of an earlier one of the same filter and key. Returns whether there was none."""
        if is_wildcard(topic_filter):
            node = self._root
            for level in topic_filter.split("/"):
                child = node.children.get(level)
                if child is None:
                    if node.children is _NONE:
                        node.children = {}
                    child = node.children[level] = _FilterNode()
                node = child
            if node.here is _NONE:
                node.here = {}
            entries = node.here
        else:
            entries = self._exact.setdefault(topic_filter, {})
        is_new = key not in entries
        entries[key] = value
        self._found.clear()
        self._size += is_new
        return is_new

    def remove(self, topic_filter: str, key: Hashable) -> bool:
        """Takes the value of this filter and key out. Returns whether there was one."""
        if is_wildcard(topic_filter):
            removed = self._remove_wildcard(topic_filter, key)
        else:
            entries = self._exact.get(topic_filter, {})
            removed = key in entries
            if removed:
                del entries[key]
                if not entries:
                    del self._exact[topic_filter]
        self._size -= removed
        self._found.clear()
        return removed

    def match(self, topic: str) -> Sequence[T]:
        """The values of all filters that match a topic name; a key with several such filters has several."""
        if not self._root.children:
            entries = self._exact.get(topic)
            return [] if entries is None else list(entries.values())
        found = self._found.get(topic)
        if found is None:
            found = self._search(topic)
            if len(topic) <= _REMEMBERED_CHARACTERS and len(found) <= _REMEMBERED_MATCHES:
                if len(self._found) >= _REMEMBERED_TOPICS:
                    self._found.clear()
                self._found[topic] = found
        return found

    def _search(self, topic: str) -> list[T]:
        entries = self._exact.get(topic)
        found = [] if entries is None else list(entries.values())
        self._match_wildcards(topic, found)
        return found

    def _match_wildcards(self, topic: str, found: list[T]) -> None:
        levels = topic.split("/")
        frontier = [self._root]
        # A leading wildcard does not match a topic that begins with "$" [MQTT5-4.7.2-1] [MQTT3-4.7.2-1].
        if topic.startswith("$"):
            child = self._root.children.get(levels.pop(0))
            frontier = [] if child is None else [child]
        for level in levels:
            reached: list[_FilterNode[T]] = []
            for node in frontier:
                children = node.children
                if (child := children.get("#")) is not None:
                    found.extend(child.here.values())
                if (child := children.get("+")) is not None:
                    reached.append(child)
                if (child := children.get(level)) is not None:
                    reached.append(child)
            if not reached:
                return
            frontier = reached
        for node in frontier:
            found.extend(node.here.values())
            if (child := node.children.get("#")) is not None:  # the parent level too [MQTT5-4.7.1.2]
                found.extend(child.here.values())

    def _remove_wildcard(self, topic_filter: str, key: Hashable) -> bool:
        node = self._root
        path: list[tuple[_FilterNode[T], str]] = []
        for level in topic_filter.split("/"):
            path.append((node, level))
            child = node.children.get(level)
            if child is None:
                return False
            node = child
        if key not in node.here:
            return False
        del node.here[key]
        for parent, level in reversed(path):
            if node.here or node.children:
                break
            del parent.children[level]
            node = parent
        return True
