"""What an operator asks of the MQTT server: who is connected, what is kept, what is going on; and to cut a client off.

The answers hold no user name and no payload. Whatever is listed is copied first, which is quick, and told in slices,
between which the loop serves the clients: an answer is not the state of one moment.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeVar

from protocols.commands import Command, CommandError, Row
from protocols.mqtt.errors import InvalidTopicError
from protocols.mqtt.hub import Hub
from protocols.mqtt.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5_0, ReasonCode
from protocols.mqtt.session import Session
from protocols.mqtt.states import State
from protocols.mqtt.topics import validate_topic_filter
from protocols.mqtt.trace import TooManyTracesError, Trace

T = TypeVar("T")

SLICE: Final = 500
"""Rows that are made in one go: about a millisecond."""

MOST_MEANT: Final = 3
"""How many clients are suggested in place of one that is not there."""

_VERSIONS: Final = {MQTT_3_1: "3.1", MQTT_3_1_1: "3.1.1", MQTT_5_0: "5.0"}


class Inspection:
    """The commands of one server."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def commands(self) -> Mapping[str, Command]:
        """By name, as `ProtocolServer.commands` has them."""
        return {
            "mqtt.clients": self.clients,
            "mqtt.sessions": self.sessions,
            "mqtt.subscriptions": self.subscriptions,
            "mqtt.retained": self.retained,
            "mqtt.kick": self.kick,
            "mqtt.trace": self.trace,
        }

    async def clients(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """Those that are connected."""
        async for endpoint in _slowly([*self._hub.open]):
            connection, session = endpoint.connection, endpoint.connection.session
            if connection.state is not State.CONNECTED or session is None:
                continue
            yield {
                "client_id": session.client_id,
                "address": endpoint.where,
                "version": _VERSIONS[connection.version],
                "connected_s": round(self._hub.loop.time() - endpoint.opened_at),
                "subscriptions": len(session.subscriptions),
                "received": connection.received_publishes,
                "sent": connection.sent_publishes,
                "unacknowledged": session.unacknowledged,
                "queued": session.queued,
            }

    async def sessions(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """All, those of absent clients included."""
        async for session in _slowly([*self._hub.broker.sessions]):
            ends_at = session.ends_at
            yield {
                "client_id": session.client_id,
                "connected": session.link is not None,
                "expires_s": None if ends_at is None else max(0, round(ends_at - self._hub.loop.time())),
                "subscriptions": len(session.subscriptions),
                "unacknowledged": session.unacknowledged,
                "queued": session.queued,
                "queued_bytes": session.queued_bytes,
            }

    async def subscriptions(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """Of one client, or of all."""
        client_id = arguments.get("client_id")
        sessions = [*self._hub.broker.sessions] if client_id is None else [self._session(client_id)]
        async for topic_filter, subscriber in _slowly(
            item for session in sessions for item in [*session.subscriptions.items()]
        ):
            yield {
                "client_id": subscriber.session.client_id,
                "topic_filter": topic_filter,
                "qos": subscriber.qos,
                "no_local": subscriber.no_local,
                "retain_as_published": subscriber.retain_as_published,
            }

    async def retained(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """The messages whose topics a filter matches; without one, all but the broker's own below `$SYS/`."""
        topic_filter = arguments.get("topic_filter", "#")
        try:
            validate_topic_filter(topic_filter)
        except InvalidTopicError as error:
            raise CommandError(f"not a topic filter: {topic_filter!r}: {error.text}") from None
        async for message in _slowly(self._hub.broker.retained_matching(topic_filter)):
            expires_at = message.expires_at
            yield {
                "topic": message.topic,
                "qos": message.qos,
                "bytes": len(message.payload),
                "expires_s": None if expires_at is None else max(0, round(expires_at - self._hub.loop.time())),
            }

    async def kick(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """Ends the connection of a client, which may connect again; its session stays as it does at any end."""
        client_id = arguments["client_id"]
        found = [
            endpoint
            for endpoint in self._hub.open
            if endpoint.connection.end is None
            and endpoint.connection.session is not None
            and endpoint.connection.session.client_id == client_id
        ]
        if not found:
            connected = [session.client_id for session in self._hub.broker.sessions if session.link is not None]
            hint = _meant(client_id, connected) or "`gateway mqtt clients` lists those that are"
            raise CommandError(f"no client {client_id!r} is connected; {hint}")
        for endpoint in found:
            endpoint.connection.close(
                ReasonCode.ADMINISTRATIVE_ACTION, "operator", self._hub.loop.time(), text="cut off by an operator"
            )
            yield {"client_id": client_id, "address": endpoint.where}

    async def trace(self, arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        """What a client does from now on, connected or not; does not end."""
        trace = Trace(arguments["client_id"], payloads=bool(arguments.get("payloads")))
        try:
            with self._hub.traced(trace):
                async for event in trace:
                    yield event.as_dict()
        except TooManyTracesError as error:
            raise CommandError(str(error)) from None

    def _session(self, client_id: str) -> Session:
        session = self._hub.broker.sessions.get(client_id)
        if session is None:
            names = (one.client_id for one in self._hub.broker.sessions)
            hint = _meant(client_id, names) or "`gateway mqtt sessions` lists them"
            raise CommandError(f"there is no session {client_id!r}; {hint}")
        return session


def _meant(name: str, client_ids: Iterable[str]) -> str:
    """What to say to who names a client as it calls itself, where its session has a name that the application gave."""
    meant = list(islice((one for one in client_ids if one.endswith(f"/{name}")), MOST_MEANT))
    return f"do you mean {' or '.join(map(repr, meant))}?" if meant else ""


async def _slowly(items: Iterable[T]) -> AsyncIterator[T]:
    iterator: Iterator[T] = iter(items)
    while part := list(islice(iterator, SLICE)):
        for item in part:
            yield item
        await asyncio.sleep(0)
