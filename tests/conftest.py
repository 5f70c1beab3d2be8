"""Fixtures for all tests: each real server lives in its own module of tests/support."""

import os
import signal
import sys

import pytest

from protocols.log_lines import log_shares

# In the order in which they import each other: pytest rewrites the assertions of a module when it is first imported.
pytest_plugins = [
    "tests.support.redis",
    "tests.support.layers",
    "tests.support.redis_layers",
    "tests.support.postgres",
    "tests.support.databases",
    "tests.support.serving",
    "tests.support.mqtt_js",
    "tests.support.thingsboard_sdk",
]


# Tests start some hundreds of gateways: each takes 2.2 s of a processor if it has to compile all modules, else 0.8 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_configure() -> None:
    """Started in the background by a shell, we ignore SIGINT; so would every program that a test is to interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests in a browser last: from the first of them on, Playwright keeps a loop running in this thread."""
    items.sort(key=lambda item: "e2e" in item.path.parts)


@pytest.fixture(scope="session")
def django_db_modify_db_settings_xdist_suffix() -> None:
    """Does nothing: the test database is in memory, so each worker of pytest-xdist has its own, whatever its name."""


@pytest.fixture(autouse=True)
def log_shares_as_new() -> None:
    """All tests are one peer: what one has logged is not to keep the next from it."""
    log_shares.forget()
