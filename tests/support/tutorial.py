"""The tutorial's pages as what they say: files to write, lines to add, commands to run."""

import re
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "tutorial"

_BLOCK = re.compile(r"^(?P<lead>[^\n]*)\n\n```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """For each block: the line above it, its kind and its text."""
    found = [match.group("lead", "kind", "text") for match in _BLOCK.finditer((PAGES / page).read_text())]
    return [(lead, kind, text) for lead, kind, text in found]


def apply(page: str, project: Path) -> None:
    """Writes each file of the page into the project, and adds to the settings."""
    for lead, kind, text in blocks(page):
        if kind == "sh":
            continue
        named = re.fullmatch(r"(At the end of )?`([\w/.]+)`:", lead)
        assert named is not None, f"{page}: no file is named above:\n{text}"
        path = project / named[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() + "\n" if named[1] else "") + text)


def commands(page: str) -> list[str]:
    """The command lines of the page, in order."""
    return [line for _, kind, text in blocks(page) if kind == "sh" for line in text.splitlines()]
