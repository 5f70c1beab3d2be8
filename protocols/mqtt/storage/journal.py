"""What has changed since the last commit, of what is to outlive the process; and who waits for which commit.

The broker works in memory and records here what it changes, as objects; rows are made of them when a group is closed,
all that has changed since the last one. What came and went between two commits is never written: a message that a
connected client acknowledges at once costs the store nothing. Groups have numbers, and are committed in their order. A
group that something waits for (`commit_number`) is to be taken at once, one that nothing waits for within a second.

Sans-I/O: `Committer` closes groups, has their rows made (rows.py) and writes them.
"""

from protocols.mqtt.delivery import Delivery
from protocols.mqtt.message import Message
from protocols.mqtt.storage.rows import ChangeSet, StoredSession, SubscriptionRow


class Journal:
    """The open group, and the numbers of groups, sessions, messages and deliveries."""

    def __init__(self) -> None:
        self.recorded = 0
        """How much has been recorded; more than before means that something now waits for its commit."""
        self.committed = 0
        """The number of the last group that is committed."""
        self.wanted = False
        """Whether something waits for the open group."""
        self.failure: str | None = None
        """Why nothing can be committed now; None while all is well."""
        self._closed = 0
        self._is_dirty = False
        self._next_session = 1
        self._next_message = 1
        self._next_seq = 1
        self._changes = ChangeSet(1, 1, 1)

    def continue_after(self, session_id: int, message_id: int, seq: int) -> None:
        """Numbers on from the greatest that the store has."""
        self._next_session = session_id + 1
        self._next_message = message_id + 1
        self._next_seq = seq + 1
        self._changes = ChangeSet(self._next_session, self._next_message, self._next_seq)

    # Groups

    @property
    def is_dirty(self) -> bool:
        """Whether there is anything to commit."""
        return self._is_dirty

    def commit_number(self) -> int:
        """The number of the group with which all that has been recorded so far is committed; 0 if it is already."""
        if self._is_dirty:
            self.wanted = True
            return self._closed + 1
        return self._closed if self._closed > self.committed else 0

    def close_group(self) -> tuple[int, ChangeSet]:
        """Closes the open group, and opens the next: (its number, what it changes)."""
        changes = self._changes
        self._changes = ChangeSet(self._next_session, self._next_message, self._next_seq)
        self._is_dirty = self.wanted = False
        self._closed += 1
        return self._closed, changes

    # Sessions

    def new_session_id(self) -> int:
        """The number of a session that is to be kept from now on; see `touch`."""
        session_id = self._next_session
        self._next_session = session_id + 1
        return session_id

    def touch(self, session: StoredSession) -> None:
        """The session is new; or when it ends, or its will, has changed."""
        self._changes.sessions[session.session_id] = session
        self._note()

    def end(self, session_id: int) -> None:
        """The session is kept no more; what it had is taken out before."""
        if session_id >= self._changes.first_session:
            del self._changes.sessions[session_id]
        else:
            self._changes.sessions[session_id] = None
        self._note()

    def subscribe(self, row: SubscriptionRow) -> None:
        """A subscription is new, or has changed."""
        self._changes.subscriptions[row.session_id, row.topic_filter] = row
        self._note()

    def unsubscribe(self, session_id: int, topic_filter: str) -> None:
        """A subscription has ended."""
        self._changes.subscriptions[session_id, topic_filter] = None
        self._note()

    # Messages to the client

    def deliver(self, delivery: Delivery, session_id: int) -> None:
        """A delivery is new, or was sent with a packet identifier."""
        seq = delivery.seq
        if not seq:
            seq = delivery.seq = self._next_seq
            self._next_seq = seq + 1
            delivery.session_id = session_id
            message = delivery.message
            if not message.references:
                message_id = message.message_id = self._next_message
                self._next_message = message_id + 1
                self._changes.messages[message_id] = message
            message.references += 1
        self._changes.deliveries[seq] = delivery
        self.recorded += 1
        self._is_dirty = True

    def delivered(self, delivery: Delivery) -> None:
        """A delivery is over, or the client owns its message."""
        changes = self._changes
        if delivery.seq >= changes.first_seq:
            del changes.deliveries[delivery.seq]
        else:
            changes.deliveries[delivery.seq] = None
        delivery.seq = 0
        message = delivery.message
        message.references -= 1
        if not message.references:
            if message.message_id >= changes.first_message:
                del changes.messages[message.message_id]
            else:
                changes.messages[message.message_id] = None
        self._is_dirty = True

    def release(self, seq: int, session_id: int, packet_id: int) -> None:
        """The client owns the message of a delivery at QoS 2, which `delivered` was told; PUBCOMP is awaited."""
        self._changes.released[seq] = (seq, session_id, packet_id)
        self._note()

    def completed(self, seq: int) -> None:
        """PUBCOMP has come."""
        released = self._changes.released
        if seq in released:
            del released[seq]
        else:
            released[seq] = None
        self._is_dirty = True

    # Messages from the client

    def receive(self, session_id: int, packet_id: int) -> None:
        """A QoS 2 message is taken over."""
        self._changes.received[session_id, packet_id] = (session_id, packet_id)
        self._note()

    def forget_received(self, session_id: int, packet_id: int) -> None:
        """The client has released it."""
        self._changes.received[session_id, packet_id] = None
        self._note()

    # Retained messages

    def retain(self, topic: str, message: Message | None) -> None:
        """The retained message of a topic has changed; None: there is none any more."""
        self._changes.retained[topic] = message
        self._note()

    def _note(self) -> None:
        self.recorded += 1
        self._is_dirty = True
