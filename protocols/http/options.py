"""What can be set of an HTTP listener, and the bounds that cannot."""

from dataclasses import dataclass, field, fields
from typing import Any, Final

from protocols.http.aiohttp_parsers import MAX_MESSAGE_BYTES
from protocols.http.request import Forwarding


def _option(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """The keys of a `[[listeners]]` table with `protocol = "http"`. Raises ValueError for values out of range."""

    max_connections: int = _option(10_000, "open connections, WebSockets included; one more is answered 503")
    max_connections_per_address: int = _option(
        1_000,
        "of these, from one address (an IPv6 /64); one more is answered 503; 0: no limit. Peers of a Unix socket and"
        " trusted proxies have no such limit",
    )
    max_target_bytes: int = _option(8_192, "length of a request target (path and query); more is answered 431")
    max_header_bytes: int = _option(8_192, "length of one header, name and value; more is answered 431")
    max_headers: int = _option(100, "headers of a request; more are answered 431")
    max_body_bytes: int = _option(
        2_621_440, "length of a request body; more is answered 413. Applications may have lower bounds of their own"
    )
    max_body_bytes_per_address: int = _option(
        16 * 1024 * 1024,
        "bytes of requests and of unfinished WebSocket messages in hand of one address (an IPv6 /64); more is answered"
        " 503. Peers of a Unix socket and trusted proxies have no such limit",
    )
    max_body_bytes_in_all: int = _option(128 * 1024 * 1024, "the same, of all; more is answered 503")
    min_body_bytes_per_s: int = _option(
        500, "how fast a request body or a WebSocket message must come; see body_timeout_s"
    )
    head_timeout_s: float = _option(10.0, "time for the head of a request to come in full, from its first byte")
    body_timeout_s: float = _option(
        30.0,
        "how long a request body or a WebSocket message may be behind min_body_bytes_per_s; 408, or close code 1008",
    )
    request_timeout_s: float = _option(
        300.0, "time for a request body to come in full, however fast it comes; 408. 0: no limit"
    )
    keep_alive_s: float = _option(75.0, "time that a connection is kept without a request")
    write_timeout_s: float = _option(20.0, "time for a client to take what it is sent before it is cut off")
    websocket_handshake_timeout_s: float = _option(10.0, "time for the application to accept a WebSocket")
    websocket_max_message_bytes: int = _option(1024 * 1024, "length of a WebSocket message; more is closed with 1009")
    websocket_ping_interval_s: float = _option(
        20.0, "silence after which a WebSocket client is sent a ping, and each time again; 0: never"
    )
    websocket_ping_timeout_s: float = _option(20.0, "time for the answer to a ping before the WebSocket is closed")
    trusted_proxies: tuple[str, ...] = _option(
        (), 'networks whose X-Forwarded-For and X-Forwarded-Proto are believed; "unix": peers of a unix socket'
    )
    server_header: str = _option("fieldgate", "value of the Server header; empty: none")
    access_log: bool = _option(False, "one line per response on the logger gateway.access")

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                smallest = 0 if option.name in _MAY_BE_0 else 1e-9
                if value < smallest:
                    raise ValueError(f"{option.name} must be positive, not {value!r}")
        if self.websocket_max_message_bytes > MAX_MESSAGE_BYTES:
            raise ValueError(f"websocket_max_message_bytes must be at most {MAX_MESSAGE_BYTES}")
        if not self.max_body_bytes <= self.max_body_bytes_per_address <= self.max_body_bytes_in_all:
            raise ValueError("max_body_bytes, max_body_bytes_per_address and max_body_bytes_in_all must be ascending")
        if not self.server_header.isascii() or not self.server_header.isprintable():
            raise ValueError(f"server_header {self.server_header!r} must be printable ASCII")
        Forwarding(self.trusted_proxies)

    @property
    def shortest_timeout_s(self) -> float:
        """What the tick of the server's clock must resolve."""
        timeouts = [
            getattr(self, option.name)
            for option in fields(self)
            if option.name.endswith("_s") and not option.name.endswith("_per_s")
        ]
        return float(min(timeout for timeout in timeouts if timeout))


_MAY_BE_0: Final = ("request_timeout_s", "websocket_ping_interval_s", "max_connections_per_address")

MAX_HEAD_BYTES: Final = 64 * 1024
"""All of a request's head: what `max_headers` of `max_header_bytes` would be is more than anybody needs to hold."""

PIPELINE_BYTES: Final = 64 * 1024
"""How much a client may send ahead of the response it waits for before its socket is no longer read."""
