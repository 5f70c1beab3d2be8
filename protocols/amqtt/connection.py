"""One client of amqtt's broker: its streams, and the application instance that answers for it."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol, cast

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.errors import AMQTTError, NoDataError
from amqtt.session import ApplicationMessage, Session

from protocols.amqtt.options import LISTENER, AmqttOptions
from protocols.asgi import Application, Event, Scope
from protocols.inbox import Inbox
from protocols.log_lines import PeerLog
from protocols.masking import printable
from protocols.mqtt import ReasonCode, events, is_failure
from protocols.runner import ApplicationRun, ClientDisconnectedError
from protocols.sockets import client_address, peer_name, server_address, tls_extension

logger = logging.getLogger("gateway.amqtt")
peer_log = PeerLog("gateway.amqtt")

IDENTITY: Final = "fieldgate.identity"
"""The attribute of an amqtt session with the identity that it belongs to."""
PUBLISH_TIMEOUT_S: Final = 30
ANSWER_TIMEOUT_S: Final = 30.0
"""How long the application may take to accept or reject."""
ANSWER_GRACE_S: Final = 10.0
"""How long the application may take to answer a client that has gone."""


class ConnectionHost(Protocol):
    """The server, as its connections see it."""

    application: Application
    state: Mapping[str, Any]
    open: "set[AmqttConnection]"

    @property
    def broker(self) -> Broker:
        """amqtt's broker."""

    def left(self, connection: "AmqttConnection") -> None:
        """Neither the transport nor the application of a connection is there any more."""


