"""Listening sockets, and what a connection is: addresses and TLS facts in the form that ASGI has them.

Every wire uses these, so that a bind address, a taken port and a client certificate look the same in all of them.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from protocols import tls
from protocols.handshake import HandshakingListener
from protocols.server import Listener

BACKLOG: Final = 4096
"""Connections that wait to be accepted; as many as Linux allows by default (net.core.somaxconn). The kernel drops those
beyond it without a word, and the peer tries again after a second: a fleet that comes back at once must find room."""


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

    def __init__(self, address: str, servers: Sequence[asyncio.Server], handshaking: HandshakingListener) -> None:
        self.address = address
        """Where it really listens: "127.0.0.1:1883", "[::1]:1883" or "unix:/path"."""
        self._servers = servers
        self._handshaking = handshaking

    def close(self) -> None:
        """Closes the socket; connections go on, unless they are not through with their handshake."""
        for server in self._servers:
            server.close()
        self._handshaking.close()


async def listen(listener: Listener, protocol_factory: Callable[[], asyncio.BaseProtocol]) -> Listening:
    """Binds and begins to accept. Raises OSError, with the address in its text, and ValueError for a bad `bind`."""
    try:
        sockets = await _bound(parse_bind(listener.bind), listener.dead_peer_timeout_s)
        address = _address_of(sockets[0])
        servers: list[asyncio.Server] = []
        handshaking = HandshakingListener(listener, protocol_factory)
        if handshaking.needed:
            handshaking.open(sockets)
        else:
            servers = [await _serve(each, protocol_factory) for each in sockets]
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise OSError(error.errno, f"cannot listen at {listener.bind}: {reason}") from error
    return Listening(address, servers, handshaking)


async def _serve(bound: socket.socket, factory: Callable[[], asyncio.BaseProtocol]) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    if bound.family == socket.AF_UNIX:
        return await loop.create_unix_server(factory, sock=bound, backlog=BACKLOG)
    return await loop.create_server(factory, sock=bound, backlog=BACKLOG)


async def _bound(address: tuple[str, int] | str, dead_peer_timeout_s: float) -> list[socket.socket]:
    """Listening sockets: one for each address of the host, all or none. Raises OSError."""
    if isinstance(address, str):
        with suppress(OSError):
            if stat.S_ISSOCK(os.stat(address).st_mode):  # noqa: PTH116  which a process left behind
                os.unlink(address)  # noqa: PTH108
        return [_listening(socket.AF_UNIX, address)]
    host, port = address
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, name in dict.fromkeys((family, name) for family, _, _, _, name in found):
            sockets.append(_listening(family, name, dead_peer_timeout_s))
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def _listening(family: int, name: Any, dead_peer_timeout_s: float = 0) -> socket.socket:
    # With its protocol named: where the loop sees it, it sets TCP_NODELAY, and no small answer waits for another.
    made = socket.socket(family, socket.SOCK_STREAM, 0 if family == socket.AF_UNIX else socket.IPPROTO_TCP)
    try:
        made.setblocking(False)
        if family != socket.AF_UNIX:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if dead_peer_timeout_s:
            _give_up_dead_peers(made, dead_peer_timeout_s)
        made.bind(name)
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _give_up_dead_peers(listening: socket.socket, timeout_s: float) -> None:
    """Has TCP find out that a peer is gone which says nothing: a machine that lost power, a network that forgot the
    connection. Accepted sockets inherit it all from the listening one, so that no connection costs a system call."""
    probes = 3
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {
        "TCP_KEEPIDLE": max(1, round(timeout_s / 2)),
        "TCP_KEEPINTVL": max(1, round(timeout_s / 2 / probes)),
        "TCP_KEEPCNT": probes,
        "TCP_USER_TIMEOUT": max(1, round(timeout_s * 1000)),  # for what was sent and is not acknowledged
    }.items():
        if hasattr(socket, name):  # as on Linux
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _address_of(bound: socket.socket) -> str:
    name = bound.getsockname()
    if isinstance(name, (str, bytes)):
        return f"unix:{os.fsdecode(name)}"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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


def client_address(transport: asyncio.BaseTransport) -> tuple[str, int] | None:
    """The peer's address; None where it has none, as on a Unix socket (ASGI www: `client`)."""
    name = transport.get_extra_info("peername")
    return (str(name[0]), int(name[1])) if isinstance(name, (tuple, list)) and name else None


def peer_name(client: tuple[str, int] | None) -> str:
    """How logs call the other side of a connection."""
    return f"{client[0]}:{client[1]}" if client else "unix"


def server_address(transport: asyncio.BaseTransport) -> tuple[str, int | None] | None:
    """The local address; (path, None) for a Unix socket (ASGI www: `server`)."""
    name = transport.get_extra_info("sockname")
    if isinstance(name, (str, bytes)):
        return os.fsdecode(name), None
    return _one_of(str(name[0]), int(name[1])) if isinstance(name, (tuple, list)) and name else None


@lru_cache(maxsize=64)
def _one_of(host: str, port: int) -> tuple[str, int]:
    """The same object for all connections to one local address: 150 bytes of each."""
    return host, port


def tls_extension(transport: asyncio.BaseTransport) -> dict[str, Any] | None:
    """The value of `scope["extensions"]["tls"]`: see protocols.tls."""
    return tls.tls_extension(transport.get_extra_info("ssl_object"))
