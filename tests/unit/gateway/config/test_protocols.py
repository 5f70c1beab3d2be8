"""Options of protocols as a whole: `[mqtt]`, a table with the name of the protocol."""

import ast
import dataclasses
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path

import pytest

from gateway.config import ConfigError, ListenerConfig, load
from protocols import server
from protocols.mqtt.options import BrokerOptions
from protocols.server import ENTRY_POINT_GROUP, Listener, load_protocol

ROOT = Path(__file__).parents[4]
LISTENER = '[[listeners]]\nprotocol = "mqtt"\nbind = "127.0.0.1:1883"\n'
MOVED = [declared.name for declared in dataclasses.fields(BrokerOptions)]


def problems(text: str, environ: dict[str, str] | None = None, flags: tuple[str, ...] = ()) -> list[str]:
    Path("gateway.toml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(Path("gateway.toml"), environ=environ or {}, flags=flags)
    return [str(problem) for problem in raised.value.problems]


def test_the_table_of_a_protocol_sets_its_options_as_a_whole() -> None:
    Path("gateway.toml").write_text(LISTENER + "[mqtt]\nmax_sessions = 7\n")

    config = load(Path("gateway.toml"), environ={"GATEWAY_MQTT__STORE": "memory"}).config

    assert config.protocols["mqtt"] == BrokerOptions(max_sessions=7, store="memory")


def test_a_protocol_without_a_table_has_the_defaults() -> None:
    assert load(environ={}).config.protocols["mqtt"] == BrokerOptions()


@pytest.mark.parametrize("key", MOVED)
def test_a_key_of_the_broker_in_a_listener_is_refused_with_its_place(key: str) -> None:
    assert problems(f"{LISTENER}{key} = 1\n") == [f"gateway.toml:4: listeners.0.{key} is a key of the table [mqtt]"]


def test_the_environment_and_flags_are_told_the_same() -> None:
    environ, flags = {"GATEWAY_LISTENERS__0__MAX_SESSIONS": "1"}, ("listeners.0.sys_interval_s=1",)

    assert problems(LISTENER, environ, flags) == [
        "environment GATEWAY_LISTENERS__0__MAX_SESSIONS: listeners.0.max_sessions is a key of the table [mqtt]",
        "--set listeners.0.sys_interval_s: listeners.0.sys_interval_s is a key of the table [mqtt]",
    ]


def test_a_key_of_a_listener_in_the_table_of_its_protocol_is_refused_with_its_place() -> None:
    assert problems("[mqtt]\nallow_anonymous = true\n") == [
        'gateway.toml:2: mqtt.allow_anonymous is a key of a [[listeners]] table with protocol = "mqtt"'
    ]


def test_a_value_out_of_range_is_shown_where_it_was_written() -> None:
    assert problems("[mqtt]\n\nmax_sessions = 0\n") == ["gateway.toml:3: mqtt.max_sessions: must be at least 1, not 0"]


def test_a_protocol_without_options_as_a_whole_has_no_key() -> None:
    assert problems("[http]\nmax_conections = 1\n") == [
        'gateway.toml:2: unknown key "http.max_conections"; known here: none'
    ]


def test_a_secret_of_a_protocol_can_come_from_a_file() -> None:
    Path("store_url").write_text("redis://:secret@127.0.0.1:6379/1\n")

    config = load(environ={"GATEWAY_MQTT__STORE_FILE": "store_url"}).config

    assert config.protocols["mqtt"].store == "redis://:secret@127.0.0.1:6379/1"


@pytest.fixture
def broken_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A protocol "broken" is installed, in the place of all others, whose module cannot be imported."""
    offered = EntryPoints([EntryPoint("broken", "protocols.nowhere:Server", ENTRY_POINT_GROUP)])
    monkeypatch.setattr(server, "entry_points", lambda **selection: offered.select(**selection))


@pytest.mark.usefixtures("broken_plug_in")
def test_a_table_of_a_plug_in_that_cannot_be_loaded_is_a_fault() -> None:
    found = problems("listeners = []\n[broken]\n", {"GATEWAY_BROKEN__TOKEN_FILE": "absent"})

    assert found == [
        "gateway.toml:1: listeners: there must be at least one",
        "gateway.toml:2: broken: broken cannot be loaded: No module named 'protocols.nowhere'",
    ]


@pytest.mark.parametrize("entry", entry_points(group=ENTRY_POINT_GROUP), ids=lambda entry: entry.name)
def test_no_key_is_both_of_a_listener_and_of_its_protocol(entry: "object") -> None:
    cls = load_protocol(entry.name)  # type: ignore[attr-defined]
    of_listener = {declared.name for declared in dataclasses.fields(cls.Options)}

    assert of_listener.isdisjoint(declared.name for declared in dataclasses.fields(cls.ServerOptions))


def test_a_listener_made_by_code_has_the_defaults_of_the_configuration() -> None:
    by_code = {declared.name: declared.default for declared in dataclasses.fields(Listener)}
    configured = {declared.name: declared.default for declared in dataclasses.fields(ListenerConfig)}
    both = by_code.keys() & configured.keys() - {"bind", "options"}

    assert {name: by_code[name] for name in both} == {name: configured[name] for name in both}
    assert {"max_handshakes", "handshake_timeout_s", "proxy_protocol", "dead_peer_timeout_s"} <= both


SERVED = sorted((ROOT / "gateway" / "serve").glob("*.py")) + sorted((ROOT / "gateway" / "config").glob("*.py"))
NAMED = {
    "supervisor.py": {"http"},  # the scheme of the page's address
    "model.py": {"http", "mqtt"},  # the listeners of a gateway without any, as a file would have them; and that scheme
    "review.py": {"http", "mqtt"},  # that of browsers, which Django answers by host names; and the scheme of a URL
}


@pytest.mark.parametrize("file", SERVED, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_runs_servers_and_reads_their_options_names_no_protocol(file: Path) -> None:
    names = {entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}
    strings = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}

    assert strings & names == NAMED.get(file.name, set())
