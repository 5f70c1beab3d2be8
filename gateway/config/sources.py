"""Where configuration comes from: a TOML file, the environment, the command line; the later wins.

The three become one tree whose every node knows its origin, so that a fault can be shown where it was written.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from gateway.config.toml_lines import KeyPath, key_lines

ENVIRONMENT_PREFIX = "GATEWAY_"
FILE_VARIABLE = "GATEWAY_CONFIG"
"""The environment variable that names the configuration file; it is not a key itself."""

_ORCHESTRATOR_NAMES = re.compile(r"GATEWAY_(SERVICE_(HOST|PORT)|PORT(_\d+_|$)|NAME$|ENV_)")
"""Variables that Kubernetes and Docker links set by themselves where a service is called "gateway"."""

_TOML_FAULT = re.compile(r"(?P<message>.*) \(at line (?P<line>\d+), column \d+\)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault in the configuration, and where it is written."""

    origin: str
    message: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}"


class ConfigError(Exception):
    """Raised when the configuration has faults: all that were found, in `problems`."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value as it is written. `is_text`: it is a string because its source knows nothing else."""

    value: Any
    origin: str
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A TOML table."""

    origin: str
    items: "dict[str, Node]" = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tables:
    """A TOML array of tables."""

    origin: str
    items: list[Table] = field(default_factory=list)


Node: TypeAlias = Leaf | Table | Tables


def read_toml(path: Path) -> Table:
    """The tree of the file. Raises ConfigError if it cannot be read or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot read the configuration: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), f"not UTF-8 text: {error.reason} at byte {error.start}")]) from error
    except tomllib.TOMLDecodeError as error:
        fault = _TOML_FAULT.match(str(error))
        origin, message = (f"{path}:{fault['line']}", fault["message"]) if fault else (str(path), str(error))
        raise ConfigError([Problem(origin, f"not valid TOML: {message}")]) from error
    lines = key_lines(text)
    return _table(document, (), lambda key_path: f"{path}:{lines.get(key_path, 1)}")


def _table(document: Mapping[str, Any], path: KeyPath, origin_of: Any) -> Table:
    return Table(origin_of(path), {key: _node(value, (*path, key), origin_of) for key, value in document.items()})


def _node(value: Any, path: KeyPath, origin_of: Any) -> Node:
    if isinstance(value, dict):
        return _table(value, path, origin_of)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        tables = [_table(item, (*path, index), origin_of) for index, item in enumerate(value)]
        return Tables(origin_of(path), tables)
    return Leaf(value, origin_of(path))


def merge_environment(root: Table, environ: Mapping[str, str], is_secret: Callable[[list[str]], bool]) -> list[Problem]:
    """Writes `GATEWAY_DATABASE__URL=...` over `database.url`, and so on.

    `NAME_FILE` reads the value of a secret from a file, as container secrets are given; `is_secret` says which keys are
    secrets.
    """
    problems = []
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name == FILE_VARIABLE or _ORCHESTRATOR_NAMES.match(name):
            continue
        keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        value = environ[name]
        origin = f"environment {name}"
        if name.endswith("_FILE") and is_secret([*keys[:-1], keys[-1].removesuffix("_file")]):
            keys[-1] = keys[-1].removesuffix("_file")
            try:
                value = Path(value).read_text(encoding="utf-8").strip()
            except OSError as error:
                problems.append(Problem(origin, f"cannot read {value}: {error.strerror}"))
                continue
        problems += merge_text(root, keys, value, origin)
    return problems


def merge_text(root: Table, keys: list[str], value: str, origin: str) -> list[Problem]:
    """Writes one value that came as text into the tree; a number selects an existing table of an array."""
    node: Node = root
    for key in keys[:-1]:
        following = _enter(node, key, origin)
        if following is None:
            return [Problem(origin, f"there is no {'.'.join(keys[:-1])} to set {keys[-1]} in")]
        node = following
    if not isinstance(node, Table):
        return [Problem(origin, f"there is no {'.'.join(keys[:-1])} to set {keys[-1]} in")]
    node.items[keys[-1]] = Leaf(value, origin, is_text=True)
    return []


def _enter(node: Node, key: str, origin: str) -> Node | None:
    match node:
        case Table():
            return node.items.setdefault(key, Table(origin))
        case Tables() if key.isdecimal() and int(key) < len(node.items):
            return node.items[int(key)]
        case _:
            return None
