"""One connection as the application sees it: a scope of docs/events.md, upstream in the place of a client.

Messages become `mqtt.publish` events. Upstream has its PUBACK when the application has acknowledged, in the order of
the messages [MQTT5-4.6.0-2]. What is not acknowledged when the connection ends, upstream sends again on the next one.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from protocols.asgi import Application, Event, Scope
from protocols.bridge import metrics
from protocols.bridge.options import BridgeOptions
from protocols.bridge.spool import VIA, Spool
from protocols.bridge.topic_map import first_match
from protocols.bridge.upstream import Upstream, UpstreamMessage
from protocols.connection_base import INBOX_FULL, ReadGate
from protocols.inbox import Inbox
from protocols.mqtt import ReasonCode, events, is_failure
from protocols.mqtt.codec.properties import size_bytes as properties_size
from protocols.mqtt.storage.committer import Committer
from protocols.runner import ApplicationRun

HIGH_WATER_BYTES: Final = 4 * 1024 * 1024
"""What may wait for the application before the socket is not read. More than for a device: as long as the bridge does
not read, it cannot see the answers to its pings."""

# The reasons not to read, besides INBOX_FULL.
_UNANSWERED: Final = 2
"""Upstream waits for as many acknowledgements as there may be."""
_STOPPING: Final = 4


class EndReason(NamedTuple):
    """Why a connection is to end: a reason of `mqtt.disconnect`, and a text for the log."""

    reason: str
    text: str


class _Pending(NamedTuple):
    message: UpstreamMessage
    topic: str
    """Here; empty for a message that the application does not see."""


class ApplicationLink:
    """Starts the application, feeds it, and answers upstream for it."""

    def __init__(
        self,
        application: Application,
        options: BridgeOptions,
        *,
        client_id: str,
        state: Mapping[str, Any],
        upstream: Upstream,
        spool: Spool,
        committer: Committer | None,
        note: Callable[[str, str], None],
    ) -> None:
        """`committer` is that of the broker here, if it keeps what it has; `note(reason, text)` is called for each
        message that is not passed on."""
        loop = asyncio.get_running_loop()
        self._options = options
        self._client_id = client_id
        self._upstream = upstream
        self._spool = spool
        self._committer = committer
        self._note = note
        self._maps = [rule.topics for rule in options.receive]
        self._pending: deque[_Pending] = deque()
        self._early: dict[int, Event] = {}
        self._held: deque[tuple[int, int]] = deque()
        """Acknowledgements that wait for a commit of the broker: the number of the group, and the message's."""
        self._head = self._next = 1
        self._reading = ReadGate(upstream)
        self._over = False
        self._received = metrics.received.labels(options.name)
        self._answered: asyncio.Future[None] = loop.create_future()
        """Done when nothing more is read, and what was is answered."""
        self.accepted: asyncio.Future[None] = loop.create_future()
        """Done when the application takes the bridge."""
        self.ended: asyncio.Future[EndReason] = loop.create_future()
        """Done when the connection is to end, whoever wants it."""
        self.finished: asyncio.Future[None] = loop.create_future()
        """Done when the application has returned."""
        inbox = Inbox(
            pause=partial(self._reading.close, INBOX_FULL),
            resume=partial(self._reading.open, INBOX_FULL),
            high_water_bytes=HIGH_WATER_BYTES,
        )
        self._run = ApplicationRun(
            application, self._scope(state), self.send, inbox=inbox, on_finished=self._application_finished
        )
        inbox.feed(events.connect(password=None, allow_anonymous=False), 0)

    @property
    def unanswered(self) -> int:
        """How many messages upstream waits for the acknowledgement of."""
        return len(self._pending) + len(self._held)

    def end(self, end_reason: EndReason) -> None:
        """The connection has ended. Acknowledgements that come later do nothing: upstream sends the messages again."""
        self._over = True
        if not self.ended.done():
            self.ended.set_result(end_reason)
        self._pending.clear()
        self._held.clear()
        if self._committer is not None:
            self._committer.forget(self)
        self._run.disconnect(events.disconnect(reason_code=ReasonCode.SUCCESS, reason=self.ended.result().reason))

    async def wait_for_answers(self) -> None:
        """Takes nothing more from upstream; returns when all that there is has been answered, or the connection has
        ended."""
        self._reading.close(_STOPPING)
        self._notice_answers()
        await asyncio.wait((self._answered, self.ended), return_when=asyncio.FIRST_COMPLETED)

    def cancel(self) -> None:
        """Ends the application now."""
        self._run.cancel()

    # From upstream

    def message(self, message: UpstreamMessage) -> None:
        """A message has come."""
        ack_id = self._next
        self._next += 1
        topic = first_match(self._maps, message.topic)
        if (VIA, self._client_id) in message.properties.get("user_property", ()):
            self._pass_over(ack_id, message, "loop", f"the message to {message.topic} comes back from upstream")
            return
        if topic is None:
            self._pass_over(ack_id, message, "unmapped", f"no rule is about the topic {message.topic}")
            return
        self._pending.append(_Pending(message, topic))
        self._received.inc()
        size = len(topic) + len(message.payload) + properties_size(message.properties)
        self._run.inbox.feed(
            events.publish(
                ack_id=ack_id,
                topic=topic,
                payload=message.payload,
                qos=message.qos,
                retain=message.retain,
                dup=message.dup,
                properties=message.properties,
            ),
            size,
        )
        if len(self._pending) >= self._options.receive_maximum:
            self._reading.close(_UNANSWERED)

    def _pass_over(self, ack_id: int, message: UpstreamMessage, reason: str, text: str) -> None:
        self._note(reason, text)
        self._pending.append(_Pending(message, ""))
        self._ack(events.ack(ack_id=ack_id, route=False))

    # From the application

    async def send(self, event: Event) -> None:
        """The ASGI `send` callable. Raises ValueError or KeyError for an event that is wrong."""
        if self._over:
            return
        match event["type"]:
            case "mqtt.ack":
                self._ack(event)
            case "mqtt.publish":
                await self._spool.submit(
                    event["topic"],
                    event["payload"],
                    event.get("qos", 0),
                    event.get("retain", False),
                    event.get("properties"),
                )
            case "mqtt.accept":
                if not self.accepted.done():
                    self.accepted.set_result(None)
            case "mqtt.reject" | "mqtt.close" as kind:
                word = "does not take the bridge" if kind == "mqtt.reject" else "has closed the connection"
                why = event.get("log_reason") or event.get("reason_string", "")
                code = event.get("reason_code", ReasonCode.ADMINISTRATIVE_ACTION)
                text = f"the application {word}: {code:#04x} {why}"
                self._want_end(EndReason("application", text.rstrip()))
            case other:
                raise ValueError(f"no event of an application to an MQTT connection: {other!r}")

    def _ack(self, event: Event) -> None:
        ack_id = event["ack_id"]
        if not self._head <= ack_id < self._next or ack_id in self._early:
            return
        self._early[ack_id] = event
        while self._pending and (answer := self._early.pop(self._head, None)) is not None:
            pending = self._pending[0]
            if not self._answer(pending, answer):
                return
            self._pending.popleft()
            self._head += 1
        if len(self._pending) < self._options.receive_maximum:
            self._reading.open(_UNANSWERED)
        self._notice_answers()

    def _answer(self, pending: _Pending, answer: Event) -> bool:
        """Routes a message and acknowledges it upstream. False if it is to come once more.

        Upstream can be told no more than a client of MQTT 3.1.1 can: an acknowledgement says that the message is taken,
        and else the connection ends. What is refused when it comes again is given up, or one message would stop all
        others for ever.
        """
        message = pending.message
        code = answer.get("reason_code", 0)
        if is_failure(code):
            text = f"{code:#04x} {answer.get('reason_string', '')}".rstrip()
            if not answer.get("drop") and message.qos and not message.dup:
                self._want_end(EndReason("application", f"refused a message to {pending.topic}: {text}"))
                return False
            self._note("refused", f"the application refuses a message to {pending.topic}: {text}")
        commit_number = 0
        if not is_failure(code) and answer.get("route", True):
            commit_number = self._spool.route(
                pending.topic, message.payload, message.qos, message.retain, message.properties, self._client_id
            )
        if message.qos:
            self._acknowledge(commit_number, message.mid)
        return True

    def _acknowledge(self, commit_number: int, mid: int) -> None:
        if self._committer is None or not (commit_number or self._held):
            self._upstream.acknowledge(mid)
        else:
            self._held.append((commit_number, mid))
            self._committer.call_when_committed(self)

    def committed(self) -> None:
        """The broker has committed what it records: acknowledgements that waited for it may leave."""
        assert self._committer is not None
        while self._held and self._held[0][0] <= self._committer.journal.committed:
            self._upstream.acknowledge(self._held.popleft()[1])
        if self._held:
            self._committer.call_when_committed(self)
        self._notice_answers()

    def _notice_answers(self) -> None:
        if self._reading.closed_by & _STOPPING and not self.unanswered and not self._answered.done():
            self._answered.set_result(None)

    def _application_finished(self, exception: BaseException | None) -> None:
        word = "has ended" if exception is None else f"has failed: {type(exception).__name__}"
        self._want_end(EndReason("application", f"the application {word}"))
        if not self.finished.done():
            self.finished.set_result(None)

    def _want_end(self, end_reason: EndReason) -> None:
        if not self.ended.done():
            self.ended.set_result(end_reason)

    def _scope(self, state: Mapping[str, Any]) -> Scope:
        options, address = self._options, self._options.address
        return events.scope(
            mqtt_version=5 if options.is_5 else 4,
            client_id=self._client_id,
            username=options.username,
            clean_start=False,
            keep_alive_s=options.keep_alive_s,
            will=None,
            properties={},
            client=(address.host, address.port),
            server=None,
            scheme="mqtts" if address.is_encrypted else "mqtt",
            extensions={"bridge": {"name": options.name}},
            state=state,
        )
