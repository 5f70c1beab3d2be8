"""Every line that a peer can cause goes through its share of the log; others that may come often are limited too
(protocols.log_lines: PeerLog, RateLimitedLog)."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("protocols", "gateway", "devices", "project")
LEVELS: Final = {"info", "warning", "warn", "error", "exception", "critical", "fatal", "log"}
LIMITED: Final = {"PeerLog": {"peer_log", "_peers"}, "RateLimitedLog": {"_limited_log"}}
"""What the loggers that are limited are called, by their class."""
NAMES: Final = frozenset().union(*LIMITED.values())

NOT_OF_PEERS: Final = {
    "protocols/log_lines.py PeerLog.log": "this is the limit",
    "protocols/log_lines.py RateLimitedLog._log": "this is the limit",
    "protocols/log_lines.py PeerLog._summarise": "one a minute",
    "protocols/http/connection.py HttpConnection.end_response": "the access log, which the operator asks for",
    "protocols/handshake.py HandshakingListener._accept": "no descriptor is free: one a second",
    "protocols/tls.py ServerContext.reload": "an operator has renewed a certificate",
    "protocols/mqtt/server.py MqttServer._restore": "at the start",
    "protocols/mqtt/statistics.py DropReport.add": "one a minute for each bound",
    "protocols/mqtt/storage/committer.py Committer._failed": "once, when the process has lost its store",
    "protocols/durable_sqlite.py set_aside_log": "the database file was replaced",
    "protocols/mqtt/storage/committer.py Committer._note_success": "once after each failure",
    "protocols/bridge/bridge.py Bridge._run": "waits longer and longer between attempts",
    "protocols/bridge/bridge.py Bridge._wait": "waits longer and longer between attempts",
    "protocols/bridge/bridge.py Bridge._use": "waits longer and longer between attempts",
    "gateway/dispatch/threads.py": "the database",
    "gateway/worker.py Worker._receive": "waits between attempts",
    "gateway/worker.py Worker._run_until_signal": "at the start",
    "gateway/layers/dropped.py": "adds up, a line an interval",
    "gateway/layers/redis/presence.py": "Redis: a line a round",
    "gateway/layers/presence.py": "Redis",
    "gateway/layers/base.py": "waits between attempts",
    "gateway/layers/redis/connection.py": "Redis, as it comes and goes",
    "gateway/layers/redis/layer.py": "Redis, as it comes and goes",
    "gateway/serve/supervisor.py": "start and stop",
    "gateway/lifespan.py": "start and stop",
    "gateway/serve/control.py": "an operator's command",
    "gateway/serve/certificate_renewal.py": "an operator has renewed a certificate",
    "gateway/serve/data_dir.py _make_private": "at the start",
    "gateway/mqtt/relay.py relayed_to_broker.deliver": "a program of the operator's",
    "devices/deletion.py _log_finished": "an operator's order",
    "devices/ingest.py Ingest._store": "once after each failure",
    "devices/ingest.py Ingest._start_over": "the database file was replaced",
    "gateway/serve/data_dir.py": "at the start",
    "devices/presence.py PresenceRecorder.close": "at the end",
    "devices/failures.py Failures.over": "once after each failure",
}
"""By file, class and function, or what it begins with: why no peer can have it logged as often as it likes."""


def calls() -> Iterator[tuple[str, int]]:
    """Where something is logged by a logger that is not limited: (file and function, line)."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "testing" not in path.parts:
                yield from _calls_in(ast.parse(path.read_text()), str(path.relative_to(ROOT)), [])


def _calls_in(node: ast.AST, file: str, names: list[str]) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        names = [*names, node.name]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
        target = ast.unparse(node.func.value)
        is_logger = "log" in target.lower() and "math" not in target
        if is_logger and target.rpartition(".")[2] not in NAMES:
            yield f"{file} {'.'.join(names)}", node.lineno
    for child in ast.iter_child_nodes(node):
        yield from _calls_in(child, file, names)


def test_a_line_that_is_not_within_a_share_has_a_reason() -> None:
    unlimited = [
        f"{where}, line {line}"
        for where, line in calls()
        if not any(where == known or where.startswith((f"{known} ", f"{known}.")) for known in NOT_OF_PEERS)
    ]

    assert unlimited == [], (
        "use a PeerLog or a RateLimitedLog, or say in NOT_OF_PEERS why no peer can have it logged at will"
    )


def test_each_reason_is_of_something_that_is_there() -> None:
    there = [where for where, _ in calls()]

    assert [
        known
        for known in NOT_OF_PEERS
        if not any(where == known or where.startswith((f"{known} ", f"{known}.")) for where in there)
    ] == []


def test_limited_loggers_have_the_names_by_which_this_test_knows_them() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
                    known = LIMITED.get(ast.unparse(node.value.func).rpartition(".")[2])
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names = {ast.unparse(target).rpartition(".")[2] for target in targets}
                    assert not names & NAMES if known is None else names <= known, path
