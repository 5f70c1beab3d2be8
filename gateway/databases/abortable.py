"""Ends a connection to PostgreSQL from outside, while the thread that uses it waits for an answer.

A server that is frozen, or behind a proxy that has lost the way to it, acknowledges nothing and refuses nothing: no
limit of the server's applies, and none of TCP's. What waits there ends when its socket is shut down.
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
    """The connection that one thread works with, if it does, for another thread to end.

    Keeps a descriptor of its own for the socket: the connection may be closed meanwhile, and the number of its
    descriptor be that of another one.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def hold(self, connection: HasSocket) -> None:
        """From now on `abort` ends this connection, in the place of the one before."""
        self.release()
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def release(self) -> None:
        """From now on there is nothing to end; the connection goes on. Idempotent."""
        held, self._socket = self._socket, None
        if held is not None:
            held.close()

    def abort(self) -> None:
        """Makes whoever waits at the connection fail at once. From any thread; raises nothing."""
        held = self._socket
        if held is not None:
            with suppress(OSError):  # it has ended already
                held.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def using(self, wrapper: Any) -> Iterator[None]:
        """While entered, what the thread asks by Django's `wrapper` can be ended, if that is PostgreSQL's. Connects;
        raises what the driver raises."""
        wrapper.ensure_connection()
        if wrapper.vendor == "postgresql":
            self.hold(wrapper.connection)
        try:
            yield
        finally:
            self.release()
