"""What can be configured: one frozen dataclass for each table of the file, with its defaults."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field
from redis.connection import parse_url as redis_url

from gateway.layers.url import channel_layers_from_url
from protocols.sockets import parse_bind
from protocols.tls import TlsOptions
from protocols.trusted_peers import TrustedPeers

DATABASE_SCHEMES: Final = ("sqlite", "postgresql")

POSTGRESQL_PARAMETERS: Final[Mapping[str, str]] = {
    "connect_timeout": "5",
    # How long sent data may stay unacknowledged, in ms. The kernel's own limit is about 15 minutes, and keep-alives do
    # not count meanwhile: a network that swallows packets would go unnoticed for that long.
    "tcp_user_timeout": "20000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
"""What every connection to PostgreSQL is made with, unless the query of `database.url` says otherwise."""


def _check_bind(bind: str) -> str:
    parse_bind(bind)
    return bind


def _check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    TrustedPeers(networks)
    return networks


def _check_database(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in DATABASE_SCHEMES:
        raise ValueError('expected "sqlite:///path" or "postgresql://user:password@host/name"')
    if parts.scheme == "sqlite" and (parts.netloc or len(parts.path) < 2):
        raise ValueError('expected "sqlite:///relative/path" or "sqlite:////absolute/path"')
    if parts.scheme == "postgresql" and len(parts.path) < 2:
        raise ValueError("the name of the database is missing after the host")
    return url


def _check_layer(url: str) -> str:
    channel_layers_from_url(url)
    return url


def _check_mqtt_store(store: str) -> str:
    if store not in ("sqlite", "memory"):
        if urlsplit(store).scheme not in ("redis", "rediss", "unix"):
            raise ValueError('expected "sqlite", "memory" or "redis://host:port/db"')
        redis_url(store)
    return store


def _check_public_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError('expected "https://host" or "http://host:port", without a path')
    return url.rstrip("/")


def _check_allowed_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_check_host(host) for host in hosts)


def _check_host(host: str) -> str:
    """A host as a Host header has it, without its port: of an IPv6 address that is with brackets."""
    try:
        return f"[{IPv6Address(host.removeprefix('[').removesuffix(']'))}]"
    except ValueError:
        if not host or re.search(r"[\s/:@\[\]]", host):
            raise ValueError(f'expected a host name or address, without scheme, port and path; got "{host}"') from None
    return host


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """`[[listeners]]`: one place to listen at. Its further keys are its protocol's, in `options`."""

    protocol: str
    bind: Annotated[str, AfterValidator(_check_bind)]
    """Empty for a protocol that does not listen."""
    tls: TlsOptions | None = None
    proxy_protocol: Annotated[tuple[str, ...], AfterValidator(_check_networks)] = ()
    """Networks of the proxies that begin each connection with a PROXY protocol header; nobody else may connect then.
    "unix": peers of a Unix socket."""
    handshake_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """How long PROXY header and TLS handshake may take together."""
    max_handshakes: Annotated[int, Field(gt=0)] = 1_000
    max_handshakes_per_address: Annotated[int, Field(gt=0)] = 200
    """How many connections may be in the middle of that; one more is closed."""
    dead_peer_timeout_s: Annotated[float, Field(ge=0, le=86_400)] = 90.0
    """After how long a peer whose machine answers nothing is given up, by TCP itself; 0 leaves it to the system."""
    options: Any

    @property
    def host(self) -> str | None:
        """The host part of `bind`, without brackets; None for a Unix socket, and where nothing listens."""
        if not self.bind:
            return None
        address = parse_bind(self.bind)
        return None if isinstance(address, str) else address[0]

    @property
    def is_everywhere(self) -> bool:
        """Whether every network of the machine can reach it."""
        return self.host in ("", "0.0.0.0", "::")  # noqa: S104  the question, not the answer


DEFAULT_LISTENERS: Final[Sequence[Mapping[str, str]]] = (
    {"protocol": "http", "bind": "127.0.0.1:8000"},
    {"protocol": "mqtt", "bind": "127.0.0.1:1883"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """`[server]`: the process as a whole."""

    public_url: Annotated[str, AfterValidator(_check_public_url)] | None = None
    """The address by which browsers reach the dashboard, where it is not a listener's own (a proxy, a host name)."""
    allowed_hosts: Annotated[tuple[str, ...], AfterValidator(_check_allowed_hosts)] = ()
    """Further host names that a browser may ask for; ".example.org" includes sub-domains."""
    secret_key: str | None = None
    """Signs sessions. Default: generated on first start, in the file secret_key of the data directory."""
    shutdown_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """How long connections may take to end once the process is told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseOptions:
    """`[database]`: where devices and readings are stored."""

    url: Annotated[str, AfterValidator(_check_database)] | None = None
    """sqlite:///path or postgresql://user:password@host:port/name. Default: SQLite in the data directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOptions:
    """`[layer]`: what carries messages between consumers."""

    url: Annotated[str, AfterValidator(_check_layer)] = "memory://"
    """memory:// for one process; redis://host:port/db and its kin, see gateway/layers/url.py, for several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """`[mqtt]`: the broker behind all MQTT listeners."""

    store: Annotated[str, AfterValidator(_check_mqtt_store)] = "sqlite"
    """Where sessions and retained messages outlive the process: "sqlite", a file in data_dir; redis://host:port/db, of
    which one gateway at a time can use one database; "memory": they do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """`[log]`: what is written to standard error."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration, checked."""

    data_dir: Path = Path("var")
    """The database, MQTT sessions, generated secrets. Created by `gateway serve`, readable by its user only."""
    server: ServerOptions = field(default_factory=ServerOptions)
    database: DatabaseOptions = field(default_factory=DatabaseOptions)
    layer: LayerOptions = field(default_factory=LayerOptions)
    mqtt: BrokerOptions = field(default_factory=BrokerOptions)
    log: LogOptions = field(default_factory=LogOptions)
    listeners: tuple[ListenerConfig, ...]
    sections: Mapping[str, Any]
    """The sections that installed distributions add, by name."""

    @property
    def secret_key_file(self) -> Path:
        """Where the generated secret key is kept."""
        return self.data_dir / "secret_key"

    @property
    def database_url(self) -> str:
        """The database in use, the default filled in."""
        return self.database.url or f"sqlite:///{self.data_dir / 'gateway.sqlite3'}"

    @property
    def mqtt_store_file(self) -> Path:
        """Where MQTT sessions are kept, if `mqtt.store` is "sqlite"."""
        return self.data_dir / "mqtt.sqlite3"

    def secret_key(self) -> str | None:
        """The configured or generated secret key; None before one has been generated."""
        if self.server.secret_key:
            return self.server.secret_key
        try:
            return self.secret_key_file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None

    def sqlite_file(self) -> Path | None:
        """The file of the SQLite database; None for another database."""
        parts = urlsplit(self.database_url)
        return Path(parts.path[1:]) if parts.scheme == "sqlite" else None

    def database_parameters(self) -> dict[str, str]:
        """PostgreSQL's connection parameters: POSTGRESQL_PARAMETERS, and the query of the database URL."""
        return dict(POSTGRESQL_PARAMETERS) | dict(parse_qsl(urlsplit(self.database_url).query))
