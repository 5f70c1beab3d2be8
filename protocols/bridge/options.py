"""What an operator can set for a bridge."""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from protocols.bridge.topic_map import ReceiveRule, SendRule, looping
from protocols.options import check_options, option

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


class Address(NamedTuple):
    """Where upstream is."""

    host: str
    port: int
    is_encrypted: bool


def check_url(url: str) -> str:
    """The URL. Raises ValueError, with what is wrong with it."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("who the gateway is goes into username, and password_file or password_env")
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError('expected "mqtt://host:port" or "mqtts://host:port"')
    if parts.port == 0:
        raise ValueError("port 0 is no port to connect to")
    return url.rstrip("/")


def check_level(name: str) -> str:
    """What may be one level of a topic, and a label of a metric."""
    if not name or any(character in name for character in "/+#\0") or not name.isprintable():
        raise ValueError("expected a name of printable characters without /, + and #")
    return name


_MAX_WAIT_S: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeOptions:
    """The keys of a `[[listeners]]` table with `protocol = "mqtt-bridge"`. Raises ValueError for what does not fit
    together. There is no key for a password: it is in a file, or in the environment, and read at each connect."""

    url: str = option(help_text="mqtt://host:port or mqtts://host:port", check=check_url)
    name: str = option("upstream", "tells bridges apart: in metrics, in the log, at /readyz", check=check_level)
    mqtt_version: Literal["5.0", "3.1.1"] = option("5.0", "the version that is spoken")
    client_id: str | None = option(
        None, "default: fieldgate-NAME- and what is generated once and kept in the data directory"
    )
    username: str | None = option(None, "who the gateway is, upstream")
    password_file: Path | None = option(None, "a file with the password alone")
    password_env: str | None = option(None, "the name of an environment variable that has the password")
    ca_file: Path | None = option(None, "PEM; default: the authorities that the machine trusts")
    certfile: Path | None = option(None, "PEM: the client certificate, for brokers that ask for one")
    keyfile: Path | None = option(None, "PEM; default: the key is in certfile")
    share: str | None = option(
        None, "the processes that name the same share the messages between them: $share/NAME/...", check=check_level
    )
    receive: tuple[ReceiveRule, ...] = option((), "tables: which messages are taken from upstream")
    send: tuple[SendRule, ...] = option((), "tables: which messages are sent upstream")
    keep_alive_s: int = option(30, "the keep alive of the connection", at_least=1, at_most=65_535)
    connect_timeout_s: float = option(
        10.0, "time for a connection, and for the answers to CONNECT and SUBSCRIBE", more_than=0, at_most=_MAX_WAIT_S
    )
    reconnect_min_s: float = option(1.0, "the first wait before a new attempt", more_than=0, at_most=_MAX_WAIT_S)
    reconnect_max_s: float = option(
        60.0,
        "the longest; a wait doubles from one to the other, and is then half of it to all of it",
        more_than=0,
        at_most=_MAX_WAIT_S,
    )
    session_expiry_s: int = option(
        86_400,
        "how long upstream keeps messages for this process while it is away (MQTT 5)",
        at_least=0,
        at_most=0xFFFF_FFFF,
    )
    receive_maximum: int = option(
        1_000, "messages from upstream that may wait for the application's acknowledgement", at_least=1, at_most=65_535
    )
    max_inflight: int = option(100, "messages sent upstream and not acknowledged yet", at_least=1, at_most=32_767)
    max_packet_bytes: int = option(
        262_144,
        "the largest packet, both ways (upstream is told of it by MQTT 5)",
        at_least=128,
        at_most=268_435_455,
    )
    spool_messages: int = option(
        10_000, "messages that wait while upstream is away; newer ones are lost, and counted", at_least=0
    )
    spool_bytes: int = option(16 * 1024 * 1024, "of these, bytes", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)
        if not self.receive and not self.send:
            raise ValueError("there is neither a receive nor a send table: nothing would pass")
        if self.password_file and self.password_env:
            raise ValueError("password_file and password_env are both set")
        if self.keyfile and not self.certfile:
            raise ValueError("keyfile without certfile")
        if not self.address.is_encrypted and (self.certfile or self.ca_file):
            raise ValueError("ca_file and certfile are for mqtts:// only")
        if self.reconnect_min_s > self.reconnect_max_s:
            raise ValueError("reconnect_min_s is more than reconnect_max_s")
        pair = None if self.mqtt_version == "5.0" else looping(self.receive, self.send)
        if pair is not None:
            taking, giving = pair
            raise ValueError(
                f"what is sent as {giving.topics.target} would come back by {taking.topics.source},"
                " and MQTT 3.1.1 has no way to tell; use other topics, or 5.0"
            )

    @property
    def is_5(self) -> bool:
        """Whether MQTT 5.0 is spoken."""
        return self.mqtt_version == "5.0"

    @property
    def address(self) -> Address:
        """Where upstream is."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return Address(parts.hostname, parts.port or _PORTS[parts.scheme], parts.scheme == "mqtts")

    @property
    def filters(self) -> dict[str, int]:
        """What is subscribed to upstream, with the QoS."""
        prefix = f"$share/{self.share}/" if self.share else ""
        return {prefix + rule.topics.source: rule.qos for rule in self.receive}

    def password(self) -> str | None:
        """The password. Raises OSError if its file cannot be read, KeyError if the variable is not set."""
        if self.password_file is not None:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        return os.environ[self.password_env] if self.password_env is not None else None

    def tls_context(self) -> ssl.SSLContext | None:
        """What the connection is encrypted by. Raises OSError (ssl.SSLError is one) for files that are no use."""
        if not self.address.is_encrypted:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certfile is not None:
            context.load_cert_chain(self.certfile, self.keyfile)
        return context
