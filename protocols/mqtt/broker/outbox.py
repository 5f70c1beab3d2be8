"""The messages for one client: those that wait, and those that were sent and not acknowledged.

They take one way: `deliver` sends at once or queues; whatever makes room (an acknowledgement, a new connection, a
socket that drains) calls `pump`. Invariants:

- messages above QoS 0 leave in the order in which they came [MQTT5-4.6.0-5], and are sent again, once per connection
  and only then, in the order in which they were first sent [MQTT5-4.6.0-1] [MQTT5-4.4.0-1];
- never more of them are unacknowledged than the client allows [MQTT5-3.3.4-9], nor than `max_inflight`;
- the queue is bounded in messages and bytes; what does not fit is dropped, the new one, and counted;
- while `journal` is set, whatever happens to a message above QoS 0 is recorded there, and what must not be seen by the
  client before it is kept waits for its commit (`ClientLink.require_commit`): a PUBLISH at QoS 2, which after a crash
  would be sent again under another identifier; a PUBREL, after which the PUBLISH must never come again.
"""

from collections import Counter, deque
from typing import Any, Final

from protocols.mqtt.broker.owners import Owner
from protocols.mqtt.codec.errors import ProtocolError
from protocols.mqtt.codec.packets import ReasonCode
from protocols.mqtt.codec.reason_codes import is_failure
from protocols.mqtt.delivery import ClientLink, Delivery
from protocols.mqtt.message import Message
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.storage.journal import Journal

_MAX_PACKET_ID: Final = 65_535

_NONE: Final[dict[int, Any]] = {}
"""In place of a container that has not been needed yet; never changed."""


def _wrong_answer(answer: str, packet_id: int) -> ProtocolError:
    """An answer to nothing is tolerated, as clients give them after a reconnect; one of the wrong kind is not
    [MQTT5-4.3.2] [MQTT5-4.3.3]."""
    return ProtocolError(ReasonCode.PROTOCOL_ERROR, f"{answer} does not answer message {packet_id} in its state")


