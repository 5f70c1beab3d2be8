"""Which test shows which normative statement of MQTT 3.1.1 and 5.0: the table in docs/mqtt-conformance.md.

    python tests/mqtt_conformance/table.py

writes the page from `statements.csv`, which has every statement by its number in words of our own and says whether it
binds this server, and from the marks of the tests:

    @pytest.mark.mqtt("MQTT5-3.1.0-1", "MQTT3-3.1.0-1")

Tests are read, not run. The malformed packets of tests/unit/protocols/mqtt/codec/vectors.py name the statements that
each breaks and count as well: they go to the decoder and to a real server.
"""

import ast
import csv
import runpy
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

TESTS: Final = Path(__file__).parent.parent
PAGE: Final = TESTS.parent / "docs" / "mqtt-conformance.md"

_VECTORS: Final = "tests/unit/protocols/mqtt/codec/vectors.py"

_HEAD: Final = """\
# Conformance with MQTT

Every normative statement of MQTT 5.0 and MQTT 3.1.1 that binds this server, by its number in the specification and in
our words, with the tests that show it. This page is written by `python tests/mqtt_conformance/table.py` from the marks
on the tests; a test fails when it is out of date, when a statement has no test, and when a mark names no statement.

A packet in quotation marks is one of those that a client must not send ({vectors}): each goes to the decoder, whole and
byte by byte, and to a server, which is to close the connection with the right reason, and to serve others meanwhile.

Not in the tables are {others} statements that bind clients only, or a server without retained messages or wildcards.
"""


class Statement(NamedTuple):
    """A row of `statements.csv`."""

    number: str
    binds_us: bool
    text: str


def statements() -> dict[str, Statement]:
    """All statements, by number, in the order of the specification."""
    with (Path(__file__).parent / "statements.csv").open(newline="") as file:
        rows = [Statement(row["statement"], row["binds_us"] == "yes", row["text"]) for row in csv.DictReader(file)]
    return {row.number: row for row in rows}


def marks() -> dict[str, list[str]]:
    """Number -> names of the tests that are marked with it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        file = path.relative_to(TESTS.parent).as_posix()
        for name, numbers in _marked(ast.parse(path.read_text()).body):
            for number in numbers:
                found[number].append(f"`{Path(file).stem}::{name}`")
    known = statements()
    for vector in runpy.run_path(str(TESTS.parent / _VECTORS))["INVALID"]:
        for number in vector.rule.split():
            if number in known:
                found[number].append(f"“{vector.name}”")
    return found


def _marked(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _marked(node.body, f"{prefix}{node.name}::")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            numbers = [number for decorator in node.decorator_list for number in _numbers(decorator)]
            if numbers:
                yield prefix + node.name, numbers


def _numbers(decorator: ast.expr) -> list[str]:
    if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func) != "pytest.mark.mqtt":
        return []
    return [ast.literal_eval(argument) for argument in decorator.args]


def page() -> str:
    """The page, as it should be."""
    found, known = marks(), statements()
    others = sum(not statement.binds_us for statement in known.values())
    parts = [_HEAD.format(vectors=_VECTORS, others=others)]
    for prefix, version in (("MQTT5", "5.0"), ("MQTT3", "3.1.1")):
        parts.append(f"\n## MQTT {version}\n\n| Statement | | Shown by |\n|---|---|---|\n")
        for number, statement in known.items():
            if number.startswith(prefix) and statement.binds_us:
                shown = "<br>".join(found.get(number, ()))
                parts.append(f"| {number.removeprefix(prefix + '-')} | {statement.text} | {shown} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
