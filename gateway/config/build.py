"""Turns a tree of written values into frozen dataclasses, collecting every fault instead of stopping at the first.

A field's type says what may be written, `protocols.options.option` says more. Values from TOML are taken
strictly (the string "8000" is no number), values from the environment and the command line are text and are read as
what the field wants.
"""

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from gateway.config.sources import Leaf, Node, Problem, Table, Tables
from protocols.options import checked

_WORDS: Mapping[Any, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path, as a string",
}


class Builder:
    """Builds dataclasses from a tree, and collects the faults and the origin of each value."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.origins: dict[str, str] = {}
        """The origin of each value that was written, by its dotted key."""

    def build(
        self,
        cls: type[Any],
        table: Table,
        path: str = "",
        *,
        given: Mapping[str, Any] = MappingProxyType({}),
        known: Iterable[str] = (),
        elsewhere: Mapping[str, str] = MappingProxyType({}),
    ) -> Any:
        """An instance of the dataclass `cls` from `table`; None if anything in it was at fault.

        `given` are fields that are not read from the table. `known` are keys of the table that the caller reads.
        `elsewhere` says of other keys which table they belong to.
        """
        fault_count = len(self.problems)
        types = get_type_hints(cls)
        fields = {item.name: item for item in dataclasses.fields(cls) if item.name not in given}
        values = dict(given)
        for key, node in table.items.items():
            if key in fields:
                values[key] = self._value(fields[key], types[key], node, _join(path, key))
            elif key in elsewhere:
                self.fault(node.origin, f"{_join(path, key)} is a key of {elsewhere[key]}")
            elif key not in known:
                self.unknown(node.origin, path, key, {*fields, *known})
        for name, item in fields.items():
            if name not in table.items and _is_required(item):
                self.fault(table.origin, f"{_join(path, name)} is missing: expected {_expected(types[name])}")
        if len(self.problems) > fault_count:
            return None
        try:
            return cls(**values)
        except ValueError as error:
            self.fault(table.origin, f"{path or cls.__name__}: {error}")
            return None

    def unknown(self, origin: str, path: str, key: str, known: Iterable[str]) -> None:
        """Notes an unknown key, with the known one that is most like it."""
        nearest = difflib.get_close_matches(key, sorted(known), n=1)
        hint = f'; did you mean "{nearest[0]}"?' if nearest else f"; known here: {', '.join(sorted(known)) or 'none'}"
        self.fault(origin, f'unknown key "{_join(path, key)}"{hint}')

    def fault(self, origin: str, message: str) -> None:
        self.problems.append(Problem(origin, message))

    def _value(self, declared: "dataclasses.Field[Any]", wanted: Any, node: Node, path: str) -> Any:
        nested = _dataclass_in(wanted)
        if nested is not None:
            if isinstance(node, Table):
                return self.build(nested, node, path)
            return self.fault(node.origin, f"{path}: expected a table [{path}], got {_shown(node)}")
        repeated = _dataclass_repeated_in(wanted)
        if repeated is not None and isinstance(node, Tables):
            self.origins[path] = node.origin
            items = [self.build(repeated, table, f"{path}.{index}") for index, table in enumerate(node.items)]
            return tuple(items)
        if repeated is not None and not (isinstance(node, Leaf) and node.value == []):
            return self.fault(node.origin, f"{path}: expected tables, each headed [[{_header(path)}]]")
        if not isinstance(node, Leaf):
            return self.fault(node.origin, f"{path}: expected {_expected(wanted)}, got {_shown(node)}")
        self.origins[path] = node.origin
        value = self._leaf(wanted, node, path)
        try:
            return checked(declared, value)
        except ValueError as error:
            return self.fault(node.origin, f"{path}: {error}")

    def _leaf(self, wanted: Any, leaf: Leaf, path: str) -> Any:
        adapter: TypeAdapter[Any] = TypeAdapter(wanted)
        try:
            if leaf.is_text and _is_list(wanted):
                return adapter.validate_python([item.strip() for item in leaf.value.split(",") if item.strip()])
            if leaf.is_text:
                return adapter.validate_strings(leaf.value)
            return adapter.validate_json(json.dumps(leaf.value), strict=True)
        except (ValidationError, TypeError):  # TypeError: of json.dumps, for a TOML date or time, which no key is
            return self.fault(leaf.origin, f"{path}: expected {_expected(wanted)}, got {_shown(leaf)}")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _is_required(item: "dataclasses.Field[Any]") -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _plain(wanted: Any) -> Any:
    """The type without "or None"."""
    if get_origin(wanted) in (Union, UnionType):
        choices = [choice for choice in get_args(wanted) if choice is not NoneType]
        return _plain(choices[0]) if len(choices) == 1 else wanted
    return wanted


def _dataclass_in(wanted: Any) -> type[Any] | None:
    plain = _plain(wanted)
    return plain if isinstance(plain, type) and dataclasses.is_dataclass(plain) else None


def _dataclass_repeated_in(wanted: Any) -> type[Any] | None:
    """The dataclass of a field that is a tuple of them."""
    plain = _plain(wanted)
    return _dataclass_in(get_args(plain)[0]) if get_origin(plain) is tuple else None


def _header(path: str) -> str:
    """The header of a table at this path: the path without the numbers in it."""
    return ".".join(key for key in path.split(".") if not key.isdecimal())


def _is_list(wanted: Any) -> bool:
    return get_origin(_plain(wanted)) in (tuple, list, frozenset)


def _expected(wanted: Any) -> str:
    plain = _plain(wanted)
    if get_origin(plain) is Literal:
        return "one of " + ", ".join(json.dumps(choice) for choice in get_args(plain))
    if _is_list(plain):
        return f"a list, each {_expected(get_args(plain)[0])}"
    return _WORDS.get(plain, str(getattr(plain, "__name__", plain)))


def _shown(node: Node) -> str:
    match node:
        case Table():
            return "a table"
        case Tables():
            return "an array of tables"
        case Leaf(value=bool(value)):
            return "true" if value else "false"
        case Leaf(value=str(value)):
            return f"the string {json.dumps(value, ensure_ascii=False)}"
        case Leaf(value=list()):
            return "a list"
        case Leaf(value=int(value) | float(value)):
            return f"the number {value}"
        case _:
            return f"{node.value}"
