"""Listening sockets, and what a connection is: addresses and TLS facts in the form that ASGI has them.

Every wire uses these, so that a bind address, a taken port and a client certificate look the same in all of them.
"""

import asyncio
import functools
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from protocols import tls
from protocols.doorway import Doorway, Entrance
from protocols.server import Listener

BACKLOG: Final = 1024


def parse_bind(bind: str) -> tuple[str, int] | str:
    """(host, port) of "host:port" or "[v6]:port"; the path of "unix:/path". Raises ValueError for anything else."""
    if bind.startswith("unix:"):
        path = bind.removeprefix("unix:")
        if not path:
            raise ValueError(f"bind {bind!r}: expected unix:/path")
        return path
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"bind {bind!r}: expected host:port, [v6]:port or unix:/path")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"bind {bind!r}: an IPv6 address is written in brackets, as in [::1]:1883")
    return host, int(port)


class Listening:
    """A place that is listened at, until `close`."""

    def __init__(self, server: asyncio.Server, entrance: Entrance) -> None:
        self._server = server
        self._entrance = entrance

    @property
    def address(self) -> str:
        """Where it really listens: "127.0.0.1:1883", "[::1]:1883" or "unix:/path"."""
        name = self._server.sockets[0].getsockname()
        if isinstance(name, (str, bytes)):
            return f"unix:{os.fsdecode(name)}"
        host, port = name[0], name[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def end_revoked(self) -> None:
        """Ends the connections whose client certificates are on the revocation lists that are in use now."""
        self._entrance.end_revoked()

    def close(self) -> None:
        """Closes the socket; connections go on, but for those which are not through with their handshake."""
        self._server.close()
        self._entrance.close()


async def listen(listener: Listener, protocol_factory: Callable[[], asyncio.BaseProtocol]) -> Listening:
    """Binds and begins to accept. Raises OSError, with the address in its text, and ValueError for a bad `bind`."""
    entrance = Entrance(listener, protocol_factory)
    factory = functools.partial(Doorway, entrance) if entrance.needed else protocol_factory
    address = parse_bind(listener.bind)
    loop = asyncio.get_running_loop()
    try:
        if isinstance(address, str):
            server = await loop.create_unix_server(factory, address, backlog=BACKLOG)
        else:
            host, port = address
            server = await loop.create_server(factory, host or None, port, backlog=BACKLOG, reuse_address=True)
            _give_up_dead_peers(server, listener.dead_peer_timeout_s)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen at {listener.bind}: {reason}") from error
    return Listening(server, entrance)


async def listen_at_all(
    listeners: Sequence[Listener], factories: Sequence[Callable[[], asyncio.BaseProtocol]]
) -> list[Listening]:
    """Binds each listener with the factory of the same position, all or none. Raises as `listen` does."""
    opened: list[Listening] = []
    try:
        for listener, factory in zip(listeners, factories, strict=True):
            opened.append(await listen(listener, factory))
    except BaseException:
        for listening in opened:
            listening.close()
        raise
    return opened


def _give_up_dead_peers(server: asyncio.Server, timeout_s: float) -> None:
    """Has TCP find out that a peer is gone which says nothing: a machine that lost power, a network that forgot the
    connection. Accepted sockets inherit it all from the listening one, so that no connection costs a system call."""
    if not timeout_s:
        return
    for listening in server.sockets:
        with socket.socket(fileno=os.dup(listening.fileno())) as own:  # uvloop's cannot be set
            own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _dead_peer_options(timeout_s).items():
                if hasattr(socket, name):
                    own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _dead_peer_options(timeout_s: float) -> dict[str, int]:
    """Probes after half of the time, three of them; and for what was sent and not acknowledged the whole of it."""
    interval_s = max(1, round(timeout_s / 6))
    return {
        "TCP_KEEPIDLE": max(1, round(timeout_s / 2)),
        "TCP_KEEPINTVL": interval_s,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": max(1, round(timeout_s * 1000)),
    }


def client_address(transport: asyncio.BaseTransport) -> tuple[str, int] | None:
    """The peer's address; None where it has none, as on a Unix socket (ASGI www: `client`)."""
    name = transport.get_extra_info("peername")
    return (str(name[0]), int(name[1])) if isinstance(name, (tuple, list)) and name else None


def server_address(transport: asyncio.BaseTransport) -> tuple[str, int | None] | None:
    """The local address; (path, None) for a Unix socket (ASGI www: `server`)."""
    name = transport.get_extra_info("sockname")
    if isinstance(name, (str, bytes)):
        return os.fsdecode(name), None
    return (str(name[0]), int(name[1])) if isinstance(name, (tuple, list)) and name else None


def tls_extension(transport: asyncio.BaseTransport) -> dict[str, Any] | None:
    """The value of `scope["extensions"]["tls"]`: see protocols.tls."""
    return tls.tls_extension(transport.get_extra_info("ssl_object"))
