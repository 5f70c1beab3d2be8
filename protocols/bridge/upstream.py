"""One connection to the broker upstream: Paho's client, driven by the event loop (protocols.paho_loop).

A client is used for one connection: what is under way is remembered by the session of docs/bridge.md, not by Paho.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from protocols.bridge.options import BridgeOptions
from protocols.paho_loop import PahoLoop

T = TypeVar("T")

HIGH_WATER_BYTES: Final = 256 * 1024
"""More than this unwritten, and `on_full` is called."""

_PROPERTIES: Final = {
    "PayloadFormatIndicator": "payload_format_indicator",
    "MessageExpiryInterval": "message_expiry_interval",
    "ContentType": "content_type",
    "ResponseTopic": "response_topic",
    "CorrelationData": "correlation_data",
    "UserProperty": "user_property",
}
"""Those of a PUBLISH that are its message's, by Paho's names."""


class UpstreamError(Exception):
    """Raised when upstream cannot be connected to or does not let the bridge in."""


@dataclass(frozen=True, slots=True)
class UpstreamMessage:
    """A message from upstream. `mid` names it in `acknowledge`; 0 at QoS 0."""

    mid: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    properties: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ConnAckInfo:
    """What upstream said when it let the bridge in."""

    session_present: bool
    receive_maximum: int
    max_packet_bytes: int


class UpstreamListener(Protocol):
    """Who is told what happens on the connection. No method may raise."""

    def message(self, message: UpstreamMessage) -> None:
        """A message has come."""

    def published(self, mid: int, refused: str | None) -> None:
        """Upstream has answered a publish; `refused` says why it does not want it, or is None."""

    def full(self) -> None:
        """Upstream takes less than it is sent."""

    def drained(self) -> None:
        """It has taken all."""

    def lost(self, reason: str) -> None:
        """The connection has ended, not by `close`. Called at most once."""


class Upstream:
    """A connection. The order of calls: `open`, `subscribe`, anything, `close` or `abort`."""

    def __init__(self, options: BridgeOptions, *, client_id: str, listener: UpstreamListener) -> None:
        self._options = options
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[ConnAckInfo] = self._loop.create_future()
        self._subscribed: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        self._unwritten_bytes = 0
        self._leaving = False
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if options.is_5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if options.is_5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = options.connect_timeout_s
        client.max_inflight_messages_set(0)  # our own session keeps the count
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        self._socket = PahoLoop(client, on_fault=self._on_fault, on_written=self._on_written)

    async def open(self) -> ConnAckInfo:
        """Connects. Raises UpstreamError."""
        options = self._options
        try:
            context = options.tls_context()
            if context is not None:
                context.sslsocket_class = _TlsSocket
                self._client.tls_set_context(context)
            if options.username is not None:
                self._client.username_pw_set(options.username, options.password())
        except KeyError as error:
            raise UpstreamError(f"the environment has no {error.args[0]}") from error
        except (OSError, ValueError) as error:
            raise UpstreamError(f"cannot use its credentials: {error}") from error
        address = options.address
        properties = None
        if options.is_5:
            properties = _properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = options.session_expiry_s
            properties.ReceiveMaximum = options.receive_maximum
            properties.MaximumPacketSize = options.max_packet_bytes
        self._client.connect_async(
            address.host,
            address.port,
            options.keep_alive_s,
            clean_start=False if options.is_5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
        )
        try:
            await self._socket.connect()
        except (OSError, ValueError) as error:
            raise UpstreamError(f"cannot connect: {error}") from error
        return await self._within_time(self._connected, "CONNECT")

    async def subscribe(self, filters: Mapping[str, int]) -> None:
        """Subscribes to filters, each with its QoS. Raises UpstreamError if one of them is not granted so."""
        if not filters:
            return
        if self._options.is_5:
            # Retained messages come with the first subscription of a session, not with each connection. A shared
            # subscription cannot have "no local" [MQTT5-3.8.3-4].
            self._client.subscribe(
                [
                    (
                        topic_filter,
                        SubscribeOptions(
                            qos,
                            noLocal=self._options.share is None,
                            retainAsPublished=True,
                            retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB,
                        ),
                    )
                    for topic_filter, qos in filters.items()
                ]
            )
        else:
            self._client.subscribe(list(filters.items()))
        codes = await self._within_time(self._subscribed, "SUBSCRIBE")
        for (topic_filter, qos), code in zip(filters.items(), codes, strict=True):
            if code.is_failure:
                raise UpstreamError(f"refuses the subscription to {topic_filter}: {code}")
            if code.value < qos:
                raise UpstreamError(
                    f"grants QoS {code.value} for {topic_filter}, not {qos}: set qos of its table to it"
                )

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool, properties: Mapping[str, Any]) -> int:
        """Sends a message; the number by which `UpstreamListener.published` speaks of it."""
        made = None
        if self._options.is_5 and properties:
            made = _properties(PacketTypes.PUBLISH)
            for name, ours in _PROPERTIES.items():
                if ours in properties:
                    setattr(made, name, properties[ours])
        self._unwritten_bytes += len(payload) + len(topic)
        info = self._client.publish(topic, payload, qos, retain, made)
        if self._unwritten_bytes > HIGH_WATER_BYTES:
            self._listener.full()
        return info.mid

    def acknowledge(self, mid: int) -> None:
        """Sends the PUBACK of a message at QoS 1. To be called in the order of the messages [MQTT5-4.6.0-2]."""
        self._client.ack(mid, 1)

    def is_closing(self) -> bool:
        """Whether it is closed from here, or told its listener of its end."""
        return self._leaving

    def pause_reading(self) -> None:
        """Leaves what comes in the socket. Longer than the keep alive, and the connection is lost."""
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Ends that."""
        self._socket.resume_reading()

    async def close(self) -> None:
        """Says DISCONNECT, so that upstream knows at once; gives it a second to leave."""
        self._leaving = True
        if self._socket.is_attached:
            self._client.disconnect()
            try:
                async with asyncio.timeout(1.0):
                    await asyncio.shield(self._socket.closed)
            except TimeoutError:
                pass
        self.abort()

    def abort(self) -> None:
        """Closes the socket. Idempotent."""
        self._leaving = True
        self._socket.abort()

    async def _within_time(self, answer: "asyncio.Future[T]", what: str) -> T:
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                return await answer
        except TimeoutError:
            raise UpstreamError(f"does not answer {what} within {self._options.connect_timeout_s:g} s") from None

    def _fail(self, reason: str) -> None:
        """The connection has ended, or is to end."""
        self._socket.detach()
        error = UpstreamError(reason)
        waiting = [future for future in (self._connected, self._subscribed) if not future.done()]
        for future in waiting:
            future.set_exception(error)
            future.exception()  # looked at here: it may be that nobody waits for it
        if not self._leaving:
            self._leaving = True
            self._listener.lost(reason)

    # Paho's callbacks

    def _on_connect(self, _client: Any, _data: Any, flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            self._fail(f"refuses the connection: {code}{_reason_string(properties)}")
            return
        if not self._connected.done():
            largest = getattr(properties, "MaximumPacketSize", self._options.max_packet_bytes)
            self._connected.set_result(
                ConnAckInfo(
                    session_present=flags.session_present,
                    receive_maximum=getattr(properties, "ReceiveMaximum", 65_535),
                    max_packet_bytes=min(largest, self._options.max_packet_bytes),
                )
            )

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, code: Any, properties: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._fail(f"has ended the connection: {code}{_reason_string(properties)}")
        else:
            self._fail("the connection is lost")

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._socket.received += 1
        self._listener.message(
            UpstreamMessage(
                mid=message.mid if message.qos else 0,
                topic=message.topic,
                payload=bytes(message.payload),
                qos=message.qos,
                retain=bool(message.retain),
                dup=bool(message.dup),
                properties=_from_paho(message.properties),
            )
        )

    def _on_publish(self, _client: Any, _data: Any, mid: int, code: Any, properties: Any) -> None:
        self._listener.published(mid, f"{code}{_reason_string(properties)}" if code.is_failure else None)

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, codes: Any, _properties: Any) -> None:
        if not self._subscribed.done():
            self._subscribed.set_result(codes)

    def _on_fault(self, error: Exception) -> None:
        self._fail(f"sent what cannot be read: {error!r}")

    def _on_written(self) -> None:
        was_full = self._unwritten_bytes > HIGH_WATER_BYTES
        self._unwritten_bytes = 0
        if was_full:
            # Not at once: Paho is in the middle of its own loop.
            self._loop.call_soon(self._listener.drained)


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, which Paho leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _properties(packet_type: int) -> PahoProperties:
    return PahoProperties(packet_type)  # type: ignore[no-untyped-call]


def _from_paho(properties: PahoProperties | None) -> dict[str, Any]:
    if properties is None:
        return {}
    return {ours: getattr(properties, name) for name, ours in _PROPERTIES.items() if hasattr(properties, name)}


def _reason_string(properties: Any) -> str:
    text = getattr(properties, "ReasonString", "")
    return f" ({text})" if text else ""
