"""A name that begins with an underscore is of its package: others use what is public, or a public name is missing."""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("protocols", "gateway", "devices", "project")
FOREIGN = {"_meta", "_state"}
"""Names of Django's models, which its documentation allows."""

sources = {
    package: {path: ast.parse(path.read_text()) for path in sorted((ROOT / package).rglob("*.py"))}
    for package in PACKAGES
}


def is_private(name: str) -> bool:
    return name.startswith("_") and name != "_" and not name.endswith("__")


def defined_in(package: str) -> set[str]:
    """The private names that the modules of a package define: functions, classes, variables and attributes."""
    names = set()
    for tree in sources[package].values():
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    names.add(name)
                case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                    names.add(name)
    return {name for name in names if is_private(name)}


defined = {package: defined_in(package) for package in PACKAGES}


def borrowed_by(package: str) -> Iterator[str]:
    """Each use of a private name that only other packages define, as "path:line name"."""
    of_others = set().union(*(defined[other] for other in PACKAGES if other != package))
    foreign = of_others - defined[package] - FOREIGN
    for path, tree in sources[package].items():
        for node in ast.walk(tree):
            match node:
                case ast.ImportFrom(module=str(module)) if module.split(".")[0] in PACKAGES:
                    names = [*module.split("."), *(alias.name for alias in node.names)]
                    used = [name for name in names if is_private(name) and module.split(".")[0] != package]
                case ast.Attribute(attr=name):
                    used = [name] if name in foreign else []
                case _:
                    continue
            yield from (f"{path.relative_to(ROOT)}:{node.lineno} {name}" for name in used)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_uses_no_private_name_of_another(package: str) -> None:
    assert list(borrowed_by(package)) == []


@pytest.mark.parametrize("package", PACKAGES[1:])
def test_a_class_overrides_no_private_name_of_a_base_in_another_package(package: str) -> None:
    modules = pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
    classes = {
        value
        for info in modules
        if ".migrations." not in info.name and not info.name.endswith("__main__")
        for value in vars(importlib.import_module(info.name)).values()
        if isinstance(value, type) and value.__module__.partition(".")[0] == package
    }
    assert classes or package == "project"

    overridden = [
        f"{cls.__module__}.{cls.__qualname__}.{name}, of {base.__module__}.{base.__qualname__}"
        for cls in classes
        for base in cls.__mro__
        if base.__module__.partition(".")[0] in set(PACKAGES) - {package}
        for name in vars(cls).keys() & vars(base).keys()
        # What a class statement writes by itself: the tables that AsyncConsumer makes for each of its subclasses.
        if is_private(name) and not name.startswith(("_gateway_events", "_gateway_handlers", "_gateway_topics"))
    ]

    assert overridden == []


def test_a_private_name_of_another_package_would_be_found() -> None:
    """So that the tests above do not pass for want of looking."""
    assert "_note_all_taken" in defined["protocols"]
    path = ROOT / "devices" / "example.py"
    sources["devices"][path] = ast.parse("from protocols.inbox import _NO_MESSAGES\n\ninbox._note_all_taken()\n")
    try:
        found = list(borrowed_by("devices"))
    finally:
        del sources["devices"][path]

    assert found == ["devices/example.py:1 _NO_MESSAGES", "devices/example.py:3 _note_all_taken"]
