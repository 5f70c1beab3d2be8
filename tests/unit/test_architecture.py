"""docs/ARCHITECTURE.md names files that are there, and every folder of the packages."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
PACKAGES = ("protocols", "gateway", "devices", "project")
FILES = sorted(set(re.findall(r"`([\w/]+\.py)`", PAGE)))
FOLDERS = sorted(
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*")
    if (path / "__init__.py").exists() and path.name not in ("management", "commands", "migrations", "templatetags")
)


@pytest.mark.parametrize("name", [name for name in FILES if "NAME" not in name])
def test_a_file_that_the_page_names_is_there(name: str) -> None:
    assert list(ROOT.glob(f"{name}")) or [
        path for package in PACKAGES for path in (ROOT / package).rglob(name.rpartition("/")[2]) if path.match(name)
    ]


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_every_folder_of_modules_is_on_the_page(folder: Path) -> None:
    assert re.search(rf"`(?:[\w/]+/)?{folder.name}/`", PAGE), folder
