"""Retained messages by topic: topics are stored, a filter is looked up. See subscription_tree for the other way.

The tree is walked level by level over a frontier of nodes: no recursion, because a peer chooses the depth (a topic can
have 65,535 levels), and no visit to a node whose topic does not match so far, so that the cost does not grow with what
does not match. What outlives the process is another matter: protocols/mqtt/storage/.
"""

from collections.abc import Iterator
from typing import Any, Final

from protocols.mqtt.codec.topic_rules import is_wildcard
from protocols.mqtt.message import Message

_NONE: Final[dict[Any, Any]] = {}
"""In place of a dict that a node has not needed yet; never changed. A peer may have ever so many nodes made."""


class _TopicNode:
    """One level of the stored topics. `topic` is the whole topic that ends at this level, if one is stored."""

    __slots__ = ("children", "topic")

    def __init__(self) -> None:
        self.children: dict[str, _TopicNode] = _NONE
        self.topic: str | None = None


class RetainedMessages:
    """One message per topic at most [MQTT5-3.3.1-5].

    The messages are in a dict by topic, the tree of levels holds topics only: a publish to a topic that has a retained
    message already replaces one dict entry.
    """

    __slots__ = ("_messages", "_root", "levels", "size_bytes")

    def __init__(self) -> None:
        self._messages: dict[str, Message] = {}
        self._root = _TopicNode()
        self.size_bytes = 0
        """The sum of the messages' `size_bytes`."""
        self.levels = 0
        """How many levels the topics have, each counted once that several begin with; 240 bytes each."""

    def __iter__(self) -> Iterator[Message]:
        """All messages; none is to be put or removed meanwhile."""
        return iter(self._messages.values())

    def __len__(self) -> int:
        return len(self._messages)

    def get(self, topic: str) -> Message | None:
        """The message of this topic."""
        return self._messages.get(topic)

    def put(self, message: Message) -> None:
        """Keeps a message, in place of another of the same topic."""
        old = self._messages.get(message.topic)
        if old is None:
            self._add_topic(message.topic)
        else:
            self.size_bytes -= old.size_bytes
        self._messages[message.topic] = message
        self.size_bytes += message.size_bytes

    def remove(self, topic: str) -> None:
        """Forgets the message of this topic, if there is one [MQTT5-3.3.1-6]."""
        old = self._messages.pop(topic, None)
        if old is not None:
            self.size_bytes -= old.size_bytes
            self._remove_topic(topic)

    def match(self, topic_filter: str) -> list[Message]:
        """The messages whose topics a valid filter (not shared) matches."""
        messages = self._messages
        if not is_wildcard(topic_filter):
            return [messages[topic_filter]] if topic_filter in messages else []
        return [messages[topic] for topic in self._match_topics(topic_filter.split("/"))]

    def _add_topic(self, topic: str) -> None:
        node = self._root
        for level in topic.split("/"):
            child = node.children.get(level)
            if child is None:
                if node.children is _NONE:
                    node.children = {}
                child = node.children[level] = _TopicNode()
                self.levels += 1
            node = child
        node.topic = topic

    def _remove_topic(self, topic: str) -> None:
        node = self._root
        path: list[tuple[_TopicNode, str]] = []
        for level in topic.split("/"):
            path.append((node, level))
            node = node.children[level]
        node.topic = None
        for parent, level in reversed(path):
            if node.topic is not None or node.children:
                break
            del parent.children[level]
            self.levels -= 1
            node = parent

    def _match_topics(self, levels: list[str]) -> list[str]:
        whole_subtree = levels[-1] == "#"
        if whole_subtree:
            levels.pop()
        frontier = [self._root]
        for depth, level in enumerate(levels):
            if level == "+":
                frontier = [child for node in frontier for child in _children(node, at_root=depth == 0)]
            else:
                frontier = [child for node in frontier if (child := node.children.get(level)) is not None]
        if whole_subtree:
            frontier = _with_descendants(frontier, at_root=not levels)
        return [node.topic for node in frontier if node.topic is not None]


def _children(node: _TopicNode, *, at_root: bool) -> list[_TopicNode]:
    """The nodes that a wildcard at this level matches: at the root not those with "$" [MQTT5-4.7.2-1]."""
    if at_root:
        return [child for level, child in node.children.items() if not level.startswith("$")]
    return list(node.children.values())


def _with_descendants(nodes: list[_TopicNode], *, at_root: bool) -> list[_TopicNode]:
    found: list[_TopicNode] = []
    frontier = nodes
    if at_root:
        frontier = _children(nodes[0], at_root=True)
    while frontier:
        found.extend(frontier)
        frontier = [child for node in frontier for child in node.children.values()]
    return found
