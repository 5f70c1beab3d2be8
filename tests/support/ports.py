"""Ports for servers of the tests, also for those that are stopped for a while and come back to theirs."""

import itertools
import os
import socket

_PORTS_A_PROCESS = 100
_first = 20_000 + os.getpid() % 120 * _PORTS_A_PROCESS
_ports = itertools.cycle(range(_first, _first + _PORTS_A_PROCESS))


def free_port() -> int:
    """A port that nobody has, and that nobody takes while its server is stopped: each process of the tests has ports of
    its own, below those (from 32,768 on) that Linux gives to whoever asks for any."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("the ports are a cycle")
