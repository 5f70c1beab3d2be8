"""What the fixtures of conftest.py are, for the annotations of the tests."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from tests.integration.mqtt.paho_client import PahoClient
from tests.integration.mqtt.raw_client import RawClient

Address: TypeAlias = tuple[str, int]
Serve: TypeAlias = Callable[..., Awaitable[Address]]
OpenRaw: TypeAlias = Callable[..., Awaitable[RawClient]]
ConnectPaho: TypeAlias = Callable[..., Awaitable[PahoClient]]
