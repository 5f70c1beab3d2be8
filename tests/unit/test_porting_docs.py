"""docs/coming-from-channels.md: what it says can be imported can be, and what is named elsewhere exists."""

import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "coming-from-channels.md"
MODULES = re.findall(r"^\| `(channels[\w.]*)` \| `(gateway[\w.]*)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)


def test_every_module_of_channels_that_users_import_from_is_in_the_table() -> None:
    assert {old for old, _, _ in MODULES} == {
        "channels",
        "channels.auth",
        "channels.consumer",
        "channels.db",
        "channels.exceptions",
        "channels.generic.http",
        "channels.generic.websocket",
        "channels.layers",
        "channels.middleware",
        "channels.routing",
        "channels.security.websocket",
        "channels.sessions",
        "channels.testing",
        "channels.utils",
        "channels.worker",
        "channels_redis.core",
        "channels_redis.pubsub",
        "channels_redis.serializers",
    }


@pytest.mark.parametrize(("module", "names"), [(new, names) for _, new, names in MODULES])
def test_every_name_of_the_table_is_there(module: str, names: str) -> None:
    found = import_module(module)
    for name in re.findall(r"`(\w+)`", names):
        assert hasattr(found, name), name
