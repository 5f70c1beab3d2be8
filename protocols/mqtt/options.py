"""What an operator can set for an MQTT listener, and what the broker behind all listeners makes of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

NEVER_EXPIRES: Final = 0xFFFF_FFFF
"""A session expiry interval that means: keep the session for ever [MQTT5-3.1.2.11.2]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttOptions:
    """The options of an MQTT listener. Of the limits of the broker as a whole, the largest of all listeners counts."""

    allow_anonymous: bool = field(
        default=False, metadata={"help": "whether a client without credentials may be an ordinary broker client"}
    )
    connect_timeout_s: float = field(
        default=5.0, metadata={"help": "how long after the TCP connection the CONNECT packet may take"}
    )
    max_connections: int = field(
        default=10_000, metadata={"help": "connections of this listener at a time; more are closed at once"}
    )
    max_packet_bytes: int = field(
        default=262_144, metadata={"help": "the largest packet a client may send, fixed header included"}
    )
    receive_maximum: int = field(
        default=512,
        metadata={
            "help": "publishes a client may have unacknowledged; MQTT 5 clients are told, others are not read meanwhile"
        },
    )
    max_inflight: int = field(
        default=100, metadata={"help": "QoS 1 and 2 messages sent to a client and not yet acknowledged by it"}
    )
    max_queued_messages: int = field(
        default=1_000, metadata={"help": "messages that wait for an absent or slow client; newer ones are dropped"}
    )
    max_queued_bytes: int = field(
        default=1_048_576, metadata={"help": "bytes that wait for an absent or slow client; newer ones are dropped"}
    )
    max_subscriptions: int = field(default=1_000, metadata={"help": "topic filters a client may subscribe to"})
    max_topic_levels: int = field(
        default=64, metadata={"help": "levels of a topic filter, and of a topic that is retained"}
    )
    max_topic_aliases: int = field(default=32, metadata={"help": "topic aliases in each direction, MQTT 5 only"})
    max_keep_alive_s: int = field(
        default=3_600, metadata={"help": "the longest keep alive, and that of MQTT 5 clients which ask for none"}
    )
    max_session_expiry_s: int = field(
        default=7 * 86_400,
        metadata={
            "help": f"the longest time a session is kept for an absent client; {NEVER_EXPIRES} keeps it for ever"
        },
    )
    max_sessions: int = field(
        default=100_000, metadata={"help": "sessions of the broker, those of absent clients included"}
    )
    max_retained_messages: int = field(default=100_000, metadata={"help": "retained messages of the broker"})
    max_retained_bytes: int = field(
        default=67_108_864, metadata={"help": "bytes of the retained messages of the broker, topics included"}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLimits:
    """What bounds the broker as a whole; each is the option of the same name."""

    max_sessions: int
    max_retained_messages: int
    max_retained_bytes: int
    max_topic_levels: int

    @classmethod
    def of(cls, options: Iterable[MqttOptions]) -> "BrokerLimits":
        """The largest of each over all listeners; the defaults where there is none."""
        every = list(options) or [MqttOptions()]
        return cls(
            max_sessions=max(one.max_sessions for one in every),
            max_retained_messages=max(one.max_retained_messages for one in every),
            max_retained_bytes=max(one.max_retained_bytes for one in every),
            max_topic_levels=max(one.max_topic_levels for one in every),
        )
