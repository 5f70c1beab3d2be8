"""The README and its neighbours: links that lead somewhere, commands that exist, the lines that the gateway prints."""

import re
from pathlib import Path

import pytest

from project.management.commands.first_run import first_steps

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z]+)\b", page.read_text(), re.MULTILINE))
        assert named <= targets, page


def test_the_first_message_in_the_readme_is_the_one_that_the_gateway_prints() -> None:
    printed = first_steps(["http://127.0.0.1:8000", "mqtt://127.0.0.1:1883"], ".venv/bin/gateway", "password")
    block = re.search(r"```sh\n(TOKEN=.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

    assert block is not None
    for line in block[1].strip().splitlines():
        assert f"    {line}\n" in printed
