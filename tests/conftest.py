"""Fixtures for all tests: each real server lives in its own module of tests/support."""

pytest_plugins = ["tests.support.redis", "tests.support.serving"]
