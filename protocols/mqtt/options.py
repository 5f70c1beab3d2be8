"""What an operator can set for an MQTT listener, and what the broker behind all listeners makes of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from protocols.mqtt.codec.primitives import MAX_VARIABLE

LEVELS_PER_RETAINED: Final = 10
"""How many levels, on average, the topics of as many retained messages as there may be can have of their own. It bounds
what is not in their bytes: a short topic of 200 levels, with none before it that begins alike, takes 47 KB."""

NEVER_EXPIRES: Final = 0xFFFF_FFFF
"""A session expiry interval that means: keep the session for ever [MQTT5-3.1.2.11.2]."""


def _option(default: Any, help_text: str, minimum: float = 1, maximum: float = float("inf")) -> Any:
    return field(default=default, metadata={"help": help_text, "minimum": minimum, "maximum": maximum})


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttOptions:
    """The keys of a `[[listeners]]` table with `protocol = "mqtt"`. Raises ValueError for values out of range.

    Of the limits of the broker as a whole, the largest of all listeners counts.
    """

    allow_anonymous: bool = field(
        default=False, metadata={"help": "whether a client without a token may be an ordinary broker client"}
    )
    connect_timeout_s: float = _option(5.0, "time for the CONNECT packet to come in full", 0.01)
    write_timeout_s: float = _option(60.0, "time for a client to take some of what it is sent, before it is cut", 0.01)
    max_connections: int = _option(10_000, "connections of this listener at a time; one more is closed at once")
    max_connections_per_address: int = _option(1_000, "of these, from one address (an IPv6 /64); 0: no limit", 0)
    max_connects_per_s: int = _option(
        0, "new connections a second, half of them of one address; more are refused with 0x9F; 0: no limit", 0
    )
    max_messages_per_s: int = _option(
        0, "publishes of one client a second; its socket is read no faster; 0: no limit", 0
    )
    max_bytes_per_s: int = _option(0, "bytes of one client a second; its socket is read no faster; 0: no limit", 0)
    max_slowed_s: float = _option(60.0, "how long a client may be slowed down so without a break before it is cut", 0)
    max_packet_bytes: int = _option(
        262_144, "the largest packet a client may send, fixed header included", 128, MAX_VARIABLE + 5
    )
    receive_maximum: int = _option(
        512, "publishes a client may have unacknowledged; 5.0 clients are told, others not read meanwhile", 1, 65_535
    )
    max_inflight: int = _option(100, "QoS 1 and 2 messages sent to a client and not acknowledged by it yet", 1, 32_767)
    max_queued_messages: int = _option(1_000, "messages waiting for an absent or slow client; newer ones are lost", 0)
    max_queued_bytes: int = _option(1_048_576, "bytes waiting for an absent or slow client; newer ones are lost", 0)
    max_subscriptions: int = _option(1_000, "topic filters a client may subscribe to; more are refused with 0x97")
    max_topic_length: int = _option(65_535, "characters of a topic and of a topic filter", 1, 65_535)
    max_topic_levels: int = _option(200, "levels of a topic filter, and of a topic that is retained")
    max_topic_aliases: int = _option(32, "topic aliases in each direction, 5.0 only", 0, 65_535)
    max_keep_alive_s: int = _option(
        3_600, "the longest keep alive, and that of 5.0 clients which ask for none", 1, 65_535
    )
    max_session_expiry_s: int = _option(
        7 * 86_400, f"the longest time a session waits for its client; {NEVER_EXPIRES}: for ever", 0, NEVER_EXPIRES
    )
    max_subscription_bytes_in_all: int = _option(
        1_073_741_824, "memory of the subscriptions of the broker, about; more are refused with 0x97", 0
    )
    max_subscription_bytes_per_owner: int = _option(67_108_864, "of these, of one owner", 0)
    max_queued_bytes_in_all: int = _option(
        536_870_912, "bytes waiting for all clients of the broker; newer messages are lost", 0
    )
    max_queued_bytes_per_owner: int = _option(33_554_432, "of these, for the clients of one owner", 0)
    max_sessions: int = _option(100_000, "sessions of the broker, those of absent clients included")
    max_sessions_per_owner: int = _option(1_000, "of these, of one owner; one more is refused with 0x97")
    max_retained_messages: int = _option(100_000, "retained messages of the broker; more are not retained", 0)
    max_retained_messages_per_owner: int = _option(10_000, "of these, of one owner", 0)
    max_retained_bytes: int = _option(67_108_864, "bytes of the broker's retained messages, topics included", 0)
    max_retained_bytes_per_owner: int = _option(8_388_608, "of these, of one owner", 0)

    sys_interval_s: int = _option(10, "seconds between two looks at what is published below $SYS/; 0: nothing is", 0)

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if "minimum" in option.metadata:
                minimum, maximum = option.metadata["minimum"], option.metadata["maximum"]
                if not minimum <= value <= maximum:
                    limit = f"at least {minimum}" if value < minimum else f"at most {maximum}"
                    raise ValueError(f"{option.name} must be {limit}, not {value!r}")

    @property
    def shortest_timeout_s(self) -> float:
        """What the tick of the server's clock must resolve."""
        return min(self.connect_timeout_s, self.write_timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLimits:
    """What bounds the broker as a whole; each is the option of the same name."""

    max_sessions: int
    max_retained_messages: int
    max_retained_bytes: int
    max_topic_levels: int
    max_subscription_bytes_in_all: int
    max_subscription_bytes_per_owner: int
    max_queued_bytes_in_all: int
    max_sessions_per_owner: int
    max_retained_messages_per_owner: int
    max_retained_bytes_per_owner: int
    max_queued_bytes_per_owner: int
    sys_interval_s: int = 0
    """No bound, but of the broker as a whole too."""

    @classmethod
    def of(cls, options: Iterable[MqttOptions]) -> "BrokerLimits":
        """The largest of each over all listeners; the defaults where there is none."""
        every = list(options) or [MqttOptions()]
        return cls(**{each.name: max(getattr(one, each.name) for one in every) for each in fields(cls)})
