"""That what devices are refused is in one table, and how a bridge takes it."""

import ast
from pathlib import Path

import pytest

import devices
from devices.consumers.bridge import BridgeMqttConsumer
from devices.refusals import MessageRefusal, RefusedError
from gateway.exceptions import Reject

PACKAGE = Path(devices.__file__).parent

NOT_OF_MESSAGES = {"subscribe"}
"""Functions that refuse something else: a filter."""


class Rejects(ast.NodeVisitor):
    """Finds where a bare Reject is made, by the innermost function."""

    def __init__(self) -> None:
        self.function = ""
        self.found: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outer, self.function = self.function, node.name
        self.generic_visit(node)
        self.function = outer

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func).rpartition(".")[2] == Reject.__name__:
            self.found.append(self.function)
        self.generic_visit(node)


def test_nothing_in_the_product_refuses_a_message_but_by_the_table() -> None:
    """One that is in it is tried on all wires: tests/integration/devices/test_refusals.py."""
    for path in PACKAGE.rglob("*.py"):
        rejects = Rejects()
        rejects.visit(ast.parse(path.read_text()))
        assert set(rejects.found) <= NOT_OF_MESSAGES, path


@pytest.mark.parametrize("refusal", MessageRefusal)
def test_each_has_words_of_every_wire(refusal: MessageRefusal) -> None:
    error = RefusedError(refusal, "why")

    assert 0x80 <= error.reason_code <= 0xFF
    assert 400 <= refusal.status < 600
    assert (error.reason_string, error.text) == ("why", "why")


def test_no_two_are_counted_as_one() -> None:
    reasons = [refusal.reason for refusal in MessageRefusal]

    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize("refusal", MessageRefusal)
def test_a_bridge_drops_each_and_no_failure_of_ours(refusal: MessageRefusal) -> None:
    """Upstream can do nothing about it, and one device must not end the connection of all."""
    bridge = BridgeMqttConsumer()

    assert bridge.drops(RefusedError(refusal, "why"))
    assert not bridge.drops(Reject(0x83))
