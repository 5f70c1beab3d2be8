"""Listening sockets, and what a connection is: addresses and TLS facts in the form that ASGI has them.

Every wire uses these, so that a bind address, a taken port and a client certificate look the same in all of them.
"""

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

from cryptography import x509

from protocols.server import Listener

BACKLOG: Final = 1024

_TLS_VERSIONS: Final = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


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


async def listen(listener: Listener, protocol_factory: Callable[[], asyncio.BaseProtocol]) -> asyncio.Server:
    """Binds and begins to accept. Raises OSError, with the address in its text, and ValueError for a bad `bind`."""
    loop = asyncio.get_running_loop()
    address = parse_bind(listener.bind)
    try:
        if isinstance(address, str):
            return await loop.create_unix_server(protocol_factory, address, ssl=listener.ssl_context, backlog=BACKLOG)
        host, port = address
        return await loop.create_server(
            protocol_factory, host or None, port, ssl=listener.ssl_context, backlog=BACKLOG, reuse_address=True
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen at {listener.bind}: {reason}") from error


async def listen_at_all(
    listeners: Sequence[Listener], factories: Sequence[Callable[[], asyncio.BaseProtocol]]
) -> list[asyncio.Server]:
    """Binds each listener with the factory of the same position, all or none. Raises as `listen` does."""
    servers: list[asyncio.Server] = []
    try:
        for listener, factory in zip(listeners, factories, strict=True):
            servers.append(await listen(listener, factory))
    except BaseException:
        for server in servers:
            server.close()
        raise
    return servers


def bound_address(server: asyncio.Server) -> str:
    """Where a server really listens: "127.0.0.1:1883", "[::1]:1883" or "unix:/path"."""
    name = server.sockets[0].getsockname()
    if isinstance(name, (str, bytes)):
        return f"unix:{os.fsdecode(name)}"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
    """The value of `scope["extensions"]["tls"]` (ASGI TLS extension); None for a connection without TLS."""
    ssl_object = transport.get_extra_info("ssl_object")
    if ssl_object is None:
        return None
    certificate = ssl_object.getpeercert(binary_form=True)
    return {
        "server_cert": None,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate)] if certificate else [],
        "client_cert_name": _subject(certificate) if certificate else None,
        "client_cert_error": None,
        "tls_version": _TLS_VERSIONS.get(ssl_object.version()),
        "cipher_suite": _cipher_suite(ssl_object),
    }


def _subject(certificate: bytes) -> str:
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()


def _cipher_suite(ssl_object: ssl.SSLObject) -> int | None:
    """The IANA number of the cipher in use: OpenSSL's id of it is that number in its low 16 bits."""
    cipher = ssl_object.cipher()
    if cipher is None:
        return None
    known: list[dict[str, Any]] = list(ssl_object.context.get_ciphers())  # type: ignore[arg-type]
    return next((entry["id"] & 0xFFFF for entry in known if entry["name"] == cipher[0]), None)
