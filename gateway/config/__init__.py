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
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gateway.config.assemble import Assembler, default_listeners, is_secret_key, section_types
from gateway.config.build import Builder
from gateway.config.model import (
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
    Problem,
    Table,
    merge_environment,
    merge_text,
    read_toml,
)
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
    root.items.setdefault("listeners", default_listeners())
    builder.problems += merge_environment(root, environ, is_secret_key)
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not equals:
            builder.fault(f"--set {flag}", "expected KEY=VALUE")
            continue
        builder.problems += merge_text(root, key.split("."), value, f"--set {key}")
    config = Assembler(root, builder).config()
    if builder.problems or config is None:
        raise ConfigError(builder.problems)
    return Loaded(config, file, MappingProxyType(builder.origins))


def find_file(environ: Mapping[str, str]) -> Path | None:
    """The file to read when the command line names none."""
    if environ.get(FILE_VARIABLE):
        return Path(environ[FILE_VARIABLE])
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


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
