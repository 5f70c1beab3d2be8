"""What an operator can set for an MQTT listener, and for the broker behind all listeners."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from redis.connection import parse_url

from protocols.mqtt.codec.primitives import MAX_VARIABLE
from protocols.options import check_options, option

LEVELS_PER_RETAINED: Final = 10
"""How many levels, on average, the topics of as many retained messages as there may be can have of their own. It bounds
what is not in their bytes: a short topic of 200 levels, with none before it that begins alike, takes 47 KB."""

NEVER_EXPIRES: Final = 0xFFFF_FFFF
"""A session expiry interval that means: keep the session for ever [MQTT5-3.1.2.11.2]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttOptions:
    """The keys of a `[[listeners]]` table with `protocol = "mqtt"`. Raises ValueError for values out of range."""

    allow_anonymous: bool = option(False, "whether a client without a token may be an ordinary broker client")
    connect_timeout_s: float = option(5.0, "time for the CONNECT packet to come in full", at_least=0.01)
    write_timeout_s: float = option(
        60.0, "time for a client to take some of what it is sent, before it is cut", at_least=0.01
    )
    max_connections: int = option(
        10_000, "connections of this listener at a time; one more is closed at once", at_least=1
    )
    max_connections_per_address: int = option(
        1_000, "of these, from one address (an IPv6 /64); 0: no limit", at_least=0
    )
    max_connects_per_s: int = option(
        0, "new connections a second, half of them of one address; more are refused with 0x9F; 0: no limit", at_least=0
    )
    max_messages_per_s: int = option(
        0, "publishes of one client a second; its socket is read no faster; 0: no limit", at_least=0
    )
    max_bytes_per_s: int = option(
        0, "bytes of one client a second; its socket is read no faster; 0: no limit", at_least=0
    )
    max_slowed_s: float = option(
        60.0, "how long a client may be slowed down so without a break before it is cut", at_least=0
    )
    max_packet_bytes: int = option(
        262_144,
        "the largest packet a client may send, fixed header included",
        at_least=128,
        at_most=MAX_VARIABLE + 5,
    )
    receive_maximum: int = option(
        512,
        "publishes a client may have unacknowledged; 5.0 clients are told, others not read meanwhile",
        at_least=1,
        at_most=65_535,
    )
    max_inflight: int = option(
        100, "QoS 1 and 2 messages sent to a client and not acknowledged by it yet", at_least=1, at_most=32_767
    )
    max_queued_messages: int = option(
        1_000, "messages waiting for an absent or slow client; newer ones are lost", at_least=0
    )
    max_queued_bytes: int = option(
        1_048_576, "bytes waiting for an absent or slow client; newer ones are lost", at_least=0
    )
    max_subscriptions: int = option(
        1_000, "topic filters a client may subscribe to; more are refused with 0x97", at_least=1
    )
    max_topic_length: int = option(65_535, "characters of a topic and of a topic filter", at_least=1, at_most=65_535)
    max_topic_aliases: int = option(32, "topic aliases in each direction, 5.0 only", at_least=0, at_most=65_535)
    max_keep_alive_s: int = option(
        3_600, "the longest keep alive, and that of 5.0 clients which ask for none", at_least=1, at_most=65_535
    )
    max_session_expiry_s: int = option(
        7 * 86_400,
        f"the longest time a session waits for its client; {NEVER_EXPIRES}: for ever",
        at_least=0,
        at_most=NEVER_EXPIRES,
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def shortest_timeout_s(self) -> float:
        """What the tick of the server's clock must resolve."""
        return min(self.connect_timeout_s, self.write_timeout_s)


def check_store(store: str) -> str:
    """Returns the name or URL of a store. Raises ValueError for what is neither."""
    if store not in ("sqlite", "memory"):
        if urlsplit(store).scheme not in ("redis", "rediss", "unix"):
            raise ValueError('expected "sqlite", "memory" or "redis://host:port/db"')
        parse_url(store)
    return store


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """`[mqtt]`: the broker behind all MQTT listeners. Raises ValueError for values out of range."""

    store: str = option(
        "sqlite",
        'where sessions and retained messages outlive the process: "sqlite", mqtt.sqlite3 in data_dir;'
        ' redis://host:6379/1, one database for each gateway; "memory": they do not',
        check=check_store,
        url=True,
    )
    sys_interval_s: int = option(
        10, "seconds between two looks at what is published below $SYS/; 0: nothing is", at_least=0
    )
    max_topic_levels: int = option(200, "levels of a topic filter, and of a topic that is retained", at_least=1)
    max_subscription_bytes_in_all: int = option(
        1_073_741_824, "memory of all subscriptions, about; more are refused with 0x97", at_least=0
    )
    max_subscription_bytes_per_owner: int = option(67_108_864, "of these, of one owner", at_least=0)
    max_queued_bytes_in_all: int = option(
        536_870_912, "bytes waiting for all clients; newer messages are lost", at_least=0
    )
    max_queued_bytes_per_owner: int = option(33_554_432, "of these, for the clients of one owner", at_least=0)
    max_sessions: int = option(
        100_000, "sessions, those of absent clients included; one more is refused with 0x97", at_least=1
    )
    max_sessions_per_owner: int = option(1_000, "of these, of one owner", at_least=1)
    max_retained_messages: int = option(100_000, "retained messages; more are not retained", at_least=0)
    max_retained_messages_per_owner: int = option(10_000, "of these, of one owner", at_least=0)
    max_retained_bytes: int = option(67_108_864, "bytes of retained messages, topics included", at_least=0)
    max_retained_bytes_per_owner: int = option(8_388_608, "of these, of one owner", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)
