"""What an operator can set for a bridge."""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from protocols.bridge.topic_map import ReceiveRule, SendRule, looping

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


_Seconds = Annotated[float, Field(gt=0, le=86_400)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeOptions:
    """The keys of a `[[listeners]]` table with `protocol = "mqtt-bridge"`. Raises ValueError for what does not fit
    together. There is no key for a password: it is in a file, or in the environment, and read at each connect."""

    url: Annotated[str, AfterValidator(check_url)]
    """mqtt://host:port or mqtts://host:port."""
    name: Annotated[str, AfterValidator(check_level)] = "upstream"
    """Tells bridges apart: in metrics, in the log, at /readyz."""
    mqtt_version: Literal["5.0", "3.1.1"] = "5.0"
    client_id: str | None = None
    """Default: fieldgate-NAME- and what is generated once and kept in the data directory."""
    username: str | None = None
    password_file: Path | None = None
    password_env: str | None = None
    """The name of an environment variable."""
    ca_file: Path | None = None
    """PEM; default: the authorities that the machine trusts."""
    certfile: Path | None = None
    """PEM: the client certificate, for brokers that ask for one."""
    keyfile: Path | None = None
    share: Annotated[str, AfterValidator(check_level)] | None = None
    """The processes that name the same share the messages between them: $share/NAME/..."""
    receive: tuple[ReceiveRule, ...] = ()
    send: tuple[SendRule, ...] = ()
    keep_alive_s: Annotated[int, Field(ge=1, le=65_535)] = 30
    connect_timeout_s: _Seconds = 10.0
    """Also for the answers to CONNECT and SUBSCRIBE."""
    reconnect_min_s: _Seconds = 1.0
    reconnect_max_s: _Seconds = 60.0
    """The wait before the next attempt doubles from one to the other, and is then half of it to all of it."""
    session_expiry_s: Annotated[int, Field(ge=0, le=0xFFFF_FFFF)] = 86_400
    """How long upstream keeps messages for this process while it is away (MQTT 5)."""
    receive_maximum: Annotated[int, Field(ge=1, le=65_535)] = 1_000
    """Messages from upstream that may wait for the application's acknowledgement."""
    max_inflight: Annotated[int, Field(ge=1, le=32_767)] = 100
    """Messages sent upstream and not acknowledged yet."""
    max_packet_bytes: Annotated[int, Field(ge=128, le=268_435_455)] = 262_144
    """The largest packet, both ways (upstream is told of it by MQTT 5)."""
    spool_messages: Annotated[int, Field(ge=0)] = 10_000
    """Messages that wait while upstream is away; newer ones are lost, and counted."""
    spool_bytes: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024

    def __post_init__(self) -> None:
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
