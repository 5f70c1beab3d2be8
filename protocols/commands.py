"""What an operator can ask of a running protocol server: a request by name, answered with rows.

A server offers commands by `ProtocolServer.commands`; the supervisor puts them on the control socket
(gateway.serve.control), and the command line asks there.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
"""Something that JSON can say; the keys of all rows of an answer are the same, in the same order."""

Command: TypeAlias = Callable[[Mapping[str, Any]], AsyncGenerator[Row, None]]
"""Takes the arguments and gives rows, in the loop of the server, which it is not to hold for long: it is to give the
loop a turn from time to time. It may go on for ever; it is closed when nobody reads any more. Raises CommandError."""


class CommandError(Exception):
    """Raised when a command cannot do what is asked, with a text for the operator."""