class Outbox:
    """What one client is to be sent. The containers that few clients need are made when they are."""

    __slots__ = (
        "_drops",
        "_inflight",
        "_last_packet_id",
        "_queue",
        "_queued_bytes",
        "_queued_messages",
        "_released",
        "_resend",
        "journal",
        "link",
        "options",
        "owner",
        "session_id",
    )

    def __init__(self, options: MqttOptions, drops: Counter[str]) -> None:
        """`drops` counts, by reason, the messages that did not reach the client."""
        self.options = options
        self._drops = drops
        self.owner = Owner()
        """Who has the session: nobody, until `give_to`."""
        self.link: ClientLink | None = None
        self.journal: Journal | None = None
        """Where it is recorded, if it is to outlive the process, under `session_id`."""
        self.session_id = 0
        self._last_packet_id = 0
        self._inflight: dict[int, Delivery] = _NONE
        self._released: dict[int, int] = _NONE
        """The QoS 2 messages that the client owns and whose PUBCOMP is awaited: packet identifier -> `seq` or 0."""
        self._resend: deque[Delivery] | None = None
        self._queue: deque[Delivery] | None = None
        self._queued_messages = 0
        self._queued_bytes = 0

    @property
    def queued(self) -> int:
        """How many messages wait."""
        return len(self._queue) if self._queue else 0

    @property
    def queued_bytes(self) -> int:
        """How many bytes they have, those of retained messages apart."""
        return self._queued_bytes

    @property
    def unacknowledged(self) -> int:
        """How many QoS 1 and 2 messages are under way on this connection."""
        waiting = len(self._resend) if self._resend else 0
        return len(self._inflight) + len(self._released) - waiting

    @property
    def ready(self) -> bool:
        """Whether a message above QoS 0 would be sent at once."""
        return self.link is not None and self.link.writable and not self._queue and self._has_quota(self.link)

    def drop(self, reason: str) -> None:
        """Counts a message that the client does not get, or what else it has published for nothing."""
        if self.link is None:
            self._drops[reason] += 1
        else:
            self.link.dropped(reason)

    # Messages to the client

    def deliver(
        self,
        message: Message,
        qos: int,
        retain: bool,
        identifiers: tuple[int, ...],
        now: float,
        *,
        bounded: bool = True,
        share: str = "",
        delivery_id: int | None = None,
    ) -> None:
        """Sends a message now, or queues it; a message at QoS 0 for an absent client is dropped [MQTT5-4.3.1]. One with
        a `delivery_id` is above QoS 0, and its client is here."""
        link = self.link
        if link is None:
            if qos:
                self._enqueue(Delivery(message, qos, retain, identifiers, bounded, share), now)
        elif qos == 0:
            if link.writable and not self._queue:
                link.write_publish(message, 0, retain, identifiers, now)
            else:
                self._enqueue(Delivery(message, 0, retain, identifiers, bounded, share), now)
        else:
            delivery = Delivery(message, qos, retain, identifiers, bounded, share, delivery_id)
            if link.writable and not self._queue and self._has_quota(link):
                self._send(link, delivery, now)
            else:
                self._enqueue(delivery, now)

    def pump(self, now: float) -> None:
        """Sends what waits, as far as the socket and the client's receive maximum have room."""
        link = self.link
        if link is None:
            return
        while self._resend and link.writable and self._has_quota(link):
            delivery = self._resend.popleft()
            sent = link.write_publish(
                delivery.message,
                delivery.qos,
                delivery.retain,
                delivery.identifiers,
                now,
                delivery.packet_id,
                True,
            )
            if not sent:
                self._forget(self._inflight.pop(delivery.packet_id), ReasonCode.PACKET_TOO_LARGE)
        queue = self._queue
        while queue and link.writable and (queue[0].qos == 0 or self._has_quota(link)):
            delivery = self._dequeue(queue)
            if delivery.message.expired(now):  # [MQTT5-3.3.2-5]
                self._forget(delivery, ReasonCode.UNSPECIFIED_ERROR)
                self.drop("expired")
            else:
                self._send(link, delivery, now)
        if not queue:
            self._queue = None

    def take_out(self, share: str, *, begun: bool) -> list[Delivery]:
        """Takes out the messages above QoS 0 that came through a shared subscription, for another of its sessions.

        `begun`: also those sent at QoS 1 and not acknowledged; never those at QoS 2 [MQTT5-4.8.2-5]. `hand_over` is to
        be told when they have one.
        """
        taken: list[Delivery] = []
        if begun:
            taken = [one for one in self._inflight.values() if one.share == share and one.qos == 1]
            for delivery in taken:
                del self._inflight[delivery.packet_id]
        queue = self._queue
        if queue and any(delivery.share == share for delivery in queue):
            for _ in range(len(queue)):
                delivery = self._dequeue(queue)
                if delivery.share == share and delivery.qos:
                    taken.append(delivery)
                else:
                    self._requeue(delivery)
        return taken

    def hand_over(self, delivery: Delivery) -> None:
        """Another session delivers it now."""
        self._forget(delivery)

    def _has_quota(self, link: ClientLink) -> bool:
        return self.unacknowledged < link.send_maximum

    def _send(self, link: ClientLink, delivery: Delivery, now: float) -> None:
        packet_id = 0
        if delivery.qos:
            packet_id = delivery.packet_id = self._next_packet_id()
            if self._inflight is _NONE:
                self._inflight = {}
            self._inflight[packet_id] = delivery
            if self.journal is not None and delivery.delivery_id is None:
                self.journal.deliver(delivery, self.session_id)
                if delivery.qos == 2:
                    link.require_commit()
        message = delivery.message
        sent = link.write_publish(message, delivery.qos, delivery.retain, delivery.identifiers, now, packet_id)
        if not sent and packet_id:  # as if it had been delivered [MQTT5-3.1.2-25]
            self._forget(self._inflight.pop(packet_id), ReasonCode.PACKET_TOO_LARGE)

    def _forget(self, delivery: Delivery, reason_code: int = ReasonCode.SUCCESS) -> None:
        """The delivery is over: by the client's acknowledgement, with its code, or because it is not to have it."""
        if delivery.seq:
            assert self.journal is not None
            self.journal.delivered(delivery)
        if delivery.delivery_id is not None and self.link is not None:
            self.link.settled(delivery.delivery_id, reason_code)

    def _next_packet_id(self) -> int:
        """One that is not in use [MQTT5-2.2.1-4]; there always is one, since `max_inflight` is far below 65,535."""
        packet_id = self._last_packet_id
        while True:
            packet_id = packet_id + 1 if packet_id < _MAX_PACKET_ID else 1
            if packet_id not in self._inflight and packet_id not in self._released:
                self._last_packet_id = packet_id
                return packet_id

    def _enqueue(self, delivery: Delivery, now: float) -> None:
        """Puts it at the end of the queue, or drops it; in one place, as it is what absent clients cost."""
        queue = self._queue
        if queue is None:
            queue = self._queue = deque()
        if delivery.bounded:
            size_bytes = delivery.message.size_bytes
            options, owner = self.options, self.owner
            backlog = owner.backlog
            if (
                self._queued_messages >= options.max_queued_messages
                or self._queued_bytes + size_bytes > options.max_queued_bytes
            ) and not self._make_room(queue, size_bytes, now):
                self._refuse(delivery, "queue_full")
                return
            of_owner = owner.queued_bytes + size_bytes
            if of_owner > owner.max_queued_bytes:
                self._refuse(delivery, "owner_queues_full")
                return
            in_all = backlog.size_bytes + size_bytes
            if in_all > backlog.max_bytes:
                self._refuse(delivery, "queues_full")
                return
            self._queued_messages += 1
            self._queued_bytes += size_bytes
            owner.queued_bytes = of_owner
            backlog.size_bytes = in_all
        queue.append(delivery)
        if delivery.qos and self.journal is not None and delivery.delivery_id is None:
            self.journal.deliver(delivery, self.session_id)

    def _refuse(self, delivery: Delivery, why: str) -> None:
        """It does not fit."""
        self._forget(delivery, ReasonCode.QUOTA_EXCEEDED)
        self.drop(why)

    def _make_room(self, queue: deque[Delivery], size_bytes: int, now: float) -> bool:
        """Drops what has expired from the front of a full queue. Returns whether there is room now."""
        while queue and queue[0].message.expired(now):
            self._forget(self._dequeue(queue), ReasonCode.UNSPECIFIED_ERROR)
            self.drop("expired")
            if (
                self._queued_messages < self.options.max_queued_messages
                and self._queued_bytes + size_bytes <= self.options.max_queued_bytes
            ):
                return True
        return False

    def _dequeue(self, queue: deque[Delivery]) -> Delivery:
        delivery = queue.popleft()
        if delivery.bounded:
            self._count(-1, -delivery.message.size_bytes)
        return delivery

    def _count(self, messages: int, size_bytes: int) -> None:
        self._queued_messages += messages
        self._queued_bytes += size_bytes
        self.owner.queued_bytes += size_bytes
        self.owner.backlog.size_bytes += size_bytes

    # What the client answers

    def on_puback(self, packet_id: int, now: float, reason_code: int = ReasonCode.SUCCESS) -> None:
        """A PUBACK has come: the message is delivered, or refused, which ends it too. Raises ProtocolError."""
        if packet_id in self._released:
            raise _wrong_answer("PUBACK", packet_id)
        delivery = self._take_inflight(packet_id, "PUBACK", qos=1)
        if delivery is not None:
            self._forget(delivery, reason_code)
            self.pump(now)

    def on_pubrec(self, packet_id: int, reason_code: int, now: float) -> None:
        """A PUBREC has come: the client owns the message, or refuses it [MQTT5-4.3.3-4]. Raises ProtocolError."""
        refused = is_failure(reason_code)
        delivery = self._take_inflight(packet_id, "PUBREC", qos=2)
        if delivery is not None:
            seq = delivery.seq
            self._forget(delivery, reason_code)
            if not refused:
                self.add_released(packet_id, seq)
                if self.journal is not None:
                    self.journal.release(seq, self.session_id, packet_id)
        if refused:
            self.pump(now)
            return
        if self.link is not None:
            known = packet_id in self._released
            if self.journal is not None:
                self.link.require_commit()
            self.link.write_pubrel(packet_id, ReasonCode.SUCCESS if known else ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)

    def _take_inflight(self, packet_id: int, answer: str, *, qos: int) -> Delivery | None:
        delivery = self._inflight.get(packet_id)
        if delivery is None:
            return None
        if delivery.qos != qos:
            raise _wrong_answer(answer, packet_id)
        del self._inflight[packet_id]
        if self._resend and delivery in self._resend:  # the answer is to what an earlier connection has sent
            self._resend.remove(delivery)
        return delivery

    def on_pubcomp(self, packet_id: int, now: float) -> None:
        """A PUBCOMP has come: the delivery at QoS 2 is over. Raises ProtocolError."""
        if packet_id in self._inflight:
            raise _wrong_answer("PUBCOMP", packet_id)
        if packet_id in self._released:
            seq = self._released.pop(packet_id)
            if self.journal is not None:
                self.journal.completed(seq)
            self.pump(now)

    # Connections

    def attach(self, link: ClientLink, options: MqttOptions) -> None:
        """The client is back: what was sent and not acknowledged is to be sent again, from `resume` on."""
        self.link = link
        self.options = options
        self._resend = deque(self._inflight.values()) if self._inflight else None

    def resume(self, now: float) -> None:
        """Sends again what was not acknowledged [MQTT5-4.4.0-1], PUBREL first, then sends what waits."""
        if self.link is None:
            return
        for packet_id in self._released:
            self.link.write_pubrel(packet_id)
        self.pump(now)

    def detach(self) -> None:
        """The connection is gone; with it go messages at QoS 0 that waited for its socket, and those of which the
        application was to be told what becomes of them, which sends them again where they are to come again."""
        self._resend = None
        if any(delivery.delivery_id is not None for delivery in self._inflight.values()):
            self._inflight = {
                packet_id: delivery for packet_id, delivery in self._inflight.items() if delivery.delivery_id is None
            }
        if self._queue:
            queue, self._queue = self._queue, None
            self._count(-self._queued_messages, -self._queued_bytes)
            for delivery in queue:
                if delivery.qos and delivery.delivery_id is None:
                    self._requeue(delivery)
                elif not delivery.qos:
                    self.drop("disconnected")
        self.link = None

    def _requeue(self, delivery: Delivery) -> None:
        if self._queue is None:
            self._queue = deque()
        if delivery.bounded:
            self._count(1, delivery.message.size_bytes)
        self._queue.append(delivery)

    def give_to(self, owner: Owner) -> None:
        """What waits counts as the owner's from now on."""
        queued_bytes = self._queued_bytes
        self.owner.queued_bytes -= queued_bytes
        self.owner.backlog.size_bytes -= queued_bytes
        self.owner = owner
        owner.queued_bytes += queued_bytes
        owner.backlog.size_bytes += queued_bytes

    def ended(self) -> None:
        """What waits does not count any more."""
        self.give_to(Owner())

    # Outliving the process

    def forget_all(self, journal: Journal) -> None:
        """What is there and what is still to come will not outlive the process."""
        for delivery in (*self._inflight.values(), *(self._queue or ())):
            self._forget(delivery)
        for packet_id, seq in self._released.items():
            journal.completed(seq)
            self._released[packet_id] = 0

    def restore(self, delivery: Delivery) -> None:
        """Takes back what was kept of a delivery; in their order."""
        if delivery.packet_id:
            if self._inflight is _NONE:
                self._inflight = {}
            self._inflight[delivery.packet_id] = delivery
        else:
            self._requeue(delivery)

    def add_released(self, packet_id: int, seq: int) -> None:
        """The client owns the message of a delivery, and its PUBCOMP is awaited; those of an earlier process in their
        order."""
        if self._released is _NONE:
            self._released = {}
        self._released[packet_id] = seq
