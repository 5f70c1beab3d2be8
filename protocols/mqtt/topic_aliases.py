"""Topic aliases: numbers in place of topics, within one connection and one direction [MQTT5-3.3.2.3.4]."""

from protocols.mqtt.codec.errors import ProtocolError
from protocols.mqtt.codec.packets import ReasonCode


class InboundAliases:
    """What the client's aliases stand for."""

    __slots__ = ("_maximum", "_topics")

    def __init__(self, maximum: int) -> None:
        """`maximum` is the topic_alias_maximum of our CONNACK."""
        self._maximum = maximum
        self._topics: dict[int, str] = {}

    def resolve(self, topic: str, alias: int) -> str:
        """The topic of a PUBLISH with an alias; a topic that is given too is what the alias stands for from now on.

        Raises ProtocolError: 0x94 for an alias over the maximum, 0x82 for one that stands for nothing yet.
        """
        if not 0 < alias <= self._maximum:  # [MQTT5-3.3.2-8] [MQTT5-3.3.2-9] [MQTT5-3.3.2-12]
            raise ProtocolError(ReasonCode.TOPIC_ALIAS_INVALID, f"topic alias {alias}; at most {self._maximum}")
        if topic:
            self._topics[alias] = topic
            return topic
        known = self._topics.get(alias)
        if known is None:  # [MQTT5-3.3.2.3.4]
            raise ProtocolError(ReasonCode.PROTOCOL_ERROR, f"topic alias {alias} stands for no topic yet")
        return known


class OutboundAliases:
    """The aliases that we use: the first topics that are sent get one each, and keep it."""

    __slots__ = ("_aliases", "_maximum")

    def __init__(self, maximum: int) -> None:
        """`maximum` is the lesser of ours and the client's topic_alias_maximum [MQTT5-3.1.2-26]."""
        self._maximum = maximum
        self._aliases: dict[str, int] = {}

    def get(self, topic: str) -> tuple[int, bool]:
        """(alias, whether the client knows it); (0, False) if there is none for this topic."""
        alias = self._aliases.get(topic)
        if alias is not None:
            return alias, True
        return (len(self._aliases) + 1, False) if len(self._aliases) < self._maximum else (0, False)

    def sent(self, topic: str, alias: int) -> None:
        """A PUBLISH with both has been sent: the client knows the alias."""
        self._aliases[topic] = alias
