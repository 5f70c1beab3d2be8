"""The configuration of a gateway: TOML, then the environment, then the command line; defaults are here, in code.

`load` reads it and checks it whole, without any side effect. `current` is the configuration of this process: what the
command line loaded, or what GATEWAY_CONFIG names. Relative paths are relative to the working directory, as everywhere
on the command line.

A distribution adds a section by an entry point in the group "gateway.sections": its name is the table in the file, its
value a frozen dataclass of the keys. A protocol's listener keys are those of its server's `Options`.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from gateway.config.build import Builder
from gateway.config.model import (
    DEFAULT_LISTENERS,
    BrokerOptions,
    Config,
    DatabaseOptions,
    LayerOptions,
    ListenerConfig,
    LogOptions,
    ServerOptions,
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
from protocols.server import UnknownProtocolError, load_protocol
from protocols.tls import TlsOptions

__all__ = [
    "DEFAULT_FILE",
    "FILE_VARIABLE",
    "BrokerOptions",
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
    builder.problems += merge_environment(root, environ)
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
    added = section_types()
    given = {
        "listeners": _build_listeners(root.items["listeners"], builder),
        "sections": MappingProxyType(
            {name: _build_section(root, name, cls, builder) for name, cls in sorted(added.items())}
        ),
    }
    config: Config | None = builder.build(Config, root, given=given, known={"listeners", *added})
    return config


def _build_section(root: Table, name: str, cls: type[Any], builder: Builder) -> Any:
    table = root.items.get(name, Table("default"))
    if isinstance(table, Table):
        return builder.build(cls, table, name)
    return builder.fault(table.origin, f"{name}: expected a table [{name}]")


def _build_listeners(node: Node, builder: Builder) -> tuple[ListenerConfig, ...]:
    if isinstance(node, Leaf) and node.value == []:
        builder.fault(node.origin, "listeners: there must be at least one")
        return ()
    if not isinstance(node, Tables):
        builder.fault(node.origin, "listeners: expected tables, each headed [[listeners]]")
        return ()
    listeners = []
    seen: dict[str, str] = {}
    for index, table in enumerate(node.items):
        listener = _build_listener(table, f"listeners.{index}", builder)
        if listener is None:
            continue
        listeners.append(listener)
        if not listener.bind:
            continue
        taken_at = seen.setdefault(listener.bind, table.origin)
        if taken_at is not table.origin and not listener.bind.endswith(":0"):
            builder.fault(table.origin, f"listeners.{index}.bind: {listener.bind} is another listener's, at {taken_at}")
    return tuple(listeners)


def _build_listener(table: Table, path: str, builder: Builder) -> ListenerConfig | None:
    """A listener; the keys that are not every listener's are those of its protocol."""
    own = {item.name for item in fields(ListenerConfig)} - {"options"}
    common = Table(table.origin, {key: node for key, node in table.items.items() if key in own})
    rest = Table(table.origin, {key: node for key, node in table.items.items() if key not in own})
    given: dict[str, Any] = {"options": None}
    match common.items.get("protocol"):
        case Leaf(value=str(protocol), origin=origin):
            try:
                server = load_protocol(protocol)
                given["options"] = builder.build(server.Options, rest, path, known=own)
                if not server.listens:
                    given["bind"] = ""
                    _refuse_bind(protocol, common, path, builder)
            except UnknownProtocolError as error:
                builder.fault(origin, f"{path}.protocol: {error}")
            except ImportError as error:
                builder.fault(origin, f"{path}.protocol: {protocol} cannot be loaded: {error}")
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
