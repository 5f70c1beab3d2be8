"""The decisions in docs/adr: each has a number of its own, which its heading repeats."""

import re
from pathlib import Path

PAGES = sorted((Path(__file__).parents[2] / "docs" / "adr").glob("*.md"))


def test_the_decisions_are_numbered_without_a_gap() -> None:
    assert [int(page.name[:4]) for page in PAGES] == list(range(1, len(PAGES) + 1))


def test_each_page_begins_with_its_number() -> None:
    for page in PAGES:
        heading = re.match(r"# (\d+)\. ", page.read_text())
        assert heading, page.name
        assert int(heading[1]) == int(page.name[:4]), page.name
