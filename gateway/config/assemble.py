"""The tables that a configuration has, and a `Config` made of them.

They are the gateway's own, the sections that distributions add, the listeners, and the options of protocols as a whole.
No protocol is known here by its name.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Final, get_type_hints

from gateway.config.build import Builder
from gateway.config.model import DEFAULT_LISTENERS, Config, ListenerConfig, is_secret
from gateway.config.sources import Leaf, Table, Tables
from protocols.server import ProtocolServer, UnknownProtocolError, load_protocol, protocol_names

SECTION_GROUP: Final = "gateway.sections"


def section_types() -> dict[str, type[Any]]:
    """The dataclass of each section that an installed distribution adds."""
    return {entry.name: entry.load() for entry in entry_points(group=SECTION_GROUP)}


def default_listeners() -> Tables:
    """The listeners of a configuration that names none."""
    return Tables("default", [Table("default", _leaves(values)) for values in DEFAULT_LISTENERS])


def is_secret_key(keys: list[str]) -> bool:
    """Whether the value of a key, given in its parts, is or contains a secret."""
    if len(keys) != 2:
        return False
    table, key = keys
    cls = _own_tables(section_types()).get(table)
    if cls is None and table in protocol_names():
        try:
            cls = load_protocol(table).ServerOptions
        except ImportError:  # which is a fault of the table, and shown as such
            return False
    return cls is not None and any(item.name == key and is_secret(item) for item in fields(cls))


class Assembler:
    """Builds a `Config` out of the tree of what was written. `builder` gets the faults."""

    def __init__(self, root: Table, builder: Builder) -> None:
        self._root = root
        self._builder = builder
        self._servers: dict[str, type[ProtocolServer]] = {}
        """Of each protocol that has a listener or a table; no other is loaded."""

    def config(self) -> Config | None:
        """The configuration; None if anything in it was at fault."""
        sections = section_types()
        protocol_tables = protocol_names() - _own_tables(sections).keys()
        listeners = self._listeners()
        for name in sorted(protocol_tables & self._root.items.keys() - self._servers.keys()):
            self._load(name, self._root.items[name].origin, name)
        protocols = {name: self._server_options(name, server) for name, server in sorted(self._servers.items())}
        given = {
            "listeners": listeners,
            "protocols": MappingProxyType(protocols),
            "sections": MappingProxyType({name: self._table(name, cls) for name, cls in sorted(sections.items())}),
        }
        known = {"listeners", *protocol_tables, *sections}
        config: Config | None = self._builder.build(Config, self._root, given=given, known=known)
        return config

    def _load(self, protocol: str, origin: str, path: str) -> type[ProtocolServer] | None:
        try:
            self._servers[protocol] = load_protocol(protocol)
            return self._servers[protocol]
        except UnknownProtocolError as error:
            self._builder.fault(origin, f"{path}: {error}")
        except ImportError as error:
            self._builder.fault(origin, f"{path}: {protocol} cannot be loaded: {error}")
        return None

    def _server_options(self, name: str, server: type[ProtocolServer]) -> Any:
        place = f'a [[listeners]] table with protocol = "{name}"'
        return self._table(name, server.ServerOptions, elsewhere=_places(server.Options, place))

    def _table(self, name: str, cls: type[Any], elsewhere: Mapping[str, str] = MappingProxyType({})) -> Any:
        table = self._root.items.get(name, Table("default"))
        if isinstance(table, Table):
            return self._builder.build(cls, table, name, elsewhere=elsewhere)
        return self._builder.fault(table.origin, f"{name}: expected a table [{name}]")

    def _listeners(self) -> tuple[ListenerConfig, ...]:
        node = self._root.items["listeners"]
        if isinstance(node, Leaf) and node.value == []:
            self._builder.fault(node.origin, "listeners: there must be at least one")
            return ()
        if not isinstance(node, Tables):
            self._builder.fault(node.origin, "listeners: expected tables, each headed [[listeners]]")
            return ()
        listeners = []
        seen: dict[str, str] = {}
        for index, table in enumerate(node.items):
            path = f"listeners.{index}"
            listener = self._listener(table, path)
            if listener is None:
                continue
            listeners.append(listener)
            if listener.bind is None:
                continue
            taken_at = seen.setdefault(listener.bind, table.origin)
            if taken_at is not table.origin and not listener.bind.endswith(":0"):
                self._builder.fault(table.origin, f"{path}.bind: {listener.bind} is another listener's, at {taken_at}")
        return tuple(listeners)

    def _listener(self, table: Table, path: str) -> ListenerConfig | None:
        """A listener; the keys that are not every listener's are those of its protocol."""
        own = {item.name for item in fields(ListenerConfig)} - {"options"}
        common = Table(table.origin, {key: node for key, node in table.items.items() if key in own})
        rest = Table(table.origin, {key: node for key, node in table.items.items() if key not in own})
        given: dict[str, Any] = {"options": None}
        match common.items.get("protocol"):
            case Leaf(value=str(protocol), origin=origin):
                server = self._load(protocol, origin, f"{path}.protocol")
                if server is not None:
                    elsewhere = _places(server.ServerOptions, f"the table [{protocol}]")
                    given["options"] = self._builder.build(server.Options, rest, path, known=own, elsewhere=elsewhere)
                    if not server.listens:
                        given["bind"] = None
                        self._refuse_bind(protocol, common, path)
        listener: ListenerConfig | None = self._builder.build(ListenerConfig, common, path, given=given, known=given)
        return listener

    def _refuse_bind(self, protocol: str, common: Table, path: str) -> None:
        for key in common.items:
            if key != "protocol":
                origin = common.items[key].origin
                self._builder.fault(origin, f"{path}.{key}: {protocol} does not listen, it connects")


def _own_tables(sections: Mapping[str, type[Any]]) -> dict[str, type[Any]]:
    """The dataclass of each table that is neither a protocol's nor a listener, by its name."""
    own = {name: cls for name, cls in get_type_hints(Config).items() if isinstance(cls, type) and is_dataclass(cls)}
    return {**own, **sections}


def _places(cls: type[Any], place: str) -> dict[str, str]:
    return {item.name: place for item in fields(cls)}


def _leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: Leaf(value, "default") for key, value in values.items()}
