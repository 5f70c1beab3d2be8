"""Unit tests start no process: those that do are in tests/integration."""

import ast
from pathlib import Path

UNIT_TESTS = sorted(Path(__file__).parent.rglob("*.py"))
STARTERS = {"multiprocessing", "subprocess", "tests.support.django_project"}


def modules_imported_by(file: Path) -> set[str]:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            imported.add(node.module)
    return imported


def test_no_unit_test_starts_a_process() -> None:
    assert [file for file in UNIT_TESTS if modules_imported_by(file) & STARTERS] == []
