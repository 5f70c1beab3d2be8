"""SUBSCRIBE and UNSUBSCRIBE: what the application is asked, and what its answer becomes."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from protocols.asgi import Event
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.broker.session import Session, Subscriber
from protocols.mqtt.codec.errors import InvalidTopicError
from protocols.mqtt.codec.packets import (
    PacketType,
    Properties,
    ReasonCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from protocols.mqtt.codec.reason_codes import is_failure, sendable
from protocols.mqtt.codec.topic_rules import SHARE_PREFIX, validate_topic_filter
from protocols.mqtt.events import SubscriptionRequest, retained, subscribe, subscription_request, unsubscribe
from protocols.mqtt.options import BrokerOptions, MqttOptions
from protocols.mqtt.packet_writer import PacketWriter
from protocols.mqtt.retained_queries import RetainedQueries, retained_for, send_retained
from protocols.mqtt.trace import kind

MAX_PENDING_ANSWERS: Final = 64
"""SUBSCRIBE and UNSUBSCRIBE packets that wait for the application; with more, the socket is not read."""

_BOUNDS: Final = {
    "max_topic_length": ReasonCode.TOPIC_FILTER_INVALID,
    "max_topic_levels": ReasonCode.QUOTA_EXCEEDED,
    "max_subscriptions": ReasonCode.QUOTA_EXCEEDED,
    "max_subscription_bytes_in_all": ReasonCode.QUOTA_EXCEEDED,
    "max_subscription_bytes_per_owner": ReasonCode.QUOTA_EXCEEDED,
}
"""The options by which filters are refused, and what is answered."""


class PendingRequest:
    """A SUBSCRIBE or UNSUBSCRIBE that the application has not answered.

    `refused` has one entry per filter: the reason code of one that the application is not asked about, None for the
    others. `bound` is the option that has refused one of them, if any.
    """

    __slots__ = ("bound", "packet", "refused")

    def __init__(self, packet: Subscribe | Unsubscribe, refused: list[int | None], bound: str = "") -> None:
        self.packet = packet
        self.refused = refused
        self.bound = bound

    def refusal(self) -> SubAck | UnsubAck:
        """The answer if every filter is refused."""
        kind = SubAck if isinstance(self.packet, Subscribe) else UnsubAck
        codes = tuple(code or 0 for code in self.refused)
        return kind(packet_id=self.packet.packet_id, reason_codes=codes)


def as_of_bridge(packet: Subscribe) -> Subscribe:
    """What a SUBSCRIBE means of a client with the bridge bit, which has no options to say it with before 5.0: what it
    publishes does not come back to it, and what is retained stays so on the other side. A shared subscription has no
    "no local" [MQTT5-3.8.3-4]."""
    subscriptions = tuple(
        msgspec.structs.replace(one, no_local=not one.topic_filter.startswith(SHARE_PREFIX), retain_as_published=True)
        for one in packet.subscriptions
    )
    return msgspec.structs.replace(packet, subscriptions=subscriptions)


def pending_subscribe(
    packet: Subscribe, options: MqttOptions, limits: BrokerOptions, counts: Counter[str]
) -> tuple[PendingRequest, list[SubscriptionRequest]]:
    """What is to be remembered of a SUBSCRIBE, and what the application is to be asked: nothing if every filter is
    refused already. `counts`: how many are refused because of an option, by its name."""
    refused: list[int | None] = []
    bound = ""
    for index, subscription in enumerate(packet.subscriptions):
        code = _syntax_error(subscription.topic_filter)
        if code is None and (exceeded := _exceeded(subscription.topic_filter, index, options, limits)):
            counts[exceeded] += 1
            bound, code = exceeded, _BOUNDS[exceeded]
        refused.append(code)
    asked = [
        subscription_request(
            one.topic_filter,
            one.qos,
            no_local=one.no_local,
            retain_as_published=one.retain_as_published,
            retain_handling=one.retain_handling,
        )
        for one, code in zip(packet.subscriptions, refused, strict=True)
        if code is None
    ]
    return PendingRequest(packet, refused, bound), asked


def pending_unsubscribe(packet: Unsubscribe) -> tuple[PendingRequest, list[str]]:
    """The same for an UNSUBSCRIBE."""
    refused = [_syntax_error(topic_filter) for topic_filter in packet.topic_filters]
    asked = [topic_filter for topic_filter, code in zip(packet.topic_filters, refused, strict=True) if code is None]
    return PendingRequest(packet, refused), asked


def _syntax_error(topic_filter: str) -> int | None:
    try:
        validate_topic_filter(topic_filter)
    except InvalidTopicError as error:
        return error.reason_code
    return None


def _exceeded(topic_filter: str, index: int, options: MqttOptions, limits: BrokerOptions) -> str:
    """The option that allows no such filter, or not as many in one packet; empty if there is none."""
    if len(topic_filter) > options.max_topic_length:
        return "max_topic_length"
    if topic_filter.count("/") >= limits.max_topic_levels:
        return "max_topic_levels"
    return "max_subscriptions" if index >= options.max_subscriptions else ""


def answer_subscribe(
    pending: PendingRequest,
    event: Event,
    properties: Properties,
    maximum_qos: int,
    broker: Broker,
    session: Session,
) -> tuple[SubAck, list[tuple[str, Subscriber]]]:
    """Enters what the application granted: the SUBACK, and (filter, subscriber) for those that are to get the retained
    messages. Raises ValueError unless the answer has a code for each filter that was asked about."""
    packet = pending.packet
    assert isinstance(packet, Subscribe)
    answers = iter(_codes(event, pending.refused.count(None)))
    identifier = packet.properties.get("subscription_identifier")
    identifiers = () if identifier is None else (identifier,)
    codes: list[int] = []
    replay: list[tuple[str, Subscriber]] = []
    for subscription, refused in zip(packet.subscriptions, pending.refused, strict=True):
        code = next(answers) if refused is None else refused
        topic_filter = subscription.topic_filter
        is_known = topic_filter in session.subscriptions
        if not is_failure(code) and not is_known and (bound := _bound_of_one_more(topic_filter, broker, session)):
            pending.bound = bound
            broker.refused_filters[bound] += 1
            code = _BOUNDS[bound]
        if is_failure(code):
            codes.append(sendable(code, PacketType.SUBACK))
            continue
        subscriber = Subscriber(
            session.outbox,
            min(code, subscription.qos, maximum_qos),  # [MQTT5-3.8.4-7] [MQTT3-3.8.4-6]
            no_local=subscription.no_local,
            retain_as_published=subscription.retain_as_published,
            identifiers=identifiers,
        )
        is_new = broker.subscribe(topic_filter, session, subscriber)
        codes.append(subscriber.qos)
        # [MQTT5-3.3.1-9] [MQTT5-3.3.1-10] [MQTT5-3.3.1-11]
        if subscription.retain_handling == 0 or (subscription.retain_handling == 1 and is_new):
            replay.append((topic_filter, subscriber))
    return SubAck(packet_id=packet.packet_id, reason_codes=tuple(codes), properties=properties), replay


def _bound_of_one_more(topic_filter: str, broker: Broker, session: Session) -> str:
    """The option that allows the session no further subscription; empty if there is none."""
    if len(session.subscriptions) >= session.options.max_subscriptions:
        return "max_subscriptions"
    return broker.owners.bound_of_subscription(session.owner, topic_filter)


def answer_unsubscribe(
    pending: PendingRequest, event: Event, properties: Properties, broker: Broker, session: Session, now: float
) -> UnsubAck:
    """Takes out what the application allows; without reason_codes, everything. Raises ValueError as above."""
    packet = pending.packet
    assert isinstance(packet, Unsubscribe)
    expected = pending.refused.count(None)
    answers = iter([0] * expected if event.get("reason_codes") is None else _codes(event, expected))
    codes: list[int] = []
    for topic_filter, refused in zip(packet.topic_filters, pending.refused, strict=True):
        code = next(answers) if refused is None else refused
        if is_failure(code):
            codes.append(sendable(code, PacketType.UNSUBACK))
        elif broker.unsubscribe(topic_filter, session, now):
            codes.append(ReasonCode.SUCCESS)
        else:
            codes.append(ReasonCode.NO_SUBSCRIPTION_EXISTED)
    return UnsubAck(packet_id=packet.packet_id, reason_codes=tuple(codes), properties=properties)


def _codes(event: Event, expected: int) -> list[int]:
    codes = event.get("reason_codes")
    if codes is None or len(codes) != expected:
        got = "none" if codes is None else len(codes)
        raise ValueError(f"mqtt.ack: expected {expected} reason_codes, one for each that was asked about; got {got}")
    return list(codes)


class PendingRequests:
    """The SUBSCRIBE and UNSUBSCRIBE packets of one connection that wait for their acknowledgement; and, where the
    application wants to be asked about them, the retained messages that wait for it. Their ack_ids are negative."""

    __slots__ = (
        "_broker",
        "_is_bridge",
        "_last_ack_id",
        "_maximum_qos",
        "_options",
        "_pending",
        "_queries",
        "_session",
        "writer",
    )

    def __init__(
        self,
        broker: Broker,
        options: MqttOptions,
        session: Session,
        writer: PacketWriter,
        *,
        maximum_qos: int,
        is_bridge: bool,
    ) -> None:
        """`is_bridge`: whether the client has set the bridge bit; see `as_of_bridge`."""
        self._broker = broker
        self._options = options
        self._session = session
        self.writer = writer
        self._maximum_qos = maximum_qos
        self._is_bridge = is_bridge
        self._pending: dict[int, PendingRequest | RetainedQueries] = {}
        self._last_ack_id = 0
        self._queries: RetainedQueries | None = None

    @property
    def congested(self) -> bool:
        """Whether so much waits for the application that the socket should not be read."""
        return len(self._pending) + len(self._queries or ()) >= MAX_PENDING_ANSWERS

    # What the client sends

    def subscribe(self, packet: Subscribe, events: list[Event]) -> None:
        """Takes a SUBSCRIBE; adds the event to `events`, unless every filter is refused already."""
        if self._is_bridge:
            packet = as_of_bridge(packet)
        pending, asked = pending_subscribe(packet, self._options, self._broker.limits, self._broker.refused_filters)
        if asked:
            ack_id = self._remember(pending)
            events.append(subscribe(ack_id=ack_id, subscriptions=asked, properties=packet.properties))
        else:
            self._refuse_all(pending)

    def unsubscribe(self, packet: Unsubscribe, events: list[Event]) -> None:
        """Takes an UNSUBSCRIBE; adds the event to `events`, unless every filter is refused already."""
        pending, asked = pending_unsubscribe(packet)
        if asked:
            ack_id = self._remember(pending)
            events.append(unsubscribe(ack_id=ack_id, topic_filters=asked, properties=packet.properties))
        else:
            self._refuse_all(pending)

    def _remember(self, asked: PendingRequest | RetainedQueries) -> int:
        """The ack_id under which the answer is looked for."""
        self._last_ack_id -= 1
        self._pending[self._last_ack_id] = asked
        return self._last_ack_id

    def _refuse_all(self, pending: PendingRequest) -> None:
        refusal = pending.refusal()
        self._name_bound(pending, refusal.properties)
        self._tell_refused(pending, refusal.reason_codes, "")
        self.writer.write_packet(refusal)

    def _name_bound(self, pending: PendingRequest, properties: Properties) -> None:
        """Says which bound has refused a filter, unless the application has to say something."""
        if pending.bound and self.writer.problem_information and "reason_string" not in properties:
            options = self._broker.limits if hasattr(self._broker.limits, pending.bound) else self._options
            properties["reason_string"] = f"{pending.bound} is {getattr(options, pending.bound)}"

    def _tell_refused(self, pending: PendingRequest, reason_codes: Sequence[int], reason: str) -> None:
        """Tells who watches, because a client before 5.0 is not told the codes. `reason` is the application's."""
        tap = self.writer.tap
        if tap is None:
            return
        packet = pending.packet
        if isinstance(packet, Subscribe):
            filters = [subscription.topic_filter for subscription in packet.subscriptions]
        else:
            filters = list(packet.topic_filters)
        for index, (topic_filter, code) in enumerate(zip(filters, reason_codes, strict=True)):
            if is_failure(code):
                by_us = pending.refused[index] is not None
                tap.refused(kind(packet), code, "" if by_us else reason, topic_filter)

    # What the application answers

    def ack(self, event: Event, now: float) -> bool:
        """Takes the `mqtt.ack` of a request or of a question. Returns whether one waits for it, or did before the
        connection ended."""
        pending = self._pending.pop(event["ack_id"], None)
        if self.writer.is_closed and (pending is None or not self._is_away()):
            return True
        if pending is None:
            return False
        if isinstance(pending, RetainedQueries):
            self._answer_query(pending, event, now)
        else:
            self._answer_request(pending, event, now)
        return True

    def _is_away(self) -> bool:
        """Whether the session of this connection, which has ended, is kept and no other connection has it."""
        session = self._session
        return session.connection is None and self._broker.sessions.get(session.client_id) is session

    def _answer_request(self, pending: PendingRequest, event: Event, now: float) -> None:
        broker, session, writer = self._broker, self._session, self.writer
        properties = writer.problem(event)
        answer: SubAck | UnsubAck
        granted: list[tuple[str, Subscriber]] = []
        if isinstance(pending.packet, Subscribe):
            answer, granted = answer_subscribe(pending, event, properties, self._maximum_qos, broker, session)
        else:
            answer = answer_unsubscribe(pending, event, properties, broker, session, now)
            if self._queries is not None:
                self._queries.forget(pending.packet.topic_filters)
        self._name_bound(pending, properties)
        self._tell_refused(pending, answer.reason_codes, event.get("reason_string", ""))
        if not writer.is_closed:
            if session.journal is not None:
                writer.require_commit()
            # [MQTT5-3.8.4-1] [MQTT5-3.8.4-2] [MQTT3-3.8.4-1] [MQTT5-3.10.4-4] [MQTT5-3.10.4-5] [MQTT3-3.10.4-4]
            writer.write_packet(answer)
            if granted:
                writer.sink.flush()  # there are clients that take what one read gives them for the SUBACK alone
        if not event.get("check_retained"):
            for topic_filter, subscriber in granted:
                send_retained(broker, retained_for(broker, topic_filter, session), session, subscriber, now)
        elif not writer.is_closed:  # after the end the application cannot be asked
            if self._queries is None:
                self._queries = RetainedQueries(broker, session, self._ask)
            self._queries.add([topic_filter for topic_filter, _ in granted])

    def _ask(self, topics: Sequence[str]) -> None:
        assert self._queries is not None
        self.writer.sink.ask(retained(ack_id=self._remember(self._queries), topics=topics))

    def _answer_query(self, queries: RetainedQueries, event: Event, now: float) -> None:
        if self.writer.is_closed:
            return
        refused = queries.answer(_codes(event, queries.asked), now)
        if self.writer.tap is not None:
            for topic, code in refused:
                self.writer.tap.refused("retained", code, event.get("reason_string", ""), topic)

    def connection_ended(self, *, keep_requests: bool) -> None:
        """What the application says of its subscriptions does not count any more; or, with `keep_requests`, only what
        it says of SUBSCRIBE and UNSUBSCRIBE packets does."""
        self._queries = None
        if not keep_requests:
            self._pending.clear()
