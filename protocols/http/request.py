"""From a parsed request head to an ASGI scope, or to a refusal. Sans I/O."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from protocols.addresses import parse_node
from protocols.asgi import ASGI_VERSION, HTTP_SPEC_VERSION, WEBSOCKET_SPEC_VERSION, Scope
from protocols.http.aiohttp_parsers import RequestHead
from protocols.http.refusals import Refusal
from protocols.trusted_peers import TrustedPeers

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

_ABSOLUTE_FORM: Final = re.compile(r"(?:https?|wss?)://(?P<authority>[^/?]*)(?P<rest>.*)", re.IGNORECASE)

_FORBIDDEN: Final = bytes({*range(0x20), 0x7F, 0x85} - {0x09})
"""Control bytes: line breaks to somebody down the line [RFC 9110 §5.5]. 0x85 is one to `str.splitlines`, and the only
one that the parser lets through."""

_COMMON_NAMES: Final = """
    Accept Accept-Encoding Accept-Language Authorization Cache-Control Connection Content-Length Content-Type Cookie
    DNT Expect Host If-None-Match If-Modified-Since Last-Event-ID Origin Pragma Referer Sec-Fetch-Dest Sec-Fetch-Mode
    Sec-Fetch-Site Sec-WebSocket-Extensions Sec-WebSocket-Key Sec-WebSocket-Protocol Sec-WebSocket-Version
    Transfer-Encoding Upgrade Upgrade-Insecure-Requests User-Agent X-CSRFToken X-Forwarded-For X-Forwarded-Host
    X-Forwarded-Proto
"""


class _LoweredNames(dict[bytes, bytes]):
    """Header names in lower case: one object per name, instead of one per header and connection."""

    LARGEST: Final = 1024

    def __missing__(self, name: bytes) -> bytes:
        lower = name.lower()
        if len(self) < self.LARGEST and len(name) <= 64:
            self[name] = self.setdefault(lower, lower)
        return lower


_lowered_names = _LoweredNames({name.lower().encode(): name.lower().encode() for name in _COMMON_NAMES.split()})

Headers = list[tuple[bytes, bytes]]


def refusal_of(head: RequestHead) -> Refusal | None:
    """What is wrong with a head that the parser let pass; None if nothing is."""
    major, minor = head.version
    if major != 1 or minor > 1:
        return Refusal("http_version")
    if head.chunked and not minor:  # faulty framing, says RFC 9112 §6.1: a proxy may read another request from it
        return Refusal("chunked_http_10")
    if head.chunked and head.headers["Transfer-Encoding"].lower() != "chunked":  # after gzip, say; RFC 9112 §6.1
        return Refusal("transfer_coding")
    if head.method == "CONNECT":
        return Refusal("connect")
    path = head.path
    if "#" in path or not path.isascii():
        return Refusal("bad_target")
    host = head.headers.get("Host")
    if host is None:
        if minor:
            return Refusal("bad_host")
    elif not _is_host(host):
        return Refusal("bad_host")
    values = b"".join([value for _, value in head.raw_headers])
    if len(values.translate(None, _FORBIDDEN)) != len(values):
        return Refusal("control_byte")
    return None


@lru_cache(maxsize=256)
def _is_host(value: str) -> bool:
    return _HOST.fullmatch(value) is not None


def lowered(raw_headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers as a scope has them: names in lower case, values as they came."""
    names = _lowered_names
    return [(names[name], value) for name, value in raw_headers]


Target: TypeAlias = tuple[str, bytes, bytes, bytes | None]
"""A request target (RFC 9112 §3.2) as a scope has it: path, raw_path, query_string; and the authority of an
absolute-form target, which wins over the Host header (RFC 9112 §3.2.2). A plain tuple: made for each request."""


def split_target(target: str) -> Target | None:
    """Takes a target apart; None if it is of a form that a server is not sent."""
    host: bytes | None = None
    if not target.startswith("/"):
        if target == "*":
            return "*", b"*", b"", None
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        if absolute is None or not _is_host(absolute["authority"]):
            return None
        host = absolute["authority"].encode("ascii")
        rest = absolute["rest"]
        target = rest if rest.startswith("/") else "/" + rest
    raw_path, _, query = target.partition("?")
    path = unquote(raw_path) if "%" in raw_path else raw_path
    return path, raw_path.encode("ascii"), query.encode("ascii"), host


def http_scope(
    head: RequestHead,
    target: Target,
    headers: Headers,
    *,
    scheme: str,
    client: tuple[str, int] | None,
    server: tuple[str, int | None] | None,
    state: Mapping[str, Any],
    tls: Mapping[str, Any] | None,
) -> Scope:
    """The scope of one request (ASGI www, HTTP connection scope)."""
    return {
        "type": "http",
        "asgi": {"version": ASGI_VERSION, "spec_version": HTTP_SPEC_VERSION},
        "http_version": "1.1" if head.version == (1, 1) else "1.0",
        "method": head.method,
        "scheme": scheme,
        "path": target[0],
        "raw_path": target[1],
        "query_string": target[2],
        "root_path": "",
        "headers": headers,
        "client": client,
        "server": server,
        "state": dict(state),
        "extensions": {"tls": tls} if tls else {},
    }


def websocket_scope(http: Scope, subprotocols: Sequence[str]) -> Scope:
    """The scope of a WebSocket, from that of its upgrade request (ASGI www, WebSocket connection scope)."""
    scope = {key: value for key, value in http.items() if key != "method"}
    scope["type"] = "websocket"
    scope["asgi"] = {"version": ASGI_VERSION, "spec_version": WEBSOCKET_SPEC_VERSION}
    scope["scheme"] = "wss" if http["scheme"] == "https" else "ws"
    scope["subprotocols"] = list(subprotocols)
    scope["extensions"] = {**http["extensions"], "websocket.http.response": {}}
    return scope


class Forwarding:
    """Which peers are believed when they say for whom they speak, and what they say."""

    def __init__(self, trusted: Sequence[str]) -> None:
        """`trusted` as TrustedPeers has it. Raises ValueError."""
        self._trusted = TrustedPeers(trusted)

    def __bool__(self) -> bool:
        return bool(self._trusted)

    def apply(
        self, headers: Headers, client: tuple[str, int] | None, scheme: str
    ) -> tuple[tuple[str, int] | None, str]:
        """The client and scheme of a request whose connection comes from `client`.

        X-Forwarded-For is read from the right, past the proxies that are trusted: what stands further left is the
        client's own claim. A hop that is no address ("unknown") ends the walk: the last one that was read holds.
        """
        if client not in self._trusted:
            return client, scheme
        hops = b",".join([value for name, value in headers if name == b"x-forwarded-for"]).split(b",")
        for hop in reversed(hops):
            text = hop.strip().decode("latin-1")
            if not text:  # an empty element of a list counts for nothing (RFC 9110 §5.6.1.2)
                continue
            node = parse_node(text)
            if node is None:
                break
            client = node
            if not self._trusted.has_address(node[0]):
                break
        forwarded = [value for name, value in headers if name == b"x-forwarded-proto"]
        if forwarded:
            last = forwarded[-1].rsplit(b",", 1)[-1].strip().lower()
            scheme = {b"https": "https", b"wss": "https", b"http": "http", b"ws": "http"}.get(last, scheme)
        return client, scheme
