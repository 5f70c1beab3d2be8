"""The configuration of a gateway: TOML, then the environment, then the command line; defaults are here, in code.

`load` reads it and checks it whole, without any side effect. `current` is the configuration of this process: what the
command line loaded, or what GATEWAY_CONFIG names. Relative paths are relative to the working directory, as everywhere
on the command line.

A distribution adds a section by an entry point in the group "gateway.sections": its name is the table in the file, its
value a frozen dataclass of the keys. A protocol's listener keys are those of its server's `Options`; those of its
`ServerOptions` are in a table that has the name of the protocol.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, get_type_hints

from gateway.config.build import Builder
from gateway.config.model import (
    DEFAULT_LISTENERS,
    Config,
    DatabaseOptions,
    LayerOptions,
    ListenerConfig,
    LogOptions,
    ServerOptions,
    is_secret,
)
from gateway.config.sources import (
    FILE_VARIABLE,
    ConfigError,
    Leaf,
    Node,
    Problem,
    Table,
    Tables,
    merge_environment,
    merge_text,
    read_toml,
)
from protocols.server import ProtocolServer, UnknownProtocolError, load_protocol, protocol_names
from protocols.tls import TlsOptions

__all__ = [
    "DEFAULT_FILE",
    "FILE_VARIABLE",
    "Config",
    "ConfigError",
    "DatabaseOptions",
    "LayerOptions",
    "ListenerConfig",
    "Loaded",
    "LogOptions",
    "Problem",
    "ServerOptions",
    "TlsOptions",
    "current",
    "current_loaded",
    "load",
    "section_types",
    "use",
]

DEFAULT_FILE: Final = Path("config/gateway.toml")
"""Read when nothing else is named, if it is there."""

SECTION_GROUP: Final = "gateway.sections"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, the file it was read from (None: no file), and where each written value came from."""

    config: Config
    file: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict)


def load(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Iterable[str] = (),
) -> Loaded:
    """Reads `file` (None: GATEWAY_CONFIG, else DEFAULT_FILE if there is one, else defaults), environment and `flags`.

    A flag is "section.key=value". Raises ConfigError with every fault that there is.
    """
    environ = os.environ if environ is None else environ
    file = file or find_file(environ)
    root = read_toml(file) if file else Table("defaults")
    builder = Builder()
    if "listeners" not in root.items:
        root.items["listeners"] = _default_listeners()
    builder.problems += merge_environment(root, environ, _is_secret_key)
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not equals:
            builder.fault(f"--set {flag}", "expected KEY=VALUE")
            continue
        builder.problems += merge_text(root, key.split("."), value, f"--set {key}")
    config = _build(root, builder)
    if builder.problems or config is None:
        raise ConfigError(builder.problems)
    return Loaded(config, file, MappingProxyType(builder.origins))


def find_file(environ: Mapping[str, str]) -> Path | None:
    """The file to read when the command line names none."""
    if environ.get(FILE_VARIABLE):
        return Path(environ[FILE_VARIABLE])
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def section_types() -> dict[str, type[Any]]:
    """The dataclass of each section that an installed distribution adds."""
    return {entry.name: entry.load() for entry in entry_points(group=SECTION_GROUP)}


def _default_listeners() -> Tables:
    return Tables("default", [Table("default", _leaves(values)) for values in DEFAULT_LISTENERS])


def _leaves(values: Mapping[str, Any]) -> "dict[str, Any]":
    return {key: Leaf(value, "default") for key, value in values.items()}


def _build(root: Table, builder: Builder) -> Config | None:
    sections = section_types()
    servers: dict[str, type[ProtocolServer]] = {}
    listeners = _build_listeners(root.items["listeners"], servers, builder)
    for name in sorted(_protocol_tables() & root.items.keys() - servers.keys()):
        if (server := _load(name, root.items[name].origin, name, builder)) is not None:
            servers[name] = server
    given = {
        "listeners": listeners,
        "protocols": MappingProxyType(
            {name: _build_server_options(root, name, server, builder) for name, server in sorted(servers.items())}
        ),
        "sections": MappingProxyType(
            {name: _build_table(root, name, cls, builder) for name, cls in sorted(sections.items())}
        ),
    }
    known = {"listeners", *_protocol_tables(), *sections}
    config: Config | None = builder.build(Config, root, given=given, known=known)
    return config


def _build_server_options(root: Table, name: str, server: type[ProtocolServer], builder: Builder) -> Any:
    place = f'a [[listeners]] table with protocol = "{name}"'
    return _build_table(root, name, server.ServerOptions, builder, elsewhere=_keys(server.Options, place))


