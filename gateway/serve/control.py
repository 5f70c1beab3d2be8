"""The control socket: how commands of an operator reach the gateway that runs on a data directory.

A Unix socket in the data directory, open to the user of the gateway alone. One request a connection, one line of JSON:

    {"command": "mqtt.clients", "arguments": {}}

and the answer is lines, too: any number of {"row": {...}}, then {"done": true}, or {"error": "..."} where it cannot go
on. Some answers do not end; the client closes the connection. An answer that just stops means that the gateway did.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from gateway.exceptions import GatewayError
from protocols.server import Command, CommandError, Row

logger = logging.getLogger("gateway.control")

SOCKET_NAME: Final = "control"
MAX_CONNECTIONS: Final = 32
REQUEST_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 10.0
"""How long the command line waits for the next line of an answer that is to end."""

_MAX_PATH_BYTES: Final = 100
"""What a socket's address holds on every system."""


# The gateway's side


@asynccontextmanager
async def listening(data_dir: Path, commands: Mapping[str, Command]) -> AsyncIterator[None]:
    """Answers requests while entered. Raises GatewayError. The data directory must be held (gateway.serve.data_dir)."""
    try:
        listener = _bind(data_dir)
    except OSError as error:
        raise GatewayError(f"cannot make the control socket in {data_dir}: {error.strerror or error}") from error
    control = Control(commands)
    server = await asyncio.start_unix_server(control.serve, sock=listener)
    try:
        yield
    finally:
        server.close()
        with suppress(FileNotFoundError):
            (data_dir / SOCKET_NAME).unlink()
        await control.close()


def _bind(data_dir: Path) -> socket.socket:
    """Makes the socket. One that is there was left by a gateway that was killed: nobody else holds the directory."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            (data_dir / SOCKET_NAME).unlink()
        with _address(data_dir) as address:
            listener.bind(address)
        # Nobody can connect before it listens.
        (data_dir / SOCKET_NAME).chmod(0o600)
    except BaseException:
        listener.close()
        raise
    return listener


class Control:
    """Answers the requests of one gateway."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands
        self._serving: set[asyncio.Task[None]] = set()
        self._closing = asyncio.get_running_loop().create_future()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                request = await reader.readline()
            if len(self._serving) > MAX_CONNECTIONS:
                _write(writer, {"error": f"{MAX_CONNECTIONS} commands are at work already"})
            else:
                await self._answer_until_hung_up(request, reader, writer)
        except (OSError, TimeoutError, ValueError):  # ValueError: of readline, for a line that does not end
            pass  # who asked is gone, or never asked
        finally:
            self._serving.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def close(self) -> None:
        """Ends the answers that are under way."""
        self._closing.set_result(None)
        await asyncio.gather(*self._serving)

    async def _answer_until_hung_up(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        answering = asyncio.ensure_future(self._answer(request, writer))
        hung_up = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((answering, hung_up, self._closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (answering, hung_up):
                task.cancel()
            await asyncio.gather(answering, hung_up, return_exceptions=True)

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        name = ""
        try:
            name, arguments = _parse(request)
            async with aclosing(self._find(name)(arguments)) as rows:
                async for row in rows:
                    _write(writer, {"row": row})
                    await writer.drain()
        except CommandError as error:
            _write(writer, {"error": str(error)})
        except OSError:
            return
        except Exception:
            logger.exception("the command %s failed", name)
            _write(writer, {"error": "the command failed; the gateway's log says why"})
        else:
            _write(writer, {"done": True})
        await writer.drain()

    def _find(self, name: str) -> Command:
        command = self._commands.get(name)
        if command is None:
            raise CommandError(f"this gateway has no command {name!r}; is its protocol configured?")
        return command


def _parse(request: bytes) -> tuple[str, dict[str, Any]]:
    try:
        parsed = json.loads(request)
        name, arguments = parsed["command"], parsed.get("arguments", {})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CommandError("not a request") from None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise CommandError("not a request")
    return name, arguments


def _write(writer: asyncio.StreamWriter, line: Mapping[str, Any]) -> None:
    writer.write(json.dumps(line).encode() + b"\n")


# The command line's side


def ask(data_dir: Path, command: str, *, endless: bool = False, **arguments: Any) -> Iterator[Row]:
    """Asks the gateway that runs on `data_dir`; gives the rows of its answer. Raises GatewayError: none runs there, it
    refuses, or it stops meanwhile."""
    with _connected(data_dir) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
            connection.settimeout(None if endless else ANSWER_TIMEOUT_S)
            with connection.makefile("rb") as lines:
                yield from _rows(lines)
        except TimeoutError as error:
            raise GatewayError(f"the gateway on {data_dir} does not answer") from error
        except OSError as error:
            raise GatewayError(f"the gateway on {data_dir} has stopped") from error


def _rows(lines: Any) -> Iterator[Row]:
    for line in lines:
        answer = json.loads(line)
        if "error" in answer:
            raise GatewayError(answer["error"])
        if "done" in answer:
            return
        yield answer["row"]
    raise GatewayError("the gateway has stopped")


@contextmanager
def _connected(data_dir: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            with _address(data_dir) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise GatewayError(f"no gateway runs on the data directory {data_dir}") from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise GatewayError(f"cannot reach the gateway on the data directory {data_dir}: {reason}") from error
        yield connection


@contextmanager
def _address(data_dir: Path) -> Iterator[str]:
    """The path of the socket, shortened where it is longer than a socket's address may be."""
    path = str(data_dir / SOCKET_NAME)
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield path
        return
    directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET_NAME}"
    finally:
        os.close(directory)