class AmqttConnection:
    """A client from its first byte to the end of its application."""

    def __init__(
        self, server: ConnectionHost, options: AmqttOptions, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.options = options
        self.message: ApplicationMessage | None = None
        """What amqtt is going to ask about."""
        self._server = server
        self._reader = reader
        self._writer = writer
        self.client = client_address(writer.transport)
        """As in a scope."""
        self._where = peer_name(self.client)
        self._session: Session | None = None
        self._name = ""
        self._run: ApplicationRun | None = None
        self._reason = "lost"
        self._answered: asyncio.Future[Event] | None = None
        self._acks: dict[int, asyncio.Future[Event]] = {}
        self._next_ack = 1
        self._giving_up: asyncio.TimerHandle | None = None
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(options.connect_timeout_s, self._writer.transport.abort)
        server.open.add(self)
        self._task = loop.create_task(self._live())

    async def _live(self) -> None:
        current.set(self)
        try:
            await self._server.broker.external_connected(
                _BoundedReader(self._reader, self.options.max_packet_bytes), _GuardedWriter(self._writer), LISTENER
            )
        except (OSError, asyncio.IncompleteReadError, NoDataError) as error:
            logger.debug("a connection of amqtt has ended: %r", error)
        except Exception as error:  # amqtt lets out what its code for packets raises
            message = "amqtt failed with the connection of %s"
            peer_log.error(self.client, message, self._where, kind=message + type(error).__name__, exc_info=error)
        finally:
            self._deadline.cancel()
            if self._session is None:
                message = "closed %s: it sent no CONNECT packet of MQTT 3.1.1, or not in time"
                peer_log.info(self.client, message, self._where)
            self._writer.transport.abort()
            self._end()

    def lost(self) -> None:
        """The transport is gone. amqtt notices when what it has asked is answered: the application has its time."""
        if not self._task.done():
            self._giving_up = asyncio.get_running_loop().call_later(ANSWER_GRACE_S, self._give_up)

    def _give_up(self) -> None:
        """Answers in the application's place what it has not answered."""
        for future in (self._answered, *self._acks.values()):
            if future is not None and not future.done():
                future.set_result(events.reject(reason_code=ReasonCode.SERVER_UNAVAILABLE))

    def _end(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._give_up()
        if self._run is None:
            self._server.left(self)
        else:
            self._run.disconnect(events.disconnect(reason_code=ReasonCode.SUCCESS, reason=self._reason))

    def close(self, reason: str) -> None:
        """Ends the connection."""
        self._reason = reason
        self._writer.transport.close()

    def abort(self) -> None:
        """Ends the connection and its application, now."""
        self._writer.transport.abort()
        if self._run is not None:
            self._run.cancel()

    # What amqtt asks

    async def authenticate(self, session: Session) -> bool:
        """Whether the application accepts the client."""
        loop = asyncio.get_running_loop()
        self._deadline.cancel()
        self._deadline = loop.call_later(ANSWER_TIMEOUT_S, self._writer.transport.abort)
        self._session = session
        self._answered = loop.create_future()
        self._run = ApplicationRun(
            self._server.application, self._scope(session), self.send, inbox=Inbox(), on_finished=self._finished
        )
        password = None if session.password is None else session.password.encode()
        self._run.inbox.feed(events.connect(password=password, allow_anonymous=self.options.allow_anonymous), 0)
        answer = await self._answered
        if answer["type"] != "mqtt.accept":
            why = answer.get("log_reason") or answer.get("reason_string", "")
            who = printable(session.client_id or "")
            message, code = "refused %s: application, %#04x %s", answer.get("reason_code", ReasonCode.NOT_AUTHORIZED)
            peer_log.info(self.client, message, who, code, why, kind=f"{message} {code:#04x}")
            return False
        self._name = answer.get("name", "")
        identity = answer.get("client_id", session.client_id)
        if session.attributes.setdefault(IDENTITY, identity) != identity:
            # amqtt has found the session by the client identifier alone, before anybody was asked.
            message, who = "refused %s: the session of that client identifier is another's", session.client_id or ""
            peer_log.warning(self.client, message, printable(who))
            return False
        if not answer.get("will", True):
            session.will_flag = False
        self._deadline.cancel()
        return True

    async def may_publish(self, topic: str) -> bool:
        """Whether the application lets the message that has come be routed."""
        message, self.message = self.message, None
        if message is None:
            return False
        packet = message.publish_packet
        answer = await self._ask(
            events.publish(
                ack_id=self._new_ack_id(),
                topic=topic,
                payload=bytes(message.data),
                qos=message.qos or 0,
                retain=bool(packet and packet.retain_flag),
                dup=bool(packet and packet.dup_flag),
                properties={},
            )
        )
        code = answer.get("reason_code", 0)
        if is_failure(code) and not answer.get("drop") and not self._writer.transport.is_closing():
            why = f"refused a publish to {topic!r}: {code:#04x} {answer.get('reason_string') or ''}".rstrip()
            who = printable((self._session and self._session.client_id) or "")
            named = f"{printable(self._name)} ({who})" if self._name else who
            message = "closed %s: application, %s"
            peer_log.warning(self.client, message, named, why, kind=f"{message} {code:#04x}")
            self.close("application")
        return bool(not is_failure(code) and answer.get("route", True))

    async def may_subscribe(self, topic_filter: str) -> bool:
        """Whether the application allows the filter. amqtt does not say at which QoS it is asked for."""
        subscription = events.subscription_request(topic_filter, 2)
        answer = await self._ask(
            events.subscribe(ack_id=self._new_ack_id(), subscriptions=[subscription], properties={})
        )
        codes = answer.get("reason_codes") or [ReasonCode.UNSPECIFIED_ERROR]
        if answer.get("check_retained"):  # which amqtt asks nobody about
            message = "refused %r: the application wants to be asked about retained messages"
            peer_log.warning(self.client, message, topic_filter)
            return False
        return not is_failure(codes[0])

    def unsubscribed(self, topic_filter: str) -> None:
        """The client has given a filter up."""
        self._feed(events.unsubscribe(ack_id=self._new_ack_id(), topic_filters=[topic_filter], properties={}))

    async def _ask(self, event: Event) -> Event:
        self._feed(event)
        ack_id = event["ack_id"]
        answer = self._acks[ack_id] = asyncio.get_running_loop().create_future()
        if self._run is None or self._run.inbox.disconnected:
            answer.set_result(events.ack(ack_id=ack_id, reason_code=ReasonCode.SERVER_UNAVAILABLE))
        try:
            return cast(Event, await answer)
        finally:
            del self._acks[ack_id]

    def _new_ack_id(self) -> int:
        self._next_ack += 1
        return self._next_ack - 1

    def _feed(self, event: Event) -> None:
        if self._run is not None:
            self._run.inbox.feed(event, len(event.get("payload", b"")))

    # What the application answers

    async def send(self, event: Event) -> None:
        """The ASGI `send` callable. Raises ValueError or KeyError for an event that is wrong."""
        match event["type"]:
            case "mqtt.accept" | "mqtt.reject":
                if self._answered is not None and not self._answered.done():
                    self._answered.set_result(event)
            case "mqtt.ack":
                answer = self._acks.get(event["ack_id"])
                if answer is not None and not answer.done():
                    answer.set_result(event)
            case "mqtt.publish":
                await self._publish(event)
            case "mqtt.close":
                if self._session is not None and not event.get("will", True):
                    self._session.will_flag = False
                self.close("application")
                self._give_up()
            case other:
                raise ValueError(f"no event of an application to an MQTT connection: {other!r}")

    async def _publish(self, event: Event) -> None:
        session = self._session
        _, handler = self._server.broker.sessions.get(session.client_id, (None, None)) if session else (None, None)
        if handler is None or self._writer.transport.is_closing():
            raise ClientDisconnectedError
        qos, retain = event.get("qos", 0), event.get("retain", False)
        try:
            await handler.mqtt_publish(event["topic"], event["payload"], qos, retain, PUBLISH_TIMEOUT_S)
        except (TimeoutError, OSError):
            self._writer.transport.abort()
        else:  # acknowledged, which is what amqtt waits for
            delivery_id = event.get("delivery_id")
            if delivery_id is not None and self._run is not None:
                self._run.inbox.feed(events.delivered(delivery_id=delivery_id, reason_code=ReasonCode.SUCCESS), 0)

    def _finished(self, exception: BaseException | None) -> None:
        self._run = None
        self._give_up()
        if self._task.done() or self._writer.transport.is_closing():
            self._server.left(self)
        else:
            self.close("application")
            self._task.add_done_callback(lambda task: self._server.left(self))

    def _scope(self, session: Session) -> Scope:
        transport = self._writer.transport
        tls = tls_extension(transport)
        will = events.WillMessage(
            topic=session.will_topic,
            payload=bytes(session.will_message or b""),
            qos=session.will_qos or 0,
            retain=bool(session.will_retain),
            properties={},
        )
        return events.scope(
            mqtt_version=4,
            client_id=session.client_id,
            username=session.username,
            clean_start=bool(session.clean_session),
            keep_alive_s=session.keep_alive,
            will=will if session.will_flag else None,
            properties={},
            client=self.client,
            server=server_address(transport),
            scheme="mqtts" if tls else "mqtt",
            extensions={"tls": tls} if tls else {},
            state=self._server.state,
        )


current: ContextVar[AmqttConnection | None] = ContextVar("amqtt_connection", default=None)
"""The connection that the present task works for; None in those of the broker itself."""


class Streams(asyncio.StreamReaderProtocol):
    """Makes a connection of a transport, and tells it when the transport is gone."""

    def __init__(
        self, connected: "Callable[[asyncio.StreamReader, asyncio.StreamWriter], AmqttConnection | None]"
    ) -> None:
        super().__init__(asyncio.StreamReader(), self._connected)
        self._make = connected
        self._connection: AmqttConnection | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._connection is not None:
            self._connection.lost()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connection = self._make(reader, writer)


class _BoundedReader(StreamReaderAdapter):  # type: ignore[misc]
    """Reads no more than a packet may have: amqtt asks for the rest of a packet at once."""

    def __init__(self, reader: asyncio.StreamReader, max_packet_bytes: int) -> None:
        super().__init__(reader)
        self._max_packet_bytes = max_packet_bytes

    async def read(self, n: int = -1) -> bytes:
        if n > self._max_packet_bytes:
            # Not NoDataError, after which amqtt would go on and take the rest for packets.
            raise AMQTTError(f"a packet of {n} bytes; at most {self._max_packet_bytes} are taken")
        data: bytes = await super().read(n)
        return data


class _GuardedWriter(StreamWriterAdapter):  # type: ignore[misc]
    """Gives amqtt an address for peers that have none, as those of a Unix socket, or it would turn them away; and the
    usual exception for connections that are none any more."""

    def get_peer_info(self) -> tuple[str, int] | None:
        return super().get_peer_info() or ("", 0)

    def write(self, data: bytes) -> None:
        if self._writer.transport.is_closing():  # at which uvloop would raise RuntimeError
            raise ConnectionResetError("the connection has ended")
        super().write(data)
