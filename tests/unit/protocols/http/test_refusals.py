"""Every refusal of the HTTP wire has a status, a reason in words and a counter; and none is left that nobody makes."""

import ast
import re
from http import HTTPStatus
from pathlib import Path

import pytest

from protocols.bytes_in_hand import MAX_IN_ALL, MAX_PER_ADDRESS
from protocols.http.aiohttp_parsers import BadRequestError
from protocols.http.refusals import REFUSALS, Refusal
from protocols.limits import MAX_PER_ADDRESS as MAX_CONNECTIONS_PER_ADDRESS

PROTOCOLS = Path(__file__).parents[4] / "protocols"
MAKERS = (Refusal.__name__, BadRequestError.__name__)


def made_in_the_code() -> set[str]:
    """The reasons with which the modules of the wire make refusals, as literals and as constants of other modules."""
    found = {MAX_IN_ALL, MAX_PER_ADDRESS, MAX_CONNECTIONS_PER_ADDRESS, "too_many_connections"}
    for file in PROTOCOLS.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS:
                constants = [each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)]
                found |= {value for value in constants if re.fullmatch("[a-z0-9_]+", str(value))}
    return found


def test_the_table_has_each_that_is_made_and_no_other() -> None:
    assert made_in_the_code() == set(REFUSALS)


@pytest.mark.parametrize("reason", REFUSALS)
def test_each_has_a_status_and_says_why(reason: str) -> None:
    refusal = Refusal(reason)

    assert 400 <= HTTPStatus(refusal.status) < 600
    assert len(refusal.text) > 10 or reason.startswith("application")  # whose reason is its own
