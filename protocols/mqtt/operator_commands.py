"""What an operator asks of the MQTT server: who is connected, what is kept, what is going on; and to cut a client off.

The answers hold no user name and no payload. Whatever is listed is copied first, which is quick, and told in slices,
between which the loop serves the clients: an answer is not the state of one moment.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeVar

from protocols.mqtt.broker.session import BRIDGE_PREFIX, Session
from protocols.mqtt.codec.errors import InvalidTopicError
from protocols.mqtt.codec.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5_0, ReasonCode
from protocols.mqtt.codec.topic_rules import is_status_topic, validate_topic_filter
from protocols.mqtt.connection import State
from protocols.mqtt.endpoints import Endpoints
from protocols.mqtt.server_state import ServerState
from protocols.mqtt.trace import TooManyTracesError, Trace
from protocols.server import Command, CommandError, Row

T = TypeVar("T")

SLICE: Final = 500
"""Rows that are made in one go: about a millisecond."""

MOST_MEANT: Final = 3
"""How many clients are suggested in place of one that is not there."""

_VERSIONS: Final = {MQTT_3_1: "3.1", MQTT_3_1_1: "3.1.1", MQTT_5_0: "5.0"}


class OperatorCommands:
    """The commands of one server."""

    def __init__(self, server_state: ServerState, endpoints: Endpoints) -> None:
        self._server_state = server_state
        self._endpoints = endpoints

    def commands(self) -> Mapping[str, Command]:
        """By name, as `ProtocolServer.commands` has them."""
        return {
            "mqtt.clients": self.clients,
            "mqtt.sessions": self.sessions,
            "mqtt.subscriptions": self.subscriptions,
            "mqtt.retained": self.retained,
            "mqtt.owners": self.owners,
            "mqtt.kick": self.kick,
            "mqtt.forget": self.forget,
            "mqtt.trace": self.trace,
        }

    async def clients(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """Those that are connected."""
        async for endpoint in in_slices([*self._endpoints.open]):
            connection, session = endpoint.connection, endpoint.connection.session
            if connection.state is not State.CONNECTED or session is None:
                continue
            yield {
                "client_id": session.client_id,
                "owner": session.owner.name,
                "address": endpoint.where,
                "version": _VERSIONS[connection.writer.version],
                "connected_s": round(self._server_state.time() - endpoint.opened_at),
                "subscriptions": len(session.subscriptions),
                "received": connection.received_publishes,
                "sent": connection.writer.sent_publishes,
                "unacknowledged": session.outbox.unacknowledged,
                "queued": session.outbox.queued,
            }

    async def sessions(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """All, or those of one owner; those of absent clients included."""
        owner = arguments.get("owner")
        async for session in in_slices([*self._server_state.broker.sessions.values()]):
            if owner not in (None, session.owner.name):
                continue
            ends_at = session.ends_at
            yield {
                "client_id": session.client_id,
                "owner": session.owner.name,
                "connected": session.connection is not None,
                "expires_s": None if ends_at is None else max(0, round(ends_at - self._server_state.time())),
                "subscriptions": len(session.subscriptions),
                "unacknowledged": session.outbox.unacknowledged,
                "queued": session.outbox.queued,
                "queued_bytes": session.outbox.queued_bytes,
            }

    async def subscriptions(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """Of one client, or of all."""
        client_id = arguments.get("client_id")
        sessions = [*self._server_state.broker.sessions.values()] if client_id is None else [self._session(client_id)]
        async for session, topic_filter, subscriber in in_slices(
            (one, *item) for one in sessions for item in [*one.subscriptions.items()]
        ):
            yield {
                "client_id": session.client_id,
                "topic_filter": topic_filter,
                "qos": subscriber.qos,
                "no_local": subscriber.no_local,
                "retain_as_published": subscriber.retain_as_published,
            }

    async def retained(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """The messages whose topics a filter matches, or those of them that an owner has; without a filter, all but the
        broker's own below `$SYS/`."""
        owner, topic_filter = arguments.get("owner"), arguments.get("topic_filter", "#")
        _require_filter(topic_filter)
        async for message in in_slices(self._server_state.broker.retained_matching(topic_filter)):
            name = "" if is_status_topic(message.topic) else message.owner_name
            if owner not in (None, name):
                continue
            expires_at = message.expires_at
            yield {
                "topic": message.topic,
                "owner": name,
                "qos": message.qos,
                "bytes": len(message.payload),
                "expires_s": None if expires_at is None else max(0, round(expires_at - self._server_state.time())),
            }

    async def kick(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """Ends the connection of a client, which may connect again; its session stays as it does at any end."""
        client_id = arguments["client_id"]
        found = [
            endpoint
            for endpoint in self._endpoints.open
            if endpoint.connection.end is None
            and endpoint.connection.session is not None
            and endpoint.connection.session.client_id == client_id
        ]
        if not found:
            sessions = self._server_state.broker.sessions.values()
            connected = [session.client_id for session in sessions if session.connection is not None]
            hint = _meant(client_id, connected) or "`gateway mqtt clients` lists those that are"
            raise CommandError(f"no client {client_id!r} is connected; {hint}")
        for endpoint in found:
            endpoint.connection.close(
                ReasonCode.ADMINISTRATIVE_ACTION,
                "operator",
                self._server_state.time(),
                text="cut off by an operator",
            )
            yield {"client_id": client_id, "address": endpoint.where}

    async def owners(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """Who has sessions or retained messages, and how much of what is bounded in all."""
        limits = self._server_state.broker.limits
        async for owner in in_slices([*self._server_state.broker.owners]):
            yield {
                "owner": owner.name,
                "sessions": owner.sessions,
                "subscription_bytes": owner.subscription_bytes,
                "queued_bytes": owner.queued_bytes,
                "retained": owner.retained_messages,
                "retained_bytes": owner.retained_bytes,
                "most_used_percent": owner.used_percent(limits),
            }

    async def forget(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """Ends for good what is kept: all of an owner, the session of a client, or the retained messages that a filter
        matches. Clients that are connected are cut off, and may come back."""
        broker, now = self._server_state.broker, self._server_state.time()
        text = "forgotten by an operator"
        if (owner := arguments.get("owner")) is not None:
            if not owner or broker.owners.get(owner) is None:
                raise CommandError(f"there is no owner {owner!r}; `gateway mqtt owners` lists them")
            sessions, messages = broker.forget_owners({owner: text}, now, reason="operator")
        elif (client_id := arguments.get("client_id")) is not None:
            session = self._session(client_id)
            if session.client_id.startswith(BRIDGE_PREFIX):
                raise CommandError(f"{client_id!r} is a bridge of this gateway: its configuration ends it")
            broker.forget(session, text, now, reason="operator")
            sessions, messages = 1, 0
        else:
            topic_filter = arguments["topic_filter"]
            _require_filter(topic_filter)
            if is_status_topic(topic_filter):
                raise CommandError("what the broker says of itself is not forgotten")
            topics = [message.topic for message in broker.retained_matching(topic_filter)]
            for topic in topics:
                broker.forget_retained(topic)
            sessions, messages = 0, len(topics)
        yield {"sessions": sessions, "retained": messages}

    async def trace(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """What a client does from now on, connected or not; does not end."""
        trace = Trace(arguments["client_id"], payloads=bool(arguments.get("payloads")))
        try:
            with self._endpoints.traced(trace):
                async for event in trace:
                    yield event.as_dict()
        except TooManyTracesError as error:
            raise CommandError(str(error)) from None

    def _session(self, client_id: str) -> Session:
        session = self._server_state.broker.sessions.get(client_id)
        if session is None:
            names = (one.client_id for one in self._server_state.broker.sessions.values())
            hint = _meant(client_id, names) or "`gateway mqtt sessions` lists them"
            raise CommandError(f"there is no session {client_id!r}; {hint}")
        return session


def _require_filter(topic_filter: str) -> None:
    try:
        validate_topic_filter(topic_filter)
    except InvalidTopicError as error:
        raise CommandError(f"not a topic filter: {topic_filter!r}: {error.text}") from None


def _meant(name: str, client_ids: Iterable[str]) -> str:
    """What to say to who names a client as it calls itself, where its session has a name that the application gave."""
    meant = list(islice((one for one in client_ids if one.endswith(f"/{name}")), MOST_MEANT))
    return f"do you mean {' or '.join(map(repr, meant))}?" if meant else ""


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    iterator: Iterator[T] = iter(items)
    while part := list(islice(iterator, SLICE)):
        for item in part:
            yield item
        await asyncio.sleep(0)
