"""What stands between an accepted socket and the protocol of its listener: the PROXY header, the TLS handshake.

A connection in here has cost no more than its socket and a task, and is known to nobody but its `HandshakingListener`,
which bounds how many there are and how long they take. A listener that has neither proxies nor TLS needs none: asyncio
accepts for it.
"""

import asyncio
import functools
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast
from weakref import WeakSet

from protocols import metrics
from protocols.addresses import network_of
from protocols.log_lines import PeerLog
from protocols.proxy_protocol import Proxied, ProxyHeaderError, missing, parse
from protocols.server import Listener
from protocols.tls import ServerContext
from protocols.trusted_peers import TrustedPeers

logger = logging.getLogger("gateway.listeners")
peer_log = PeerLog("gateway.listeners")

_SHUTDOWN_S: Final = 5.0
"""How long a client may take to answer the end of TLS."""
_NO_DESCRIPTOR_PAUSE_S: Final = 1.0


class RefusedError(Exception):
    """Raised when a connection is not let in. `reason` is the label of the counter."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class HandshakingListener:
    """Accepts the connections of one listener, and lets in those whose handshake succeeds in time."""

    def __init__(self, listener: Listener, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self._listener = listener
        self._factory = factory
        self._proxies = TrustedPeers(listener.proxy_protocol)
        self._context = listener.ssl_context
        self._accepting: list[asyncio.Task[None]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._by_network: Counter[str] = Counter()
        self._certified: WeakSet[ClientTransport] = WeakSet()
        if isinstance(self._context, ServerContext):
            self._context.on_reload.append(self._end_revoked)

    @property
    def needed(self) -> bool:
        """Whether anything is to be done before the protocol has a connection."""
        return bool(self._proxies) or self._context is not None

    def open(self, sockets: Sequence[socket.socket]) -> None:
        """Begins to accept on these, which listen already and are closed by `close`."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            task = loop.create_task(self._accept(each), name=f"accept at {self._listener.bind}")
            task.add_done_callback(functools.partial(_close, each))  # and not before: the loop waits on it
            self._accepting.append(task)

    def close(self) -> None:
        """Stops that, and ends what is not through yet. Idempotent."""
        for task in (*self._accepting, *self._under_way):
            task.cancel()

    def _end_revoked(self) -> None:
        """Ends the connections whose certificates are revoked by now: `certificate_revoked()` of their protocols, or
        the end of the transport."""
        for transport in list(self._certified):
            if transport.is_closing():  # it has not been collected yet
                continue
            certificate = transport.certificate
            if certificate and isinstance(self._context, ServerContext) and self._context.revokes(certificate):
                self._certified.discard(transport)
                metrics.tls_revoked.inc()
                revoked = getattr(transport.get_protocol(), "certificate_revoked", transport.abort)
                revoked()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except ConnectionError:
                continue
            except OSError as error:  # no descriptor is free: as asyncio's own servers do
                logger.error("cannot accept at %s: %s", self._listener.bind, error)  # noqa: TRY400
                await asyncio.sleep(_NO_DESCRIPTOR_PAUSE_S)
                continue
            task = loop.create_task(self._admit(accepted, _peer(address)))
            self._under_way.add(task)
            task.add_done_callback(functools.partial(self._ended, accepted))

    def _ended(self, accepted: socket.socket, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        if task.cancelled():  # one that was cancelled before it began has not come to its `finally`
            accepted.close()

    async def _admit(self, accepted: socket.socket, peer: tuple[str, int] | None) -> None:
        """Nothing that a peer does raises here."""
        timeout_s = self._listener.handshake_timeout_s
        connected = False
        try:
            self._check_room()
            async with asyncio.timeout(timeout_s):
                proxied = await self._read_header(accepted, peer) if self._proxies else None
                if proxied is not None:
                    peer = proxied.client
                with self._share(peer):
                    await self._connect(accepted, proxied)
            connected = True
        except RefusedError as error:
            self._refused(error.reason, peer, str(error))
        except TimeoutError:
            self._refused("timeout", peer, f"no header or handshake within {timeout_s:g} s")
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", None) or error.reason or error
            self._refused((error.reason or "tls").lower(), peer, f"no TLS: {why}")
        except OSError:
            self._refused("lost", peer, "it left before the handshake was done")
        finally:
            if not connected:
                accepted.close()

    def _check_room(self) -> None:
        most = self._listener.max_handshakes
        if len(self._under_way) > most:
            raise RefusedError("too_many_handshakes", f"{most} connections are on their way in")

    @contextmanager
    def _share(self, peer: tuple[str, int] | None) -> Iterator[None]:
        """While entered, the connection counts among those of its address; proxies and Unix sockets have none."""
        if peer is None or peer in self._proxies:
            yield
            return
        network, most = network_of(peer), self._listener.max_handshakes_per_address
        self._by_network[network] += 1
        try:
            if self._by_network[network] > most:
                raise RefusedError("too_many_handshakes_of_address", f"{most} connections of it are on their way in")
            yield
        finally:
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]

    async def _read_header(self, accepted: socket.socket, peer: tuple[str, int] | None) -> Proxied | None:
        if peer not in self._proxies:
            raise RefusedError("proxy_untrusted", "it is no proxy that the listener trusts")
        loop = asyncio.get_running_loop()
        header = bytearray()
        try:
            while count := missing(header):
                data = await loop.sock_recv(accepted, count)
                if not data:
                    raise RefusedError("lost", "it left within the PROXY header")
                header += data
            return parse(header)
        except ProxyHeaderError as error:
            raise RefusedError("proxy_header", str(error)) from None

    async def _connect(self, accepted: socket.socket, proxied: Proxied | None) -> None:
        factory = self._factory
        if proxied is not None or isinstance(self._context, ServerContext):
            factory = _AfterHandshake(factory, proxied, self._certified)
        encrypted: dict[str, Any] = {}
        if self._context is not None:  # the deadline of `_admit` comes first
            timeout_s = 2 * self._listener.handshake_timeout_s
            encrypted = {
                "ssl": self._context,
                "ssl_handshake_timeout": timeout_s,
                "ssl_shutdown_timeout": _SHUTDOWN_S,
            }
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(factory, accepted, **encrypted)

    def _refused(self, reason: str, peer: tuple[str, int] | None, text: str) -> None:
        metrics.connections_refused.labels(reason).inc()
        where = f"{peer[0]}:{peer[1]}" if peer else "a local socket"
        message = "refused %s at %s: %s"
        peer_log.info(peer, message, where, self._listener.bind, text, kind=message + reason)