def _keys(cls: type[Any], place: str) -> dict[str, str]:
    return {item.name: place for item in fields(cls)}


def _build_table(
    root: Table, name: str, cls: type[Any], builder: Builder, elsewhere: Mapping[str, str] = MappingProxyType({})
) -> Any:
    table = root.items.get(name, Table("default"))
    if isinstance(table, Table):
        return builder.build(cls, table, name, elsewhere=elsewhere)
    return builder.fault(table.origin, f"{name}: expected a table [{name}]")


def _protocol_tables() -> frozenset[str]:
    """The names of tables that are those of installed protocols."""
    return protocol_names() - _own_tables().keys()


def _own_tables() -> dict[str, type[Any]]:
    """The dataclass of each table that is neither a protocol's nor a listener, by its name."""
    own = {name: cls for name, cls in get_type_hints(Config).items() if isinstance(cls, type) and is_dataclass(cls)}
    return {**own, **section_types()}


def _load(protocol: str, origin: str, path: str, builder: Builder) -> type[ProtocolServer] | None:
    try:
        return load_protocol(protocol)
    except UnknownProtocolError as error:
        builder.fault(origin, f"{path}: {error}")
    except ImportError as error:
        builder.fault(origin, f"{path}: {protocol} cannot be loaded: {error}")
    return None


def _is_secret_key(keys: list[str]) -> bool:
    """Whether the value of a key is or contains a secret."""
    if len(keys) != 2:
        return False
    table, key = keys
    cls = _own_tables().get(table)
    if cls is None and table in protocol_names():
        cls = load_protocol(table).ServerOptions
    return cls is not None and any(item.name == key and is_secret(item) for item in fields(cls))


def _build_listeners(
    node: Node, servers: dict[str, type[ProtocolServer]], builder: Builder
) -> tuple[ListenerConfig, ...]:
    """The listeners; `servers` gets the class of each protocol that one of them names."""
    if isinstance(node, Leaf) and node.value == []:
        builder.fault(node.origin, "listeners: there must be at least one")
        return ()
    if not isinstance(node, Tables):
        builder.fault(node.origin, "listeners: expected tables, each headed [[listeners]]")
        return ()
    listeners = []
    seen: dict[str, str] = {}
    for index, table in enumerate(node.items):
        listener = _build_listener(table, f"listeners.{index}", servers, builder)
        if listener is None:
            continue
        listeners.append(listener)
        if not listener.bind:
            continue
        taken_at = seen.setdefault(listener.bind, table.origin)
        if taken_at is not table.origin and not listener.bind.endswith(":0"):
            builder.fault(table.origin, f"listeners.{index}.bind: {listener.bind} is another listener's, at {taken_at}")
    return tuple(listeners)


def _build_listener(
    table: Table, path: str, servers: dict[str, type[ProtocolServer]], builder: Builder
) -> ListenerConfig | None:
    """A listener; the keys that are not every listener's are those of its protocol."""
    own = {item.name for item in fields(ListenerConfig)} - {"options"}
    common = Table(table.origin, {key: node for key, node in table.items.items() if key in own})
    rest = Table(table.origin, {key: node for key, node in table.items.items() if key not in own})
    given: dict[str, Any] = {"options": None}
    match common.items.get("protocol"):
        case Leaf(value=str(protocol), origin=origin):
            server = _load(protocol, origin, f"{path}.protocol", builder)
            if server is not None:
                servers[protocol] = server
                elsewhere = _keys(server.ServerOptions, f"the table [{protocol}]")
                given["options"] = builder.build(server.Options, rest, path, known=own, elsewhere=elsewhere)
                if not server.listens:
                    given["bind"] = None
                    _refuse_bind(protocol, common, path, builder)
    listener: ListenerConfig | None = builder.build(ListenerConfig, common, path, given=given, known=given)
    return listener


def _refuse_bind(protocol: str, common: Table, path: str, builder: Builder) -> None:
    for key in common.items:
        if key != "protocol":
            builder.fault(common.items[key].origin, f"{path}.{key}: {protocol} does not listen, it connects")


_current: Loaded | None = None


def use(loaded: Loaded) -> None:
    """Makes this the configuration of the process, for `current`."""
    global _current  # Django's settings module can be handed nothing
    _current = loaded


def current() -> Config:
    """The configuration of this process; read on the first call unless `use` was called before."""
    return current_loaded().config


def current_loaded() -> Loaded:
    """The same, with where it comes from."""
    if _current is None:
        use(load())
    assert _current is not None
    return _current
