"""Reason codes of MQTT have names: none is written as a bare integer where one is given, compared or defined."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.mqtt import ReasonCode, is_failure

ROOT = Path(__file__).parents[2]

FAILURES = {code.value for code in ReasonCode if is_failure(code)}

HOME = {"protocols/mqtt/codec/packets.py", "protocols/mqtt/codec/reason_codes.py"}
"""Where the codes are defined, and which packet may carry which."""

NO_MQTT = ("protocols/http/", "protocols/proxy_protocol.py")


BITS = "protocols/mqtt/codec/"
"""Where a hexadecimal number may be bits of a packet."""


def bare_codes(source: str, path: str = "") -> Iterator[tuple[int, str]]:
    """(line, text) of each integer that is a failure's reason code: by the way it is written, as two hexadecimal
    digits, or by what it is given to, compared with or looked up as."""
    for node in ast.walk(ast.parse(source)):
        for number in _numbers(node):
            text = ast.get_source_segment(source, number) or ""
            if (text.lower().startswith("0x") and not path.startswith(BITS)) or "code" in _about(node, number).lower():
                yield number.lineno, text


def _numbers(node: ast.AST) -> Iterator[ast.Constant]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Constant) and type(child.value) is int and child.value in FAILURES:
            yield child


def _about(node: ast.AST, number: ast.Constant) -> str:
    """What the code around the number calls it."""
    match node:
        case ast.keyword(arg=str(name)):
            return name
        case ast.Compare():
            return " ".join(ast.unparse(side) for side in (node.left, *node.comparators) if side is not number)
        case ast.Assign() | ast.AnnAssign():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return " ".join(map(ast.unparse, targets))
        case ast.Dict():
            return " ".join(
                ast.unparse(key) for key, value in zip(node.keys, node.values, strict=True) if key and value is number
            )
        case ast.Call(args=[ast.Constant(value=str(key)), *_]):
            return key
        case ast.Call(func=ast.Name(id="Reject" | "RefusedError")):
            return "code"
        case ast.arguments():
            with_default = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
            pairs = [
                *zip(with_default, node.defaults, strict=True),
                *zip(node.kwonlyargs, node.kw_defaults, strict=True),
            ]
            return " ".join(argument.arg for argument, default in pairs if default is number)
    return ""


def sources() -> Iterator[str]:
    for package in ("protocols", "gateway", "devices"):
        for file in (ROOT / package).rglob("*.py"):
            path = file.relative_to(ROOT).as_posix()
            if path not in HOME and not path.startswith(NO_MQTT):
                yield path


def test_no_reason_code_is_written_as_a_bare_integer() -> None:
    found = [
        f"{path}:{line}: {text}" for path in sources() for line, text in bare_codes((ROOT / path).read_text(), path)
    ]

    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "NOT_AUTHORIZED = 0x87",
        "raise Reject(135)",
        "send(reason_code=135)",
        'event = {"type": "mqtt.reject", "reason_code": 135}',
        'code = event.get("reason_code", 152)',
        "if code >= 128: pass",
        "def reject(reason_code=135): pass",
        "def reject(*, reason_code=135): pass",
        "_FAILURE = 0x80",
    ],
)
def test_a_bare_reason_code_is_found(source: str) -> None:
    assert list(bare_codes(source))


@pytest.mark.parametrize(
    "source", ["SLICE = 128", "if len(topic) <= 128: pass", "close(code=1011)", "status(code=404)"]
)
def test_another_integer_is_not_taken_for_a_reason_code(source: str) -> None:
    assert not list(bare_codes(source))