class _AfterHandshake(asyncio.Protocol):
    """Gives the protocol of a connection its `ClientTransport`, and notes who has a certificate, which may be revoked
    while the connection lasts. Is its own factory."""

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        proxied: Proxied | None,
        certified: "WeakSet[ClientTransport]",
    ) -> None:
        self._factory = factory
        self._proxied = proxied
        self._certified = certified

    def __call__(self) -> asyncio.BaseProtocol:
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._factory()
        transport = cast(asyncio.Transport, transport)
        transport.set_protocol(protocol)
        client_transport = ClientTransport(transport, self._proxied)
        if client_transport.certificate:
            self._certified.add(client_transport)
        protocol.connection_made(client_transport)


class ClientTransport(asyncio.Transport):
    """A transport whose addresses are those that the proxy told, if there is one; all else is the transport beneath.

    Its methods are bound once, here, so that a write costs what it costs beneath. (And one can have weak references to
    it, which uvloop's do not allow.)
    """

    _METHODS: Final = (
        *("write", "writelines", "write_eof", "can_write_eof", "close", "abort", "is_closing"),
        *("pause_reading", "resume_reading", "is_reading", "set_protocol", "get_protocol"),
        *("set_write_buffer_limits", "get_write_buffer_limits", "get_write_buffer_size"),
    )

    def __init__(self, transport: asyncio.Transport, proxied: Proxied | None) -> None:
        super().__init__()
        self._beneath = transport
        self._addresses = {} if proxied is None else {"peername": proxied.client, "sockname": proxied.server}
        vars(self).update({name: getattr(transport, name) for name in self._METHODS})

    @property
    def certificate(self) -> bytes | None:
        """That of the client, in DER."""
        ssl_object = self._beneath.get_extra_info("ssl_object")
        certificate: bytes | None = ssl_object and ssl_object.getpeercert(binary_form=True)
        return certificate

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of the transport beneath, but for "peername" and "sockname"."""
        if name in self._addresses:
            return self._addresses[name] or default
        return self._beneath.get_extra_info(name, default)


def _close(listening: socket.socket, task: "asyncio.Task[None]") -> None:
    listening.close()


def _peer(address: Any) -> tuple[str, int] | None:
    """What `accept` gave; None for a peer at a Unix socket."""
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
