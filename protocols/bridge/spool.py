"""The way up: what is to be sent upstream waits in a session of the broker, as for any client that may be away.

The session is subscribed to the local topics of the send rules, with "no local": what the bridge itself has brought
from upstream does not go back. Its queue is the spool: bounded in messages and bytes, what does not fit is dropped, the
new one, and counted; and it is kept as the broker keeps sessions. A message leaves it when upstream acknowledges it.

A second way round, over another bridge, is closed by a user property that names each bridge a message has passed.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from protocols.bridge import metrics
from protocols.bridge.options import BridgeOptions
from protocols.bridge.topic_map import first_match
from protocols.bridge.upstream import Upstream
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.broker.session import BRIDGE_PREFIX, Session, Subscriber
from protocols.mqtt.message import Message
from protocols.mqtt.options import MqttOptions

VIA: Final = "fieldgate-via"
"""The user property with the client identifier of a bridge that the message has passed."""
KEEP_S: Final = 7 * 86_400
"""How long what waits is kept for a bridge that is not there, as after it was taken out of the configuration."""
OVERHEAD_BYTES: Final = 32
"""What a PUBLISH has besides topic, payload and properties, at most."""


class Spool:
    """The session, and, as its link, the way of its messages to the connection that there is."""

    writable = False
    send_maximum = 0

    @property
    def writer(self) -> "Spool":
        """What the outbox of the session sends by: see protocols.mqtt.delivery.ClientConnection."""
        return self

    def __init__(
        self,
        options: BridgeOptions,
        broker: Broker,
        *,
        client_id: str,
        clock: Callable[[], float],
        note: Callable[[str, str], None],
    ) -> None:
        """`note(reason, text)` is called for each message that is not passed on."""
        self._options = options
        self._broker = broker
        self._client_id = client_id
        self._clock = clock
        self._note = note
        self._maps = [rule.topics for rule in options.send]
        self._session_options = MqttOptions(
            max_queued_messages=options.spool_messages,
            max_queued_bytes=options.spool_bytes,
            max_inflight=options.max_inflight,
            max_packet_bytes=options.max_packet_bytes,
        )
        self._session: Session | None = None
        self._upstream: Upstream | None = None
        self._max_packet_bytes = options.max_packet_bytes
        self._packet_ids: dict[int, int] = {}
        self._drained: asyncio.Future[None] | None = None
        self._sent = metrics.sent.labels(options.name)

    @property
    def waiting(self) -> int:
        """How many messages wait, or are under way."""
        return 0 if self._session is None else self._session.outbox.queued + len(self._packet_ids)

    def start(self) -> None:
        """Subscribes; from now on messages wait."""
        session = self._attach()
        wanted = {rule.topics.source: rule.qos for rule in self._options.send}
        for topic_filter in [known for known in session.subscriptions if known not in wanted]:
            self._broker.unsubscribe(topic_filter, session, self._clock())
        for topic_filter, qos in wanted.items():
            subscriber = Subscriber(session.outbox, qos, no_local=True, retain_as_published=True)
            self._broker.subscribe(topic_filter, session, subscriber)

    def stop(self) -> None:
        """The process ends, or the bridge does: the session waits for the next."""
        if self._session is not None:
            self.disconnected()
            self._broker.detach(self._session, None, self._clock())
            self._session = None

    def connected(self, upstream: Upstream, *, send_maximum: int, max_packet_bytes: int) -> None:
        """Upstream takes messages: first those that it has not acknowledged, then those that wait."""
        self._upstream = upstream
        self._max_packet_bytes = max_packet_bytes
        self.send_maximum = min(send_maximum, self._options.max_inflight)
        self.writable = True
        # A new link for the session, so that it sends what is under way once more.
        session = self._attach()
        session.outbox.resume(self._clock())

    def disconnected(self) -> None:
        """It takes none any more."""
        self._upstream = None
        self.writable = False
        self.send_maximum = 0
        self._packet_ids.clear()
        self._wake()

    def published(self, mid: int, refused: str | None) -> None:
        """Upstream has answered a message."""
        packet_id = self._packet_ids.pop(mid, None)
        if packet_id is not None and self._session is not None:
            if refused is not None:
                self._note("refused_upstream", f"upstream refuses a message: {refused}")
            self._session.outbox.on_puback(packet_id, self._clock())

    def full(self) -> None:
        """Upstream takes less than it is sent: the rest waits in the session."""
        self.writable = False

    def drained(self) -> None:
        """It takes more."""
        if self._upstream is not None and self._session is not None:
            self.writable = True
            self._session.outbox.pump(self._clock())
            if self.writable:
                self._wake()

    async def submit(
        self, topic: str, payload: bytes, qos: int, retain: bool, properties: dict[str, Any] | None
    ) -> None:
        """Takes a message of the application; returns when there is room for the next. Raises as Message.checked."""
        now = self._clock()
        message = Message.checked(topic, payload, qos, retain, properties, now=now)
        session = self._session
        if session is None:
            return
        session.outbox.deliver(message, min(qos, 1), retain, (), now)
        while self._upstream is not None and not self.writable:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def route(
        self, topic: str, payload: bytes, qos: int, retain: bool, properties: Mapping[str, Any], client_id: str
    ) -> int:
        """Gives a message from upstream to the subscribers here. Returns the number of the group of the journal with
        which it is kept; 0 if nobody keeps it."""
        passed = {**properties, "user_property": [*properties.get("user_property", ()), (VIA, client_id)]}
        now = self._clock()
        journal = self._broker.journal
        recorded = 0 if journal is None else journal.recorded
        self._broker.route(Message(topic, payload, qos, retain, passed, now=now), self._session, now)
        return 0 if journal is None or journal.recorded == recorded else journal.commit_number()

    # The link of the session

    def write_publish(
        self,
        message: Message,
        qos: int,
        retain: bool,
        identifiers: tuple[int, ...],
        now: float,
        packet_id: int = 0,
        dup: bool = False,
    ) -> bool:
        upstream = self._upstream
        assert upstream is not None
        topic = first_match(self._maps, message.topic) or message.topic
        properties = dict(message.properties_at(now))
        properties["user_property"] = [*properties.get("user_property", ()), (VIA, self._client_id)]
        size = message.size_bytes + len(topic) + len(VIA) + len(self._client_id) + OVERHEAD_BYTES
        if size > self._max_packet_bytes:
            self._note("too_large", f"a message to {topic} has more than {self._max_packet_bytes} bytes")
            return False
        mid = upstream.publish(topic, message.payload, qos, retain, properties)
        if packet_id:
            self._packet_ids[mid] = packet_id
        self._sent.inc()
        return True

    def write_pubrel(self, packet_id: int, reason_code: int = 0) -> None:
        """Not called: a bridge asks for QoS 0 and 1."""
        raise NotImplementedError("a bridge sends QoS 0 and 1")

    def require_commit(self) -> None:
        """Not called: only QoS 2 asks for it."""

    def dropped(self, reason: str) -> None:
        self._broker.dropped[reason] += 1

    def settled(self, delivery_id: int, reason_code: int) -> None:
        """Not called: no application sends by this session."""
        raise NotImplementedError("no application sends messages to a bridge's session")

    def take_over(self, now: float) -> None:
        """It is this bridge itself that comes back."""
        if self._session is not None:
            self._broker.detach(self._session, None, now)

    def cut_off(self, reason: str, text: str, now: float) -> None:
        """Not called: nobody forgets a session that is nobody's."""
        raise NotImplementedError("the session of a bridge is not forgotten")

    def _attach(self) -> Session:
        self._session, _ = self._broker.attach(
            self,
            f"{BRIDGE_PREFIX}{self._options.name}",
            clean_start=False,
            expiry_interval_s=KEEP_S,
            options=self._session_options,
            now=self._clock(),
        )
        return self._session

    def _wake(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
