"""SUBSCRIBE and UNSUBSCRIBE: what the application is asked, and what its answer becomes."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
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
from protocols.mqtt.description import kind
from protocols.mqtt.events import SubscriptionRequest, retained, subscribe, subscription_request, unsubscribe
from protocols.mqtt.inbound_publishes import MAX_PENDING_BYTES, PublishReceiver
from protocols.mqtt.options import BrokerOptions, MqttOptions
from protocols.mqtt.packet_writer import Wire
from protocols.mqtt.retained_queries import RetainedCheck, retained_for, send_retained

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


class PendingAnswer:
    """A SUBSCRIBE or UNSUBSCRIBE that the application has not answered.

    `refused` has one entry per filter: the reason code of one that the application is not asked about, None for the
    others. `bound` is the option that has refused one of them, if any.
    """

    __slots__ = ("bound", "packet", "refused")

    def __init__(self, packet: Subscribe | Unsubscribe, refused: list[int | None], bound: str = "") -> None:
        self.packet = packet
        self.refused = refused
        self.bound = bound

    def refusal(self, properties: Properties) -> SubAck | UnsubAck:
        """The answer if every filter is refused."""
        kind = SubAck if isinstance(self.packet, Subscribe) else UnsubAck
        codes = tuple(code or 0 for code in self.refused)
        return kind(packet_id=self.packet.packet_id, reason_codes=codes, properties=properties)


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
) -> tuple[PendingAnswer, list[SubscriptionRequest]]:
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
    return PendingAnswer(packet, refused, bound), asked


def pending_unsubscribe(packet: Unsubscribe) -> tuple[PendingAnswer, list[str]]:
    """The same for an UNSUBSCRIBE."""
    refused = [_syntax_error(topic_filter) for topic_filter in packet.topic_filters]
    asked = [topic_filter for topic_filter, code in zip(packet.topic_filters, refused, strict=True) if code is None]
    return PendingAnswer(packet, refused), asked


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
    pending: PendingAnswer,
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
            session,
            min(code, subscription.qos, maximum_qos),  # [MQTT5-3.8.4-7] [MQTT3-3.8.4-6]
            no_local=subscription.no_local,
            retain_as_published=subscription.retain_as_published,
            identifiers=identifiers,
        )
        is_new = broker.subscribe(topic_filter, subscriber)
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
    pending: PendingAnswer, event: Event, properties: Properties, broker: Broker, session: Session, now: float
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


class SubscribeReceiver(PublishReceiver):
    """The SUBSCRIBE and UNSUBSCRIBE packets that wait for their acknowledgement, besides the publishes; and, where the
    application wants to be asked about them, the retained messages that wait for it."""

    __slots__ = ("_answers", "_checks", "_is_bridge", "_last_answer_id")

    def __init__(self, broker: Broker, options: MqttOptions, wire: Wire) -> None:
        super().__init__(broker, options, wire)
        self._is_bridge = False
        # By ack_id: negative ones, downwards.
        self._answers: dict[int, PendingAnswer | RetainedCheck] | None = None
        self._last_answer_id = 0
        # The application is asked about the first one, which is among `_answers` too; the others wait.
        self._checks: deque[RetainedCheck] | None = None

    @property
    def congested(self) -> bool:
        """Whether so much waits for the application that the socket should not be read."""
        pending = self._pending
        if pending is not None and (
            len(pending) >= self._options.receive_maximum or self._pending_bytes > MAX_PENDING_BYTES
        ):
            return True
        if self._answers is None:
            return False
        return len(self._answers) + (0 if self._checks is None else len(self._checks)) >= MAX_PENDING_ANSWERS

    def received_subscribe(self, packet: Subscribe, events: list[Event], now: float) -> None:
        """Takes a SUBSCRIBE; adds the event to `events`, unless every filter is refused already."""
        if self._is_bridge:
            packet = as_of_bridge(packet)
        pending, asked = pending_subscribe(packet, self._options, self._broker.limits, self._broker.refused_filters)
        if asked:
            ack_id = self._remember(pending)
            events.append(subscribe(ack_id=ack_id, subscriptions=asked, properties=packet.properties))
        else:
            self._refuse_all(pending)

    def received_unsubscribe(self, packet: Unsubscribe, events: list[Event], now: float) -> None:
        """Takes an UNSUBSCRIBE; adds the event to `events`, unless every filter is refused already."""
        pending, asked = pending_unsubscribe(packet)
        if asked:
            ack_id = self._remember(pending)
            events.append(unsubscribe(ack_id=ack_id, topic_filters=asked, properties=packet.properties))
        else:
            self._refuse_all(pending)

    def _refuse_all(self, pending: PendingAnswer) -> None:
        refusal = pending.refusal({})
        self._name_bound(pending, refusal.properties)
        self._tell_refused(pending, refusal.reason_codes, "")
        self._write_short(refusal)

    def _name_bound(self, pending: PendingAnswer, properties: Properties) -> None:
        """Says which bound has refused a filter, unless the application has to say something."""
        if pending.bound and self._problem_information and "reason_string" not in properties:
            options = self._broker.limits if hasattr(self._broker.limits, pending.bound) else self._options
            properties["reason_string"] = f"{pending.bound} is {getattr(options, pending.bound)}"

    def _remember(self, asked: PendingAnswer | RetainedCheck) -> int:
        """The ack_id under which the answer is looked for."""
        if self._answers is None:
            self._answers = {}
        self._last_answer_id -= 1
        self._answers[self._last_answer_id] = asked
        return self._last_answer_id

    def _answer(self, event: Event, now: float) -> None:
        pending = self._answers.pop(event["ack_id"], None) if self._answers is not None else None
        if self._closed and (pending is None or not self._is_away()):
            return
        if pending is None or self.session is None:
            self.unknown_acks += 1
        elif isinstance(pending, RetainedCheck):
            self._answer_check(pending, event, self.session, now)
        else:
            self._answer_packet(pending, event, self.session, now)

    def _answer_packet(self, pending: PendingAnswer, event: Event, session: Session, now: float) -> None:
        properties = self._problem(event)
        answer: SubAck | UnsubAck
        granted: list[tuple[str, Subscriber]] = []
        if isinstance(pending.packet, Subscribe):
            answer, granted = answer_subscribe(pending, event, properties, self._maximum_qos, self._broker, session)
        else:
            answer = answer_unsubscribe(pending, event, properties, self._broker, session, now)
            for check in self._checks or ():
                check.forget(pending.packet.topic_filters, session)
        self._name_bound(pending, properties)
        self._tell_refused(pending, answer.reason_codes, event.get("reason_string", ""))
        if not self._closed:
            if session.journal is not None:
                self.require_commit()
            # [MQTT5-3.8.4-1] [MQTT5-3.8.4-2] [MQTT3-3.8.4-1] [MQTT5-3.10.4-4] [MQTT5-3.10.4-5] [MQTT3-3.10.4-4]
            self._write_short(answer)
            if granted:
                self._wire.flush()  # there are clients that take what one read gives them for the SUBACK alone
        if event.get("check_retained"):
            self._check_retained([topic_filter for topic_filter, _ in granted], session)
            return
        for topic_filter, subscriber in granted:
            send_retained(self._broker, retained_for(self._broker, topic_filter, session), subscriber, now)

    def _check_retained(self, topic_filters: Iterable[str], session: Session) -> None:
        """Asks the application about what is retained for these filters, in its turn; after the end it cannot."""
        if self._closed:
            return
        if self._checks is None:
            self._checks = deque()
        self._checks.append(RetainedCheck(self._broker, session, topic_filters))
        if len(self._checks) == 1:
            self._ask_about_retained()

    def _ask_about_retained(self) -> None:
        checks = self._checks
        assert checks is not None
        while checks:
            topics = checks[0].ask()
            if topics:
                self._wire.ask(retained(ack_id=self._remember(checks[0]), topics=topics))
                return
            checks.popleft()

    def _answer_check(self, check: RetainedCheck, event: Event, session: Session, now: float) -> None:
        if self._closed:
            return
        refused = check.answer(_codes(event, check.asked), self._broker, session, now)
        if self.tap is not None:
            for topic, code in refused:
                self.tap.refused("retained", code, event.get("reason_string", ""), topic)
        self._ask_about_retained()

    def _is_away(self) -> bool:
        """Whether the session of this connection, which has ended, is kept and no other connection has it."""
        session = self.session
        return session is not None and session.link is None and self._broker.sessions.get(session.client_id) is session

    def _tell_refused(self, pending: PendingAnswer, reason_codes: Sequence[int], reason: str) -> None:
        """Tells who watches, because a client before 5.0 is not told the codes. `reason` is the application's."""
        if self.tap is None:
            return
        packet = pending.packet
        if isinstance(packet, Subscribe):
            filters = [subscription.topic_filter for subscription in packet.subscriptions]
        else:
            filters = list(packet.topic_filters)
        for index, (topic_filter, code) in enumerate(zip(filters, reason_codes, strict=True)):
            if is_failure(code):
                by_us = pending.refused[index] is not None
                self.tap.refused(kind(packet), code, "" if by_us else reason, topic_filter)

    def _forget_answers(self, *, but_of_packets: bool) -> None:
        """The connection has ended, and what the application says of its subscriptions does not count any more; or
        only what it says of SUBSCRIBE and UNSUBSCRIBE packets does."""
        self._checks = None
        if not but_of_packets:
            self._answers = None
