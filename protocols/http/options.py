"""What can be set of an HTTP listener, and the bounds that cannot."""

from dataclasses import dataclass, fields
from typing import Final

from protocols.http.aiohttp_parsers import MAX_MESSAGE_BYTES
from protocols.options import check_options, option
from protocols.trusted_peers import check_networks


def _check_header(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError(f"must be printable ASCII, not {value!r}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """The keys of a `[[listeners]]` table with `protocol = "http"`. Raises ValueError for values out of range."""

    max_connections: int = option(10_000, "open connections, WebSockets included; one more is answered 503", at_least=1)
    max_connections_per_address: int = option(
        1_000,
        "of these, from one address (an IPv6 /64); one more is answered 503; 0: no limit. Peers of a Unix socket and"
        " trusted proxies have no such limit",
        at_least=0,
    )
    max_target_bytes: int = option(
        8_192, "length of a request target (path and query); more is answered 431", at_least=1
    )
    max_header_bytes: int = option(8_192, "length of one header, name and value; more is answered 431", at_least=1)
    max_headers: int = option(100, "headers of a request; more are answered 431", at_least=1)
    max_body_bytes: int = option(
        2_621_440,
        "length of a request body; more is answered 413. Applications may have lower bounds of their own",
        at_least=1,
    )
    max_body_bytes_per_address: int = option(
        16 * 1024 * 1024,
        "bytes of requests and of unfinished WebSocket messages in hand of one address (an IPv6 /64); more is answered"
        " 503. Peers of a Unix socket and trusted proxies have no such limit",
        at_least=1,
    )
    max_body_bytes_in_all: int = option(128 * 1024 * 1024, "the same, of all; more is answered 503", at_least=1)
    min_body_bytes_per_s: int = option(
        500, "how fast a request body or a WebSocket message must come; see body_timeout_s", at_least=1
    )
    head_timeout_s: float = option(
        10.0, "time for the head of a request to come in full, from its first byte", more_than=0
    )
    body_timeout_s: float = option(
        30.0,
        "how long a request body or a WebSocket message may be behind min_body_bytes_per_s; 408, or close code 1008",
        more_than=0,
    )
    request_timeout_s: float = option(
        300.0, "time for a request body to come in full, however fast it comes; 408. 0: no limit", at_least=0
    )
    keep_alive_s: float = option(75.0, "time that a connection is kept without a request", more_than=0)
    write_timeout_s: float = option(20.0, "time for a client to take what it is sent before it is cut off", more_than=0)
    websocket_handshake_timeout_s: float = option(10.0, "time for the application to accept a WebSocket", more_than=0)
    websocket_max_message_bytes: int = option(
        1024 * 1024, "length of a WebSocket message; more is closed with 1009", at_least=1, at_most=MAX_MESSAGE_BYTES
    )
    websocket_ping_interval_s: float = option(
        20.0, "silence after which a WebSocket client is sent a ping, and each time again; 0: never", at_least=0
    )
    websocket_ping_timeout_s: float = option(
        20.0, "time for the answer to a ping before the WebSocket is closed", more_than=0
    )
    trusted_proxies: tuple[str, ...] = option(
        (),
        'networks whose X-Forwarded-For and X-Forwarded-Proto are believed; "unix": peers of a unix socket',
        check=check_networks,
    )
    server_header: str = option("fieldgate", "value of the Server header; empty: none", check=_check_header)
    access_log: bool = option(False, "one line per response on the logger gateway.access")

    def __post_init__(self) -> None:
        check_options(self)
        if not self.max_body_bytes <= self.max_body_bytes_per_address <= self.max_body_bytes_in_all:
            raise ValueError("max_body_bytes, max_body_bytes_per_address and max_body_bytes_in_all must be ascending")

    @property
    def shortest_timeout_s(self) -> float:
        """What the tick of the server's clock must resolve."""
        timeouts = [
            getattr(self, declared.name)
            for declared in fields(self)
            if declared.name.endswith("_s") and not declared.name.endswith("_per_s")
        ]
        return float(min(timeout for timeout in timeouts if timeout))


MAX_HEAD_BYTES: Final = 64 * 1024
"""All of a request's head: what `max_headers` of `max_header_bytes` would be is more than anybody needs to hold."""

PIPELINE_BYTES: Final = 64 * 1024
"""How much a client may send ahead of the response it waits for before its socket is no longer read."""
