"""The types of ASGI 3.0, in the five names that the whole project is written in.

`mqtt.*` scopes and events are specified in docs/events.md; `http`, `websocket` and `lifespan` are those of the ASGI
specification (https://asgi.readthedocs.io/), in the versions given here.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

ASGI_VERSION: Final = "3.0"
HTTP_SPEC_VERSION: Final = "2.5"
WEBSOCKET_SPEC_VERSION: Final = "2.5"
LIFESPAN_SPEC_VERSION: Final = "2.0"
MQTT_SPEC_VERSION: Final = "1.0"
