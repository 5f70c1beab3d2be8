"""What can be configured: one frozen dataclass for each table of the file, with its defaults."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

from gateway.layers.url import channel_layers_from_url
from protocols.options import check_options, option
from protocols.sockets import parse_bind
from protocols.tls import TlsOptions
from protocols.trusted_peers import check_networks

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


def is_secret(declared: "Field[Any]") -> bool:
    """Whether an option is or contains a secret: never shown whole, readable from a file."""
    return bool(declared.metadata.get("secret") or declared.metadata.get("url"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """`[[listeners]]`: one place to listen at. Its further keys are its protocol's, in `options`."""

    protocol: str
    bind: str | None = option(help_text="where to listen; None for a protocol that does not", check=_check_bind)
    tls: TlsOptions | None = None
    proxy_protocol: tuple[str, ...] = option(
        (),
        "networks of the proxies that begin each connection with a PROXY protocol header; nobody else may connect then;"
        ' "unix": peers of a Unix socket',
        check=check_networks,
    )
    handshake_timeout_s: float = option(
        10.0, "how long PROXY header and TLS handshake may take together", more_than=0, at_most=3_600
    )
    max_handshakes: int = option(
        1_000, "how many connections may be in the middle of that; one more is closed", at_least=1
    )
    max_handshakes_per_address: int = option(200, "of these, from one address; one more is closed", at_least=1)
    dead_peer_timeout_s: float = option(
        90.0,
        "after how long a peer whose machine answers nothing is given up, by TCP itself; 0 leaves it to the system",
        at_least=0,
        at_most=86_400,
    )
    options: Any

    def __post_init__(self) -> None:
        check_options(self)

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

    public_url: str | None = option(
        None,
        "the address by which browsers reach the dashboard, where it is not a listener's own (a proxy, a host name)",
        check=_check_public_url,
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        'further host names that a browser may ask for; ".example.org" includes sub-domains',
        check=_check_allowed_hosts,
    )
    secret_key: str | None = option(
        None,
        "signs sessions; default: generated on first start, in the file secret_key of the data directory",
        secret=True,
    )
    shutdown_timeout_s: float = option(
        10.0, "how long connections may take to end once the process is told to stop", more_than=0, at_most=3_600
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseOptions:
    """`[database]`: where devices and readings are stored."""

    url: str | None = option(
        None,
        "sqlite:///path or postgresql://user:password@host:port/name; default: SQLite in the data directory",
        check=_check_database,
        url=True,
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOptions:
    """`[layer]`: what carries messages between consumers."""

    url: str = option(
        "memory://",
        "memory:// for one process; redis://host:port/db and its kin, see gateway/layers/url.py, for several",
        check=_check_layer,
        url=True,
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """`[log]`: what is written to standard error."""

    format: Literal["console", "json"] = option("console", "a line an event for people, or an object for a collector")
    level: Literal["debug", "info", "warning", "error"] = option("info", "the least level that is logged")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration, checked."""

    data_dir: Path = Path("var")
    """The database, MQTT sessions, generated secrets. Created by `gateway serve`, readable by its user only."""
    server: ServerOptions = field(default_factory=ServerOptions)
    database: DatabaseOptions = field(default_factory=DatabaseOptions)
    layer: LayerOptions = field(default_factory=LayerOptions)
    log: LogOptions = field(default_factory=LogOptions)
    listeners: tuple[ListenerConfig, ...]
    sections: Mapping[str, Any]
    """The sections that installed distributions add, by name."""
    protocols: Mapping[str, Any]
    """The options of protocols as a whole, by name: of those that have a listener or a table."""

    def tables(self) -> Iterator[tuple[str, Any]]:
        """The tables of the file but the listeners, by name, each with its options."""
        for declared in fields(self):
            if is_dataclass(options := getattr(self, declared.name)):
                yield declared.name, options
        yield from self.protocols.items()
        yield from self.sections.items()

    def secrets(self) -> Iterator[tuple[str, "Field[Any]", Any]]:
        """The options that are or contain a secret: key, declaration and value."""
        for name, options in self.tables():
            for declared in fields(options):
                if is_secret(declared):
                    yield f"{name}.{declared.name}", declared, getattr(options, declared.name)

    @property
    def secret_key_file(self) -> Path:
        """Where the generated secret key is kept."""
        return self.data_dir / "secret_key"

    @property
    def database_url(self) -> str:
        """The database in use, the default filled in."""
        return self.database.url or f"sqlite:///{self.data_dir / 'gateway.sqlite3'}"

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
