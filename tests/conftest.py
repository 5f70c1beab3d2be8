"""Fixtures for all tests: each real server lives in its own module of tests/support."""

# In the order in which they import each other: pytest rewrites the assertions of a module when it is first imported.
pytest_plugins = [
    "tests.support.redis",
    "tests.support.postgres",
    "tests.support.databases",
    "tests.support.serving",
]
