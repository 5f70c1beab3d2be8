"""The communicator for an MQTT connection."""

import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from gateway.testing.application import ApplicationCommunicator
from protocols.asgi import Application, Event
from protocols.mqtt import events


class MqttCommunicator(ApplicationCommunicator):
    """Is the client of one MQTT connection, as far as an application sees one (docs/events.md).

    At the end of `async with` it disconnects.
    """

    def __init__(
        self,
        application: Application,
        client_id: str = "test",
        *,
        username: str | None = None,
        password: bytes | None = None,
        allow_anonymous: bool = False,
        mqtt_version: int = 5,
        state: dict[str, Any] | None = None,
        **scope: Any,
    ) -> None:
        """`scope` overrides further keys of the scope, such as `will` or `clean_start`."""
        super().__init__(
            application,
            {
                **events.scope(
                    mqtt_version=mqtt_version,
                    client_id=client_id,
                    username=username,
                    clean_start=True,
                    keep_alive_s=60,
                    will=None,
                    properties={},
                    client=("127.0.0.1", 50000),
                    server=("127.0.0.1", 1883),
                    scheme="mqtt",
                    extensions={},
                    state=state if state is not None else {},
                ),
                **scope,
            },
        )
        self._connect = events.connect(password=password, allow_anonymous=allow_anonymous)
        self._ack_ids = itertools.count(1)
        self._connected = False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connected and error is None and not self.inbox.disconnected:
            await self.disconnect()
        await super().__aexit__(kind, error, traceback)

    async def connect(self, timeout: float = 1) -> tuple[bool, int]:
        """(True, 0), or (False, the reason code)."""
        await self.send_input(self._connect)
        response = await self.receive_output(timeout)
        if response["type"] == "mqtt.reject":
            return False, response["reason_code"]
        assert response["type"] == "mqtt.accept", f"Expected 'mqtt.accept', but was {response['type']!r}"
        self._connected = True
        return True, 0

    async def send_publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        dup: bool = False,
        properties: dict[str, Any] | None = None,
    ) -> int:
        """Publishes; returns the `ack_id`, by which `receive_ack` can be told to be its own."""
        ack_id = next(self._ack_ids)
        await self.send_input(
            events.publish(
                ack_id=ack_id,
                topic=topic,
                payload=payload,
                qos=qos,
                retain=retain,
                dup=dup,
                properties=properties or {},
            )
        )
        return ack_id

    async def receive_ack(self, ack_id: int | None = None, timeout: float = 1) -> Event:
        """The next event, which is to be an `mqtt.ack`, and that of `ack_id` if given."""
        ack = await self.receive_output(timeout)
        assert ack["type"] == "mqtt.ack", f"Expected 'mqtt.ack', but was {ack['type']!r}"
        assert ack_id in (None, ack["ack_id"]), f"Expected the ack of {ack_id}, but was that of {ack['ack_id']}"
        return ack

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        """Publishes and waits for the acknowledgement; returns its reason code."""
        ack_id = await self.send_publish(topic, payload, qos=qos, retain=retain)
        return int((await self.receive_ack(ack_id))["reason_code"])

    async def subscribe(self, *topic_filters: str, qos: int = 0) -> Sequence[int]:
        """Subscribes; returns the reason code of each filter."""
        ack_id = next(self._ack_ids)
        subscriptions = [events.subscription_request(topic_filter, qos) for topic_filter in topic_filters]
        await self.send_input(events.subscribe(ack_id=ack_id, subscriptions=subscriptions, properties={}))
        return list((await self.receive_ack(ack_id))["reason_codes"])

    async def check_retained(self, *topics: str) -> Sequence[int]:
        """Asks about retained messages, as a server does that was told to; returns the reason code of each."""
        ack_id = next(self._ack_ids)
        await self.send_input(events.retained(ack_id=ack_id, topics=list(topics)))
        return list((await self.receive_ack(ack_id))["reason_codes"])

    async def unsubscribe(self, *topic_filters: str) -> Sequence[int]:
        """Unsubscribes; returns the reason code of each filter."""
        ack_id = next(self._ack_ids)
        await self.send_input(events.unsubscribe(ack_id=ack_id, topic_filters=list(topic_filters), properties={}))
        return list((await self.receive_ack(ack_id))["reason_codes"])

    async def receive_publish(self, timeout: float = 1) -> Event:
        """The next event, which is to be a publish to this client."""
        event = await self.receive_output(timeout)
        assert event["type"] == "mqtt.publish", f"Expected 'mqtt.publish', but was {event['type']!r}"
        return event

    async def disconnect(self, reason_code: int = 0, reason: str = "client", timeout: float = 1) -> None:
        """Disconnects and waits until the application has ended."""
        await self.send_input(events.disconnect(reason_code=reason_code, reason=reason))
        await self.wait(timeout)
