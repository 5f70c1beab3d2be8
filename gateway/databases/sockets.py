"""Ends a connection to PostgreSQL from outside, while the thread that uses it waits for an answer.

A server that is frozen, or behind a proxy that has lost the way to it, acknowledges nothing and refuses nothing: no
limit of the server's applies, and none of TCP's. What waits there ends when its socket is shut down.
"""

import os
import socket
from contextlib import suppress
from typing import Protocol, Self


class HasSocket(Protocol):
    """A connection of psycopg."""

    def fileno(self) -> int:
        """The descriptor of its socket."""


class DatabaseSocket:
    """The socket of one connection, as a descriptor of its own: the connection may be closed meanwhile, and the number
    of its descriptor be that of another one."""

    def __init__(self, connection: HasSocket) -> None:
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def shut_down(self) -> None:
        """Makes whoever waits at the connection fail at once. From any thread; raises nothing."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives the descriptor back; the connection goes on."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
