"""What the HTTP wire refuses: status, counter, and the words for the log and the client."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from protocols.log_lines import PeerLog
from protocols.masking import printable

peer_log = PeerLog("gateway.http")

REFUSALS: Final[Mapping[str, tuple[int, str]]] = {
    "malformed": (400, "this is not HTTP/1.1"),
    "bad_host": (400, "the Host header is missing, there twice, or no host"),
    "bad_target": (400, "the request target is not one that a server is sent"),
    "control_byte": (400, "a header value has a control character"),
    "chunked_http_10": (400, "HTTP/1.0 has no chunked bodies"),
    "chunk_framing": (400, "the chunked body is mostly framing"),
    "transfer_coding": (501, "of transfer codings there is chunked alone"),
    "http_version": (505, "the HTTP version is neither 1.0 nor 1.1"),
    "connect": (405, "this is no proxy"),
    "expectation": (417, "an expectation other than 100-continue"),
    "head_too_large": (431, "the head of the request is too large"),
    "too_many_headers": (431, "there are too many headers"),
    "head_timeout": (408, "the head of the request did not come in time"),
    "body_timeout": (408, "the body did not come on"),
    "body_too_large": (413, "the body is too large"),
    "max_body_bytes_per_address": (503, "too much of what this address has sent is still to be answered"),
    "max_body_bytes_in_all": (503, "too much of what clients have sent is still to be answered"),
    "too_many_connections": (503, "there are too many connections"),
    "max_connections_per_address": (503, "there are too many connections of this address"),
    "bad_handshake": (400, "the WebSocket handshake is not that of RFC 6455 §4.1"),
    "websocket_version": (426, "the WebSocket version is not 13"),
    "subprotocol": (400, "the subprotocol of this path is not offered"),
    "handshake_timeout": (503, "the application did not answer in time"),
    "shutting_down": (503, "the server is shutting down"),
    "application": (403, ""),
    "application_error": (500, ""),
}
"""All that this wire refuses, by the label of its counter: the status, and why, for the log and for the client."""


class Refusal(NamedTuple):
    """The answer to a request that no application sees."""

    reason: str
    """One of REFUSALS."""
    detail: str = ""
    """Which rule it is about, in place of what REFUSALS says. The client reads it, too: nothing of its request is in
    there."""
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def status(self) -> int:
        """That of the response."""
        return REFUSALS[self.reason][0]

    @property
    def text(self) -> str:
        """Why, in words."""
        return self.detail or REFUSALS[self.reason][1]


def log_refusal(
    client: Sequence[Any] | None, who: str, status: int, reason: str, text: str, *, level: int = logging.INFO
) -> None:
    """Logs that `who` was refused with `status`, and why: `reason` is one of the labels of the counter, `text` may hold
    what the peer has chosen."""
    message = "refused %s with %d: %s" + (": %s" if text else "%s")
    peer_log.log(level, client, message, who, status, reason, printable(text), kind=f"refused %s with %d: {reason}")
