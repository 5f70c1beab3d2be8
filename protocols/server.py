"""The plug-in interface of a protocol server, and the registry that finds plug-ins by name.

A distribution offers a protocol by an entry point in the group "gateway.protocols" whose value is a `ProtocolServer`
subclass; its name is what `protocol = "..."` in a `[[listeners]]` table of the configuration says.
"""

import abc
import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from protocols.asgi import Application

ENTRY_POINT_GROUP = "gateway.protocols"


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a protocol that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One place to listen at.

    `bind` is "host:port", "[v6]:port" (port 0: any free one) or "unix:/path"; `options` is an instance of the
    server's `Options`. What follows holds for whoever listens by `protocols.sockets.listen`.
    """

    bind: str
    options: Any
    ssl_context: ssl.SSLContext | None = None
    proxy_protocol: Sequence[str] = ()
    """The networks of the proxies that begin each connection with a PROXY header, "unix" for peers of a Unix socket;
    nobody else may connect then. Empty: there are none."""
    handshake_timeout_s: float = 10.0
    """How long PROXY header and TLS handshake may take together."""
    max_handshakes: int = 1_000
    """How many connections may be in the middle of that."""
    max_handshakes_per_address: int = 200
    """How many of these may be of one address."""
    dead_peer_timeout_s: float = 90.0
    """After how long a peer whose machine answers nothing is given up, by TCP itself; 0 leaves it to the system."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A byte-stream protocol that the HTTP server carries in binary WebSocket messages at one path.

    The transport handed to the protocol offers write, writelines, close, abort, is_closing, pause_reading,
    resume_reading, set_write_buffer_limits and get_extra_info ("peername", "sockname", "ssl_object", and
    "scheme": "ws" or "wss"), as a TCP transport does; write pauses are reported by pause_writing and resume_writing.
    """

    subprotocol: str
    protocol_factory: Callable[[], asyncio.Protocol]
    other_subprotocols: Sequence[str] = ()
    """Names by which older clients ask for the same."""


@runtime_checkable
class Publisher(Protocol):
    """A server with a broker: it can give a message to the clients that have subscribed to its topic."""

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> object:
        """Publishes to every subscriber of this server. To be called in its event loop. Raises ValueError or TypeError
        for what MQTT cannot say, RuntimeError if it can take no more now."""


Row: TypeAlias = Mapping[str, Any]
"""One row of an answer: what JSON can say. All rows of an answer have the same keys, in the same order."""

Command: TypeAlias = Callable[[Mapping[str, Any]], AsyncGenerator[Row, None]]
"""A request of an operator: takes the arguments and gives rows, in the event loop of the server, which it must give a
turn from time to time. It may go on for ever; it is closed when nobody reads any more. Raises CommandError."""


class CommandError(Exception):
    """Raised when a command cannot do what is asked, with a text for the operator."""


class CannotServeError(Exception):
    """Raised by `ProtocolServer.start` when something that the server needs is missing, with a text for the
    operator."""


class ProtocolServer(abc.ABC):
    """Serves one protocol on all of its listeners: each connection becomes a scope, run by protocols.runner.

    The supervisor calls, in this order: `connect_to`, `start`, `stop_accepting`, `close`. It may call `close` after a
    failed `start`.
    """

    protocol: ClassVar[str]
    """The name of the wire, as in the scope's "type" or, for HTTP, "http"."""

    Options: ClassVar[type] = NoOptions
    """A frozen dataclass: the keys that a `[[listeners]]` table of this protocol may have besides `protocol`, `bind`
    and `tls`, with their types and defaults, declared by `protocols.options.option`."""

    ServerOptions: ClassVar[type] = NoOptions
    """A frozen dataclass, declared alike: the keys of the protocol as a whole, whatever listeners it has. Their table
    has the name of the entry point: `[mqtt]`."""

    carries_tunnels: ClassVar[bool] = False
    """True for a protocol that carries the tunnels of others: it is made after them."""

    listens: ClassVar[bool] = True
    """False for a protocol that connects to others: its `[[listeners]]` tables have neither `bind` nor `tls`, its
    `Listener.bind` is empty, `addresses` has nothing, and it is started when all that listen are."""

    def __init__(
        self,
        application: Application,
        listeners: Sequence[Listener],
        *,
        state: Mapping[str, Any],
        tunnels: Mapping[str, Tunnel] | None = None,
        server_options: Any = None,
    ) -> None:
        """`state` is the lifespan state, copied shallowly into each scope; its "data_dir" is the directory in which a
        server may keep files, if it is there. `tunnels` maps a path to what other servers want carried over WebSocket,
        for a server that `carries_tunnels`. `server_options` is an instance of `ServerOptions`; None: its defaults.
        Raises ValueError for listeners that do not go together."""
        self.application = application
        self.listeners = listeners
        self.state = state
        self.tunnels: Mapping[str, Tunnel] = tunnels or {}
        self.server_options: Any = self.ServerOptions() if server_options is None else server_options

    @abc.abstractmethod
    async def start(self) -> None:
        """Binds every listener and begins to accept. Raises OSError, with the address in its text, if one is taken;
        then none is left open. Raises CannotServeError for whatever else keeps the server from working."""

    @abc.abstractmethod
    def stop_accepting(self) -> None:
        """Closes the listening sockets; open connections go on. Idempotent."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Ends every connection in the way of the protocol (WebSocket 1012, MQTT 5 0x8B, HTTP: after the current
        response), and returns when each application instance has ended. The supervisor bounds it in time by cancelling
        it; then it must abort every transport. Idempotent."""

    @property
    @abc.abstractmethod
    def addresses(self) -> Sequence[str]:
        """The bound addresses in the order of `listeners`, with the real port: "127.0.0.1:1883"."""

    def connect_to(self, servers: Sequence["ProtocolServer"]) -> None:
        """Called with all servers of the process before any is started. Raises ValueError if one that this server needs
        is missing."""
        return

    def status(self) -> Mapping[str, str]:
        """Lines for /readyz: "ok", or what is wrong, by name. Everybody may read them, and the process stays ready."""
        return {}

    def failures(self) -> Mapping[str, str]:
        """Lines for /readyz about what the server cannot work without: "ok", or what is wrong, by name. Everybody may
        read them. While one is not "ok" the process is not ready."""
        return {}

    def commands(self) -> Mapping[str, Command]:
        """The commands of an operator while the server runs, by name: "mqtt.clients"."""
        return {}

    def owners(self) -> Collection[str]:
        """The owners of what outlives a connection here, as the application named them when it accepted."""
        return ()

    def forget_owners(self, reasons: Mapping[str, str]) -> None:
        """Ends for good the connections of owners and what outlives those; `reasons` says why, by owner."""
        return

    def offered_tunnels(self) -> Mapping[str, Tunnel]:
        """What this server wants to be carried over WebSocket: path -> tunnel. Called before `start`."""
        return {}


class UnknownProtocolError(LookupError):
    """Raised when no installed distribution offers the protocol that the configuration names."""

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        super().__init__(f"no protocol {name!r} is installed; known: {', '.join(known)}")
        self.name = name
        self.known = known


def load_protocol(name: str) -> type[ProtocolServer]:
    """The server class registered under `name`. Raises UnknownProtocolError, or what the plug-in's import raises."""
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise UnknownProtocolError(name, sorted(found))
    server: type[ProtocolServer] = found[name].load()
    return server


def protocol_names() -> frozenset[str]:
    """The names of all installed protocols; none is loaded."""
    return frozenset(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))
