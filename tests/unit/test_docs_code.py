"""The Python in the documentation runs: the blocks of a page one after the other, in one module."""

import re
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.asgi import get_asgi_application

from gateway.layers import InMemoryChannelLayer, channel_layers

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = sorted(path.name for path in DOCS.glob("*.md") if BLOCK.search(path.read_text()))


@pytest.fixture(autouse=True)
def _layer(settings: Any) -> Iterator[None]:
    settings.LOGGING_CONFIG = None
    old = channel_layers.set("default", InMemoryChannelLayer())
    yield
    channel_layers.backends.pop("default")
    if old is not None:
        channel_layers.set("default", old)


def module_of(page: str) -> ModuleType:
    """A module with the code of the page; each line has the number that it has in the page."""
    text = (DOCS / page).read_text()
    module = ModuleType("docs_page")
    sys.modules[module.__name__] = module
    for match in BLOCK.finditer(text):
        code = "\n" * text.count("\n", 0, match.start(1)) + match[1]
        exec(compile(code, str(DOCS / page), "exec"), vars(module))
    return module


@pytest.fixture(autouse=True)
def _forget_the_module() -> Iterator[None]:
    yield
    sys.modules.pop("docs_page", None)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_the_page_runs(page: str) -> None:
    module_of(page)


@pytest.mark.django_db(transaction=True)
def test_the_tests_that_the_page_on_testing_shows_pass(settings: Any) -> None:
    module = module_of("testing.md")
    vars(module)["application"] = get_asgi_application()
    settings.ASGI_APPLICATION = "docs_page.application"
    result = unittest.TestResult()

    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)

    assert [text for _, text in result.errors + result.failures] == []
    assert result.testsRun == 2
