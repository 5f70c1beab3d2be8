"""Ends a connection to PostgreSQL from outside, while the thread that uses it waits for an answer.

A frozen server, or a proxy that has lost its server, neither acknowledges nor refuses anything, so no limit of the
server or of TCP applies. A call that waits for it ends when its socket is shut down.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol


class HasSocket(Protocol):
    """A connection of psycopg."""

    def fileno(self) -> int:
        """The descriptor of its socket."""


class AbortableConnection:
    """The connection that one thread uses now, which another thread may end.

    Duplicates the descriptor of the socket: the connection may be closed meanwhile, and the number of its descriptor
    used for another one.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def hold(self, connection: HasSocket) -> None:
        """Makes `abort` end this connection, instead of the one before."""
        self.release()
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def release(self) -> None:
        """Makes `abort` do nothing, and leaves the connection open. Idempotent."""
        held, self._socket = self._socket, None
        if held is not None:
            held.close()

    def abort(self) -> None:
        """Makes a call that waits at the connection fail at once. May be called from any thread; never raises."""
        held = self._socket
        if held is not None:
            with suppress(OSError):  # it has ended already
                held.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def using(self, wrapper: Any) -> Iterator[None]:
        """Lets `abort` end queries of Django's `wrapper` while entered, if it is PostgreSQL's. Connects first; raises
        what the driver raises."""
        wrapper.ensure_connection()
        if wrapper.vendor == "postgresql":
            self.hold(wrapper.connection)
        try:
            yield
        finally:
            self.release()
