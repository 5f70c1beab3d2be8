"""Where the broker finds sessions and retained messages: two interfaces, and the implementations in memory.

What outlives the process is another matter: protocols/mqtt/storage/. The broker is the only one who changes what is
here. Both interfaces are small on purpose: what they promise is tested once, for each implementation
(tests/unit/protocols/mqtt/test_store.py).
"""

import abc
from collections.abc import Iterator

from protocols.mqtt.broker.session import Session
from protocols.mqtt.broker.subscription_tree import RetainedTree
from protocols.mqtt.message import Message


class SessionStore(abc.ABC):
    """Sessions by client identifier."""

    @abc.abstractmethod
    def get(self, client_id: str) -> Session | None:
        """The session of this client identifier."""

    @abc.abstractmethod
    def put(self, session: Session) -> None:
        """Keeps a session, in place of another of the same client identifier."""

    @abc.abstractmethod
    def remove(self, session: Session) -> None:
        """Forgets exactly this session; does nothing if another has taken its place."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Session]:
        """All sessions. The store is not to be changed meanwhile."""


class RetainedStore(abc.ABC):
    """Retained messages by topic: at most one each [MQTT5-3.3.1-5]."""

    @abc.abstractmethod
    def get(self, topic: str) -> Message | None:
        """The message of this topic."""

    @abc.abstractmethod
    def put(self, message: Message) -> None:
        """Keeps a message, in place of another of the same topic."""

    @abc.abstractmethod
    def remove(self, topic: str) -> None:
        """Forgets the message of this topic, if there is one [MQTT5-3.3.1-6]."""

    @abc.abstractmethod
    def match(self, topic_filter: str) -> list[Message]:
        """The messages whose topics a valid filter (not shared) matches."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Message]:
        """All messages. The store is not to be changed meanwhile."""

    @property
    @abc.abstractmethod
    def size_bytes(self) -> int:
        """The sum of the messages' `size_bytes`."""

    @property
    @abc.abstractmethod
    def levels(self) -> int:
        """How many levels the topics have, each counted once that several begin with."""


class MemorySessionStore(SessionStore):
    """Sessions that end with the process."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def get(self, client_id: str) -> Session | None:
        return self._sessions.get(client_id)

    def put(self, session: Session) -> None:
        self._sessions[session.client_id] = session

    def remove(self, session: Session) -> None:
        if self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())


class MemoryRetainedStore(RetainedStore):
    """Retained messages that end with the process."""

    def __init__(self) -> None:
        self._messages: RetainedTree[Message] = RetainedTree()
        self._size_bytes = 0

    def get(self, topic: str) -> Message | None:
        return self._messages.get(topic)

    def put(self, message: Message) -> None:
        old = self._messages.get(message.topic)
        if old is not None:
            self._size_bytes -= old.size_bytes
        self._messages.set(message.topic, message)
        self._size_bytes += message.size_bytes

    def remove(self, topic: str) -> None:
        old = self._messages.remove(topic)
        if old is not None:
            self._size_bytes -= old.size_bytes

    def match(self, topic_filter: str) -> list[Message]:
        return [message for _, message in self._messages.match(topic_filter)]

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def levels(self) -> int:
        return self._messages.levels
