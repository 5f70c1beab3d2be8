"""requirements/*.lock: everything that pyproject.toml asks for, pinned by hash, from nowhere in particular."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["postgres"]]
DEVELOPMENT = [*RUNTIME, *PROJECT["dependency-groups"]["dev"]]
BUILD = ["hatchling"]


def pinned(lock: str) -> dict[str, str]:
    """name -> version"""
    text = (ROOT / "requirements" / lock).read_text()
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.M)}


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("runtime.lock", RUNTIME + BUILD),
        ("dev.lock", DEVELOPMENT + BUILD),
        ("next.lock", DEVELOPMENT + BUILD),
    ],
)
def test_every_dependency_is_pinned_to_a_version_that_is_asked_for(lock: str, wanted: list[str]) -> None:
    versions = pinned(lock)

    for requirement in map(Requirement, wanted):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement


@pytest.mark.parametrize("lock", ["runtime.lock", "dev.lock", "next.lock"])
def test_every_pin_has_hashes_and_no_index_is_named(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()

    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)
    for entry in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry


def test_tests_run_on_what_is_shipped() -> None:
    development = pinned("dev.lock")

    assert pinned("runtime.lock").items() <= development.items()


def test_the_gateway_runs_on_the_long_term_support_release_and_is_tested_on_the_next() -> None:
    assert pinned("runtime.lock")["django"].startswith("5.2.")
    assert pinned("next.lock")["django"].startswith("6.")
