"""The interface of a profile, and its errors."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from devices.profiles.topics import TopicTable
from devices.refusals import MessageRefusal, RefusedError

Point: TypeAlias = tuple[str, int | None, float | None, str | None]
"""A reading as it came: key; device time in ms UTC, None if the server is to stamp it; then number and text, as
devices.models.StoredValue keeps them. A tuple, because a busy gateway makes hundreds of thousands a second."""


MAX_PAYLOAD_BYTES: Final = 262_144
"""What a message of a device may have, by HTTP and WebSocket; by MQTT, the listener's max_packet_bytes says it."""


MAX_DEPTH: Final = 32
"""How many objects and arrays a value may have in each other: whoever reads it later has a stack with an end."""


class PayloadError(RefusedError, ValueError):
    """Raised when a payload does not fit its topic or path; its text tells the author of the firmware why."""

    def __init__(self, text: str, position: int | None = None) -> None:
        super().__init__(MessageRefusal.PAYLOAD, text)
        self.position = position


class NotJsonError(PayloadError):
    """Raised when a payload is not JSON; its text says at which byte."""

    def __init__(self, why: object, position: int | None = None) -> None:
        super().__init__(f"not JSON: {why}", position)


def is_too_deep(value: Any) -> bool:
    """Whether objects and arrays are nested more than MAX_DEPTH deep in a JSON value."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True


@dataclass(frozen=True, slots=True)
class AttributesRequest:
    """Which attributes a device asks for, by scope. Without any key it asks for all."""

    client: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Call:
    """What a device asks the server to do; `params` is any JSON value."""

    method: str
    params: Any = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A device opens itself for who knows the secret, for so long or, without a duration, for the usual time."""

    secret: str = ""
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SubDevice:
    """A device behind a gateway, by its name, and its type if the gateway says one."""

    name: str
    type: str | None = None


@dataclass(frozen=True, slots=True)
class SubDeviceAttributesRequest:
    """Which attributes of a device its gateway asks for."""

    id: int
    device: str
    attributes: AttributesRequest
    single: str | None = None
    """The key, if the gateway asks for one in the form whose answer is a bare value."""


@dataclass(frozen=True, slots=True)
class SubDeviceAnswer:
    """What a device behind a gateway answers to a command; `command` is the number, as text."""

    device: str
    command: str
    value: Any


class Profile(Protocol):
    """How a type of device speaks: its topics and paths, and how payloads are read and written.

    Functions are pure. One that reads raises PayloadError, and nothing else, for a payload that does not fit.
    """

    reserved_topics: tuple[str, ...]
    """The beginnings of MQTT topics that all its devices have alike, so that only devices may use them."""

    uplink: TopicTable
    """The MQTT topics that a device publishes to."""

    downlink: TopicTable
    """Those that it may subscribe to, and no others."""

    requests: TopicTable
    """Its HTTP requests: "POST telemetry"."""

    bridged: TopicTable
    """The MQTT topics by which a bridge brings what devices say; `{device}` is the name of the device."""

    def decode_telemetry(self, payload: bytes) -> list[Point]:
        """The readings in `payload`. If it raises, none of it is to be stored."""

    def decode_attributes(self, payload: bytes) -> dict[str, Any]:
        """The client attributes in `payload`, JSON values by key."""

    def decode_attributes_request(self, payload: bytes) -> AttributesRequest:
        """Which attributes are asked for."""

    def decode_attributes_query(self, query: bytes) -> AttributesRequest:
        """The same of a request by HTTP, by its query string."""

    def decode_poll(self, query: bytes) -> float:
        """How many seconds a request by HTTP waits for what the device is to be told, by its query string."""

    def encode_attributes_answer(self, client: Mapping[str, Any], shared: Mapping[str, Any]) -> bytes:
        """The answer to such a request."""

    def encode_attributes(self, values: Mapping[str, Any]) -> bytes:
        """Shared attributes that have changed."""

    def encode_deleted_attributes(self, keys: Collection[str]) -> bytes:
        """Shared attributes that are there no more."""

    def encode_command(
        self, method: str, params: Any, request_id: int | None = None, *, redelivered: bool = False
    ) -> bytes:
        """A command; `request_id` where no topic has it. One that is `redelivered` may have reached the device
        before."""

    def decode_answer(self, payload: bytes) -> Any:
        """The JSON value with which the device answers a command."""

    def decode_call(self, payload: bytes) -> Call:
        """What the device asks the server to do."""

    def decode_claim(self, payload: bytes) -> Claim:
        """How the device opens itself for claiming."""

    def decode_gateway_connect(self, payload: bytes) -> SubDevice:
        """Which device has come, or gone."""

    def decode_gateway_telemetry(self, payload: bytes) -> dict[str, list[Point]]:
        """The readings in `payload` by the names of the devices. If it raises, none of it is to be stored."""

    def decode_gateway_attributes(self, payload: bytes) -> dict[str, dict[str, Any]]:
        """The client attributes in `payload` by the names of the devices."""

    def decode_gateway_attributes_request(self, payload: bytes) -> SubDeviceAttributesRequest:
        """Which attributes of which device are asked for."""

    def decode_gateway_answer(self, payload: bytes) -> SubDeviceAnswer:
        """Which device answers which command, and what."""

    def decode_gateway_claims(self, payload: bytes) -> dict[str, Claim]:
        """How devices open themselves for claiming, by their names."""

    def encode_gateway_attributes_answer(self, asked: SubDeviceAttributesRequest, values: Mapping[str, Any]) -> bytes:
        """The answer to a request for attributes of a device."""

    def encode_answer(self, answer: Any) -> bytes:
        """The answer to a call."""

    def encode_error(self, why: str) -> bytes:
        """The answer to a call that has failed."""
