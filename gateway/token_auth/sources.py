"""Where a connection's token is, for gateway.token_auth.middleware; and how it is kept out of logs."""

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_plus

from protocols.asgi import Scope

HEADER: Final = "header"
SUBPROTOCOL: Final = "subprotocol"
FIRST_MESSAGE: Final = "first_message"
MQTT: Final = "mqtt"
QUERY: Final = "query"

SOURCES: Final = frozenset({HEADER, SUBPROTOCOL, FIRST_MESSAGE, MQTT})


@dataclass(frozen=True, slots=True)
class Found:
    """A token and the source that it came from; "" for one that cannot be read."""

    source: str
    token: str = field(repr=False)


def find(
    scope: Scope, sources: Collection[str], query_parameter: str | None, *, password: bytes | None = None
) -> Found | None:
    """The token of `scope`, from the first source that has one."""
    if scope["type"] == "mqtt":
        return _in_connect(scope, password) if MQTT in sources else None
    if HEADER in sources:
        found = _in_header(scope)
        if found is not None:
            return found
    if SUBPROTOCOL in sources:
        offered = list(scope.get("subprotocols") or [])
        if len(offered) > 1 and offered[0] == "bearer":
            return Found(SUBPROTOCOL, offered[1])
    if query_parameter is not None:
        for name, value in _parameters(scope):
            if name == query_parameter:
                return Found(QUERY, value)
    return None


def _in_header(scope: Scope) -> Found | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return Found(HEADER, token.strip())
    return None


def _in_connect(scope: Scope, password: bytes | None) -> Found | None:
    if password is None:
        return Found(MQTT, scope["username"]) if scope["username"] is not None else None
    try:
        return Found(MQTT, password.decode())
    except UnicodeDecodeError:
        return Found(MQTT, "")


def _parameters(scope: Scope) -> list[tuple[str, str]]:
    pairs = [pair.partition("=") for pair in scope.get("query_string", b"").decode("latin-1").split("&")]
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]


def without_parameter(scope: Scope, query_parameter: str | None) -> Scope:
    """A copy of `scope` whose query string lacks that parameter."""
    scope = dict(scope)
    if query_parameter is not None and scope.get("query_string"):
        parts = scope["query_string"].split(b"&")
        names = [unquote_plus(part.partition(b"=")[0].decode("latin-1")) for part in parts]
        kept = [part for part, name in zip(parts, names, strict=True) if name != query_parameter]
        scope["query_string"] = b"&".join(kept)
    return scope


class HideQueryParameter(logging.Filter):
    """Masks a parameter of query strings in log records: for the access log of a server that writes query strings.

    `logging.getLogger("uvicorn.access").addFilter(HideQueryParameter("token"))`; our own servers write none.
    """

    def __init__(self, parameter: str) -> None:
        super().__init__()
        self._pattern = re.compile(rf"([?&]{re.escape(parameter)}=)[^&\s\"']*")

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record; lets every one through."""
        record.msg = self._mask(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(self._mask(argument) for argument in record.args)
        return True

    def _mask(self, value: Any) -> Any:
        return self._pattern.sub(r"\1***", value) if isinstance(value, str) else value
