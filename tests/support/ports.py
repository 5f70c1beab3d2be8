"""Ports for servers of the tests, also for those that are stopped for a while and come back to theirs."""

import itertools
import os
import socket
from collections.abc import Iterator
from typing import Final

PORTS_A_PROCESS: Final = 100
FIRST_PORTS: Final = range(20_000, 32_000, PORTS_A_PROCESS)
"""Below those (from 32,768 on) that Linux gives to whoever asks for any."""


class Ports:
    """A range of ports that no other process of any tests on this machine uses while this object lives.

    Who has bound the first port of a range has the range.
    """

    def __init__(self, number: int) -> None:
        """The range of that number, or the next that nobody has."""
        number %= len(FIRST_PORTS)
        for first in (*FIRST_PORTS[number:], *FIRST_PORTS[:number]):
            claim = _bound(first)
            if claim is not None:
                self._claim = claim
                self._ports: Iterator[int] = itertools.cycle(range(first + 1, first + PORTS_A_PROCESS))
                return
        raise RuntimeError("other tests have all ranges of ports")

    def free(self) -> int:
        """A port that nobody has bound; the one given least lately."""
        for port in itertools.islice(self._ports, PORTS_A_PROCESS):
            probe = _bound(port)
            if probe is not None:
                probe.close()
                return port
        raise RuntimeError("all ports of this process are in use")

    def close(self) -> None:
        """Leaves the range to others."""
        self._claim.close()


def _bound(port: int) -> socket.socket | None:
    bound = socket.socket()
    try:
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.close()
        return None
    return bound


_own = Ports(os.getpid())


def free_port() -> int:
    """A port that nobody has, and that nobody takes while its server is stopped."""
    return _own.free()
