"""The broker: who is subscribed to what, and what each message, will and retained message becomes.

No sockets and no clock: `now` is an argument, in seconds, and `tick(now)` is to be called about once a second.
Invariants:

- at most one session per client identifier, at most one connection per session [MQTT5-3.1.4-3];
- a session is in the subscription tree exactly with the filters in `session.subscriptions`;
- a subscriber with several matching filters gets one copy, with the highest QoS granted and all its subscription
  identifiers [MQTT5-3.3.4-2] [MQTT5-3.3.4-3] [MQTT5-3.3.4-4].
"""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from protocols.mqtt.broker.owners import NOBODY, Owner, Owners
from protocols.mqtt.broker.retained_messages import RetainedMessages
from protocols.mqtt.broker.session import Session, Subscriber
from protocols.mqtt.broker.shared_subscriptions import SharedGroup, one_per_session
from protocols.mqtt.broker.subscription_tree import SubscriptionTree
from protocols.mqtt.codec.errors import KeepingError, SessionQuotaError
from protocols.mqtt.codec.packets import Properties, Publish, Will
from protocols.mqtt.codec.topic_rules import is_status_topic, split_shared
from protocols.mqtt.delivery import ClientConnection
from protocols.mqtt.message import Message
from protocols.mqtt.options import LEVELS_PER_RETAINED, BrokerOptions, MqttOptions
from protocols.mqtt.storage.journal import Journal
from protocols.mqtt.storage.rows import SubscriptionRow


