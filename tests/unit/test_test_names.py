"""Names of tests stand alone: in a list of failures there is no class and no neighbour that completes them."""

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

TESTS = Path(__file__).parents[1]
HALF = re.compile(
    "test_(also|and|are|but|does|gets|gives|has|have|is|its?|keeps|leaves|nor|not|of|or|reads|refuses|says|so|takes"
    "|tells|they|to|unless|was|were|writes)_"
)
"""How a sentence begins that another one has to have begun."""


def names_in(file: Path) -> Iterator[str]:
    """The names of the tests in a file, those of methods too."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        members = [node] if not isinstance(node, ast.ClassDef) else node.body if is_of_tests(node) else []
        for member in members:
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and member.name.startswith("test_"):
                yield member.name


def is_of_tests(node: ast.ClassDef) -> bool:
    return node.name.startswith("Test") or any(ast.unparse(base).endswith("TestCase") for base in node.bases)


NAMES = [(name, file) for file in sorted(TESTS.rglob("test_*.py")) for name in names_in(file)]


def test_no_name_is_the_rest_of_a_sentence() -> None:
    assert [(name, file) for name, file in NAMES if HALF.match(name)] == []


def test_every_name_is_there_once() -> None:
    groups = [[str(file) for _, file in group] for _, group in groupby(sorted(NAMES), key=lambda entry: entry[0])]

    assert [files for files in groups if len(files) > 1] == []
