"""Watching one client live: its packets in both directions, decoded, and every refusal with its reason.

    with server.trace("sensor-17") as trace:
        async for event in trace:
            print(event)

A connection that nobody watches pays nothing for this: one that is watched gets another decoder and another writer,
which tell a `Tap` of each packet, and its refusals, all of them off the common path, look whether there is a tap. A
trace is bounded: when its reader falls behind, events are lost, and it is told how many.

A packet is told in one line that a person reads, without what only the client and the application may know. Hidden are
the user name (a device's token often is one), the password, authentication data, and the user properties of CONNECT and
AUTH. Payloads are told by their size; their beginning is shown only to who asks for it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec

from protocols import metrics
from protocols.mqtt.codec.decoder import Decoder
from protocols.mqtt.codec.errors import MqttError
from protocols.mqtt.codec.packets import Auth, Connect, Packet, Properties, Subscription, Will

CAPACITY: Final = 1_000
"""Events that wait for the reader of a trace."""

MAX_TRACES: Final = 16
"""Traces of one server at a time: each costs the loop that serves everybody."""


HIDDEN: Final = "***"
_SECRETS: Final = frozenset({"username", "password", "authentication_data"})
_PAYLOAD_SHOWN: Final = 100
"""How many bytes of a payload are shown to who asks."""

_CODES: Final = frozenset({"reason_code", "reason_codes"})


class TooManyTracesError(Exception):
    """Raised when as many traces are open as may be."""

    def __init__(self) -> None:
        super().__init__(f"{MAX_TRACES} traces are open already")


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One thing that happened."""

    time: float
    """Seconds since 1970."""
    client_id: str
    """The identity of the session; before the client is accepted, what it calls itself."""
    address: str
    kind: str
    """"opened", "in", "out" (a packet from, to the client), "refused", "dropped", "closed", or "lost" for events of
    which this one takes the place."""
    packet: str
    """The type of a packet, "PUBLISH"; of a refusal, what was refused."""
    text: str
    """The details, without secrets."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Trace:
    """What the connections of one client identifier do, from now on. An asynchronous iterator that does not end."""

    def __init__(self, client_id: str, *, payloads: bool = False, clock: Callable[[], float] = time.time) -> None:
        """`payloads`: whether the beginning of each payload is shown."""
        self.client_id = client_id
        self.payloads = payloads
        self._clock = clock
        self._events: deque[TraceEvent] = deque()
        self._lost = 0
        self._arrived = asyncio.Event()

    def add(self, client_id: str, address: str, kind: str, packet: str, text: str) -> None:
        """Takes an event, or counts it as lost."""
        if len(self._events) >= CAPACITY:
            self._lost += 1
            metrics.mqtt_trace_lost.inc()
            return
        if self._lost:
            self._note_loss()
        self._events.append(TraceEvent(self._clock(), client_id, address, kind, packet, text))
        self._arrived.set()

    def _note_loss(self) -> None:
        text = f"{self._lost} events: they came faster than they were read"
        self._lost = 0
        self._events.append(TraceEvent(self._clock(), self.client_id, "", "lost", "", text))

    def __aiter__(self) -> AsyncIterator[TraceEvent]:
        return self

    async def __anext__(self) -> TraceEvent:
        while not self._events:
            self._arrived.clear()
            if self._lost:
                self._note_loss()
            else:
                await self._arrived.wait()
        return self._events.popleft()


class Tap:
    """Between a connection and the traces that watch it."""

    def __init__(self, traces: Iterable[Trace], client_id: str, address: str) -> None:
        self.traces = list(traces)
        self.client_id = client_id
        self.address = address

    def tell(self, kind: str, packet: str, text: str) -> None:
        """Something happened that is the same for every trace."""
        for trace in self.traces:
            trace.add(self.client_id, self.address, kind, packet, text)

    def packet(self, direction: str, packet: Packet) -> None:
        """A packet came "in" or went "out"."""
        for trace in self.traces:
            text = describe(packet, payloads=trace.payloads)
            trace.add(self.client_id, self.address, direction, kind(packet), text)

    def refused(self, what: str, reason_code: int, reason: str, about: str = "") -> None:
        """The application or the broker does not do what the client asks for."""
        parts = (repr(about) if about else "", f"{reason_code:#04x}", reason)
        self.tell("refused", what, " ".join(part for part in parts if part))


class TracedDecoder(Decoder):
    """A decoder that tells of each packet before it is handled."""

    __slots__ = ("_tap",)

    def __init__(self, decoder: Decoder, tap: Tap) -> None:
        """Goes on with the stream where `decoder` is in it."""
        super().__init__(max_packet_bytes=decoder.max_packet_bytes)
        self.continue_from(decoder)
        self._tap = tap

    def decode(self, data: bytes) -> Iterator[Packet]:
        try:
            for packet in super().decode(data):
                self._tap.packet("in", packet)
                yield packet
        except MqttError as error:
            self._tap.refused("packet", error.reason_code, error.text)
            raise

    def plain(self) -> Decoder:
        """A decoder that goes on where this one is, and tells nobody."""
        decoder = Decoder(max_packet_bytes=self.max_packet_bytes)
        decoder.continue_from(self)
        return decoder


class Tracing:
    """The traces of one server. False while there is none."""

    def __init__(self) -> None:
        self._traces: list[Trace] = []

    def __bool__(self) -> bool:
        return bool(self._traces)

    def of(self, *client_ids: str) -> list[Trace]:
        """The traces of a client that is known by any of these names."""
        return [trace for trace in self._traces if trace.client_id in client_ids]

    def add(self, trace: Trace) -> None:
        """Has the trace among those that are told. Raises TooManyTracesError."""
        if len(self._traces) >= MAX_TRACES:
            raise TooManyTracesError
        self._traces.append(trace)

    def remove(self, trace: Trace) -> None:
        """Tells it nothing more."""
        self._traces.remove(trace)


def kind(packet: Packet) -> str:
    """The name of its type, as the specification has it: "PUBLISH"."""
    return type(packet).__name__.upper()


def describe(packet: Packet, *, payloads: bool = False) -> str:
    """What is in the packet: `topic='a/b' qos=1 packet_id=7 payload=12 bytes`; "" for one that says nothing more."""
    private = isinstance(packet, (Connect, Auth))
    return " ".join(_fields(packet, private=private, payloads=payloads))


def _fields(value: Any, *, private: bool, payloads: bool) -> Iterator[str]:
    defaults = {field.name: field.default for field in msgspec.structs.fields(type(value))}
    for name in value.__struct_fields__:
        content = getattr(value, name)
        if name == "properties":
            yield from _properties(content, private=private)
        elif content != defaults[name] or name == "reason_code":
            yield f"{name}={_shown(name, content, private=private, payloads=payloads)}"


def _shown(name: str, content: Any, *, private: bool, payloads: bool) -> str:
    if name in _SECRETS:
        return HIDDEN
    if name in _CODES:
        codes = content if isinstance(content, tuple) else (content,)
        return ",".join(f"{code:#04x}" for code in codes)
    match content:
        case bytes():
            return _bytes(content, payloads=payloads)
        case Will() | Subscription():
            return f"({' '.join(_fields(content, private=private, payloads=payloads))})"
        case tuple():
            return "[" + " ".join(_shown("", each, private=private, payloads=payloads) for each in content) + "]"
        case bool():
            return "yes" if content else "no"
        case str():
            return repr(content)  # a line break in it does not begin another line
    return str(content)


def _properties(properties: Properties, *, private: bool) -> Iterator[str]:
    for name, content in properties.items():
        if name in _SECRETS:
            yield f"{name}={HIDDEN}"
        elif name == "user_property":
            for key, value in content:
                yield f"user_property={key!r}:{HIDDEN if private else repr(value)}"
        else:
            yield f"{name}={_shown(name, content, private=private, payloads=False)}"


def _bytes(data: bytes, *, payloads: bool) -> str:
    size = f"{len(data)} bytes"
    if not payloads or not data:
        return size
    beginning = data[:_PAYLOAD_SHOWN]
    more = "..." if len(data) > _PAYLOAD_SHOWN else ""
    return f"{size} {beginning.decode('utf-8', 'backslashreplace')!r}{more}"