class Broker:
    """All sessions, subscriptions and retained messages of one server."""

    def __init__(self, limits: BrokerOptions, journal: Journal | None = None) -> None:
        """`journal`: where what is to outlive the process is recorded; None if nothing is."""
        self.journal = journal
        self.sessions: dict[str, Session] = {}
        """By client identifier."""
        self.retained = RetainedMessages()
        self.limits = limits
        self.dropped: Counter[str] = Counter()
        """Messages that did not reach a subscriber or were not retained, by reason."""
        self.refused_filters: Counter[str] = Counter()
        """Filters of SUBSCRIBE packets that were refused because of an option, by its name."""
        self.refused_sessions: Counter[str] = Counter()
        """CONNECT packets that were refused because of an option, by its name."""
        self.expired_sessions = 0
        """How many sessions have ended because their client did not come back in time."""
        self.status = RetainedMessages()
        """What the broker says of itself below `$SYS/`: retained, but neither stored nor counted among the others."""
        self.owners = Owners(limits)
        self._tree: SubscriptionTree[Subscriber | SharedGroup] = SubscriptionTree()
        self._groups: dict[tuple[str, str], SharedGroup] = {}
        self._due: list[tuple[float, int, Session]] = []
        self._due_count = 0

    # Publishing

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
        *,
        now: float,
    ) -> int:
        """Publishes from outside, to every subscriber. Returns to how many. Raises ValueError for what MQTT cannot
        say, such as a topic with wildcards, and TypeError for a payload that is not bytes."""
        return self.route(Message.checked(topic, payload, qos, retain, properties, now=now), None, now)

    def publish_status(self, topic: str, text: str, now: float) -> None:
        """Publishes below `$SYS/`, retained, for those whom the application lets subscribe to it."""
        message = Message(topic, text.encode(), 2, True, None, now=now)
        self.status.put(message)
        self._fan_out(message, self._tree.match(topic), None, now)

    def forward(self, packet: Publish, sender: Session, now: float) -> bool:
        """Routes what a client published. The message is made only if somebody or something awaits it. Returns whether
        anybody has subscribed, were it the sender with "no local"."""
        found = self._tree.match(packet.topic)
        if packet.retain:
            self.route(_message_of(packet, now), sender, now)
        elif found:
            self._fan_out(_message_of(packet, now), found, sender, now)
        return bool(found)

    def route(self, message: Message, sender: Session | None, now: float) -> int:
        """Retains the message if it asks for that, and gives it to its subscribers. Returns to how many.

        `sender` is the session it came from: subscriptions with "no local" do not get it back [MQTT5-3.8.3-3].
        """
        if message.retain:
            self._retain(message, sender)
        return self._fan_out(message, self._tree.match(message.topic), sender, now)

    def _fan_out(
        self, message: Message, found: Sequence[Subscriber | SharedGroup], sender: Session | None, now: float
    ) -> int:
        outbox = None if sender is None else sender.outbox
        if len(found) > 1:
            found = one_per_session(found, outbox)
        count = 0
        for subscriber in found:
            if isinstance(subscriber, SharedGroup):
                count += _share(subscriber, message, now)
                continue
            if subscriber.no_local and subscriber.outbox is outbox:
                continue
            qos = subscriber.qos if subscriber.qos < message.qos else message.qos  # [MQTT5-3.8.4-8]
            # [MQTT5-3.3.1-12] [MQTT5-3.3.1-13] [MQTT3-3.3.1-9]
            retain = message.retain and subscriber.retain_as_published
            subscriber.outbox.deliver(message, qos, retain, subscriber.identifiers, now)
            count += 1
        message.forget_encoded()  # whoever keeps it keeps it once
        return count

    def _retain(self, message: Message, sender: Session | None) -> None:
        if is_status_topic(message.topic):
            self._drop("retained_reserved", sender)
            return
        if not message.payload:
            self.forget_retained(message.topic)  # [MQTT5-3.3.1-6] [MQTT5-3.3.1-7] [MQTT3-3.3.1-10] [MQTT3-3.3.1-11]
            return
        owner = self.owners.nobody if sender is None else sender.owner
        bound = self._bound_of_retained(message, owner)
        if bound:
            self._drop(_NOT_RETAINED[bound], sender)
            return
        if sender is not None:
            message.publisher = sender.client_id
        self.restore_retained(message, owner.name)  # [MQTT5-3.3.1-5] [MQTT3-3.3.1-5]
        if self.journal is not None:
            self.journal.retain(message.topic, message)

    def _drop(self, reason: str, sender: Session | None) -> None:
        if sender is None:
            self.dropped[reason] += 1
        else:
            sender.outbox.drop(reason)

    def restore_retained(self, message: Message, owner_name: str) -> None:
        """Keeps a message as that of its topic, whatever the bounds; it is the owner's from now on."""
        old = self.retained.get(message.topic)
        message.owner_name = owner_name
        self.owners.of(owner_name).retain(message, 1)
        self.retained.put(message)
        if old is not None:
            self._retained_no_more(old)

    def _retained_no_more(self, message: Message) -> None:
        owner = self.owners.of(message.owner_name)
        owner.retain(message, -1)
        self.owners.leave(owner)

    def _bound_of_retained(self, message: Message, owner: Owner) -> str:
        """Which option keeps a message from being retained; empty if none does."""
        limits, retained = self.limits, self.retained
        if message.topic.count("/") >= limits.max_topic_levels:
            return "max_topic_levels"
        old = retained.get(message.topic)
        if bound := self.owners.bound_of_retained(owner, message, old):
            return bound
        most = limits.max_retained_messages
        if old is None and (len(retained) >= most or retained.levels >= most * LEVELS_PER_RETAINED):
            return "max_retained_messages"
        size_bytes = retained.size_bytes + message.size_bytes - (0 if old is None else old.size_bytes)
        return "max_retained_bytes" if size_bytes > limits.max_retained_bytes else ""

    def refuses_to_retain(self, packet: Publish, sender: Session, now: float) -> str:
        """Whether a PUBLISH to be retained cannot be, and why, to be told to its client; empty if it can. Counts it."""
        if not packet.payload or is_status_topic(packet.topic):
            return ""
        bound = self._bound_of_retained(_message_of(packet, now), sender.owner)
        if not bound:
            return ""
        sender.outbox.drop(_NOT_RETAINED[bound])
        return f"not retained: {bound} is {getattr(self.limits, bound)}"

    def forget_retained(self, topic: str) -> None:
        """Takes out the retained message of a topic, if there is one."""
        message = self.retained.get(topic)
        if message is not None:
            self.retained.remove(topic)
            self._retained_no_more(message)
            if self.journal is not None:
                self.journal.retain(topic, None)

    def retained_matching(self, topic_filter: str) -> list[Message]:
        """The retained messages that a valid filter (not shared) matches, also those of the broker itself."""
        found = self.retained.match(topic_filter)
        return self.status.match(topic_filter) + found if is_status_topic(topic_filter) else found

    # Subscriptions

    def subscribe(self, topic_filter: str, session: Session, subscriber: Subscriber) -> bool:
        """Adds a subscription, or replaces that of the same filter [MQTT5-3.8.4-3]. Returns whether it is new."""
        share_name, inner = split_shared(topic_filter)
        is_new = topic_filter not in session.subscriptions
        session.subscriptions[topic_filter] = subscriber
        if is_new:
            self.owners.subscribed(session.owner, topic_filter, 1)
        if share_name is None:
            self._tree.add(inner, session.client_id, subscriber)
        else:
            group = self._groups.get((share_name, inner))
            if group is None:
                group = self._groups[share_name, inner] = SharedGroup(topic_filter)
                self._tree.add(inner, (share_name,), group)
            group.add(subscriber)
        if session.journal is not None:
            session.journal.subscribe(_row_of(topic_filter, session, subscriber))
        return is_new

    def unsubscribe(self, topic_filter: str, session: Session, now: float, *, ends: bool = False) -> bool:
        """Takes a subscription out [MQTT5-3.10.4-2]. Returns whether there was one.

        What waits in the session because of a shared subscription goes to another one that shares it, and if the
        session `ends` also what was sent at QoS 1 and not acknowledged.
        """
        if session.subscriptions.pop(topic_filter, None) is None:
            return False
        self.owners.subscribed(session.owner, topic_filter, -1)
        share_name, inner = split_shared(topic_filter)
        if share_name is None:
            self._tree.remove(inner, session.client_id)
        else:
            group = self._groups[share_name, inner]
            group.remove(session.outbox)
            if not group:
                del self._groups[share_name, inner]
                self._tree.remove(inner, (share_name,))
            else:
                self._hand_over(session, group, now, begun=ends)
        if session.journal is not None:
            session.journal.unsubscribe(session.session_id, topic_filter)
        return True

    def _hand_over(self, session: Session, group: SharedGroup, now: float, *, begun: bool) -> None:
        """What a session of a shared subscription has not got, another one gets."""
        for delivery in session.outbox.take_out(group.topic_filter, begun=begun):
            if delivery.message.expired(now):
                self.dropped["expired"] += 1
            else:
                _share(group, delivery.message, now)
            session.outbox.hand_over(delivery)

    @property
    def subscription_count(self) -> int:
        """How many subscriptions there are, shared ones apart."""
        return len(self._tree) - len(self._groups)

    @property
    def shared_subscription_count(self) -> int:
        """How many memberships of shared subscriptions there are."""
        return sum(len(group) for group in self._groups.values())

    # Sessions

    def attach(
        self,
        connection: ClientConnection,
        client_id: str,
        *,
        clean_start: bool,
        expiry_interval_s: int,
        options: MqttOptions,
        now: float,
        will: Will | None = None,
        owner: str = NOBODY,
    ) -> tuple[Session, bool]:
        """Gives a connection the session of its client identifier: (session, whether it was there before).

        Another connection of that identifier is ended first [MQTT5-3.1.4-3] [MQTT3-3.1.4-2]; that the newcomer may
        do this is the application's decision, which accepted it under this identifier. `owner` is who has the session
        from now on. Raises SessionQuotaError, and KeepingError for a session that would outlive the connection while
        the journal cannot be written.
        """
        if expiry_interval_s and self.journal is not None and self.journal.failure is not None:
            raise KeepingError(self.journal.failure)
        self.tick(now)  # what was due before now has happened before the newcomer, exactly
        session = self.sessions.get(client_id)
        if session is not None and session.owner.name != owner:
            self._require_room_of(owner)
        if session is not None and session.connection is not None:
            session.connection.take_over(now)
            session = self.sessions.get(client_id)
        if session is not None and clean_start:  # [MQTT5-3.1.2-4] [MQTT3-3.1.2-6]
            self._end(session, now)
            session = None
        present = session is not None
        if session is None:
            self._require_room_of(owner)
            if len(self.sessions) >= self.limits.max_sessions:
                raise self._session_refused("max_sessions")
            session = self.sessions[client_id] = Session(client_id, options=options, drops=self.dropped)
        self._give(session, owner)
        session.expiry_interval_s = expiry_interval_s
        session.attach(connection, options)
        session.will_of_connection = will
        if self.journal is not None:
            _keep(session, self.journal)
        return session, present

    def _require_room_of(self, owner: str) -> None:
        if not self.owners.has_room_for_session(owner):
            raise self._session_refused("max_sessions_per_owner")

    def _session_refused(self, bound: str) -> SessionQuotaError:
        self.refused_sessions[bound] += 1
        return SessionQuotaError(bound, getattr(self.limits, bound))

    def _give(self, session: Session, owner_name: str) -> None:
        """The owner has the session from now on, which `_end` takes from it."""
        before, owner = session.owner, self.owners.of(owner_name)
        owner.sessions += 1
        if before is not owner:
            session.outbox.give_to(owner)
            for topic_filter in session.subscriptions:
                self.owners.subscribed(before, topic_filter, -1)
                self.owners.subscribed(owner, topic_filter, 1)
        before.sessions -= 1
        self.owners.leave(before)

    def detach(self, session: Session, will: Will | None, now: float) -> None:
        """The connection of a session is gone. `will` is None if there is none, or if a DISCONNECT took it back.

        A will waits for its delay to pass or the session to end, whatever comes first [MQTT5-3.1.3.2.2].
        """
        session.detach()
        if will is not None:
            session.will = will
            session.will_at = now + will.properties.get("will_delay_interval", 0)
            if session.will_at <= now:
                self._publish_will(session, now)
        if not session.persistent:
            self._end(session, now)
            return
        if session.outbox.queued:
            for share_name, inner in map(split_shared, session.subscriptions):
                if share_name is not None and (group := self._groups[share_name, inner]).present:
                    self._hand_over(session, group, now, begun=False)
        session.ends_at = None if session.never_ends else now + session.expiry_interval_s
        if session.journal is not None:
            session.journal.touch(session)
        self._schedule(session)

    def _end(self, session: Session, now: float) -> None:
        for topic_filter in list(session.subscriptions):
            self.unsubscribe(topic_filter, session, now, ends=True)
        if self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]
        self._publish_will(session, now)
        if session.journal is not None:
            session.stop_persisting()
        owner = session.owner
        session.outbox.ended()
        owner.sessions -= 1
        self.owners.leave(owner)

    def forget(self, session: Session, text: str, now: float, *, reason: str = "application") -> None:
        """Ends a session, with all that it has, for good: its client is told `text`, its will is not published.
        `reason` is that of the connection's end."""
        if session.connection is not None:
            session.connection.cut_off(reason, text, now)
        if self.sessions.get(session.client_id) is session:
            session.will = None
            self._end(session, now)

    def forget_owners(self, texts: Mapping[str, str], now: float, *, reason: str = "application") -> tuple[int, int]:
        """Ends all sessions of owners, given with what their clients are told, and takes out what they have retained:
        (how many sessions, how many messages). `reason`: as of `forget`."""
        names = {name for name in texts if name and self.owners.get(name) is not None}
        if not names:
            return 0, 0
        sessions = [session for session in self.sessions.values() if session.owner.name in names]
        topics = [message.topic for message in self.retained if message.owner_name in names]
        for session in sessions:
            self.forget(session, texts[session.owner.name], now, reason=reason)
        for topic in topics:
            self.forget_retained(topic)
        return len(sessions), len(topics)

    def restore(self, session: Session, owner_name: str, now: float) -> None:
        """Takes a session back that outlived another process, with all that it has; its client is not here."""
        self.sessions[session.client_id] = session
        subscriptions, session.subscriptions = session.subscriptions, {}
        self._give(session, owner_name)
        for topic_filter, subscriber in subscriptions.items():
            self.subscribe(topic_filter, session, subscriber)
        session.outbox.journal = self.journal
        if session.ends_at is None and not session.never_ends:  # its client was here when that process ended
            session.ends_at = now + session.expiry_interval_s
        self._schedule(session)

    def _publish_will(self, session: Session, now: float) -> None:
        will, session.will = session.will, None
        if will is not None:  # [MQTT5-3.1.2-8] [MQTT3-3.1.2-8]
            message = Message(will.topic, will.payload, will.qos, will.retain, will.properties, now=now)
            self.route(message, session, now)
            if session.journal is not None:
                session.journal.touch(session)

    # Time

    def tick(self, now: float) -> None:
        """Publishes the wills whose delay has passed and ends the sessions that have expired."""
        while self._due and self._due[0][0] <= now:
            _, _, session = heapq.heappop(self._due)
            session.due_at = None
            if session.connection is not None or self.sessions.get(session.client_id) is not session:
                continue
            if session.will is not None and session.will_at <= now:
                self._publish_will(session, now)
            if session.ends_at is not None and session.ends_at <= now:
                self.expired_sessions += 1
                self._end(session, now)
            else:
                self._schedule(session)

    def _schedule(self, session: Session) -> None:
        """Has `tick` look at the session in time. A session that was to be looked at anyway is not entered again, so
        that a client which comes and goes does not fill the heap."""
        times = [time for time in (session.ends_at, session.will_at if session.will else None) if time is not None]
        if not times:
            return
        due_at = min(times)
        if session.due_at is None or due_at < session.due_at:
            session.due_at = due_at
            self._due_count += 1
            heapq.heappush(self._due, (due_at, self._due_count, session))

    def publish_pending_wills(self, now: float) -> None:
        """Publishes every will that waits for its delay and does not outlive the process: its session ends here."""
        for session in list(self.sessions.values()):
            if session.journal is None:
                self._publish_will(session, now)


_NOT_RETAINED: Final = {
    "max_topic_levels": "retained_too_deep",
    "max_retained_messages": "retained_full",
    "max_retained_bytes": "retained_full",
    "max_retained_messages_per_owner": "owner_retained_full",
    "max_retained_bytes_per_owner": "owner_retained_full",
}
"""The reason of `dropped` by the option that keeps a message from being retained."""


def _message_of(packet: Publish, now: float) -> Message:
    return Message(packet.topic, packet.payload, packet.qos, packet.retain, packet.properties, now=now)


def _keep(session: Session, journal: Journal) -> None:
    """Records a session that has been given a connection, if it is to outlive the process."""
    if session.journal is not None:
        if session.persistent:
            journal.touch(session)
        else:  # its client wants it to end with the connection, this time
            session.stop_persisting()
    elif session.persistent:
        session.persist_in(journal)


def _row_of(topic_filter: str, session: Session, subscriber: Subscriber) -> SubscriptionRow:
    return SubscriptionRow(
        session.session_id,
        topic_filter,
        subscriber.qos,
        subscriber.no_local,
        subscriber.retain_as_published,
        subscriber.identifiers[0] if subscriber.identifiers else None,
    )


def _share(group: SharedGroup, message: Message, now: float) -> int:
    """Gives a message to one session of the group. Returns to how many."""
    chosen = group.choose()
    if chosen is None:
        return 0
    qos = min(chosen.qos, message.qos)
    retain = message.retain and chosen.retain_as_published
    chosen.outbox.deliver(message, qos, retain, chosen.identifiers, now, share=group.topic_filter)
    return 1
