"""Commands to Redis by key: `Commands` decides which server has the key.

The servers of a fixed list are here, those of a cluster in cluster.py.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from redis.exceptions import NoScriptError

from gateway.layers.per_loop import PerLoop
from gateway.layers.redis.connection import Argument, CommandConnection, Locate, Script
from gateway.layers.redis.hosts import Host, shard_of


class Scripts(Protocol):
    """Runs Lua scripts, each on the server of its key."""

    async def run_script(self, script: Script, key: bytes, arguments: Sequence[Argument]) -> Any:
        """The reply. Raises LayerUnavailableError when there is none, at once where that is known."""

    async def close(self) -> None:
        """Ends the connections. They are made again when used."""


class Commands(Scripts, Protocol):
    """Sends commands and scripts, each with one key, to the server of that key."""

    @property
    def connections(self) -> Sequence[CommandConnection]:
        """The connections to all known servers."""

    async def connect(self) -> None:
        """Finds the servers, if they have to be found."""

    async def execute(self, key: bytes, *arguments: Argument) -> Any:
        """The reply. Raises LayerUnavailableError when there is none, at once where that is known."""

    def execute_quietly(self, key: bytes, *arguments: Argument) -> None:
        """Sends a command without waiting, and ignores the reply."""

    async def publish(self, key: bytes, payload: bytes) -> None:
        """Publishes `payload` to the subscribers of `key`."""

    def is_down(self, key: bytes) -> bool:
        """Whether the server of `key` is known to be away."""

    def was_up(self, key: bytes) -> bool:
        """Whether the server of `key` was ever connected."""

    def where(self, key: bytes) -> tuple[Host, Locate | None]:
        """The server of `key`, for a connection that the caller makes, which locates it before each attempt."""


class HostCommands:
    """Commands to the servers of a fixed list, over which the keys are spread."""

    def __init__(self, hosts: Sequence[Host], scripts: Sequence[Script] = ()) -> None:
        self._hosts = hosts
        self.connections = [CommandConnection(host, scripts) for host in hosts]

    def _connection(self, key: bytes) -> CommandConnection:
        return self.connections[shard_of(key, len(self.connections))]

    async def connect(self) -> None:
        pass

    async def execute(self, key: bytes, *arguments: Argument) -> Any:
        return await self._connection(key).execute(*arguments)

    def execute_quietly(self, key: bytes, *arguments: Argument) -> None:
        self._connection(key).execute_quietly(*arguments)

    async def run_script(self, script: Script, key: bytes, arguments: Sequence[Argument]) -> Any:
        return await run_script(self._connection(key).execute, script, key, arguments)

    async def publish(self, key: bytes, payload: bytes) -> None:
        await self._connection(key).execute("PUBLISH", key, payload)

    def is_down(self, key: bytes) -> bool:
        return self._connection(key).down

    def was_up(self, key: bytes) -> bool:
        return self._connection(key).ever_up

    def where(self, key: bytes) -> tuple[Host, Locate | None]:
        return self._hosts[shard_of(key, len(self._hosts))], None

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()


class ScriptsPerLoop:
    """Runs scripts over connections of the running event loop, made when first used."""

    def __init__(self, make_commands: Callable[[], Commands]) -> None:
        self._loops = PerLoop(make_commands)

    async def run_script(self, script: Script, key: bytes, arguments: Sequence[Argument]) -> Any:
        return await self._loops.here.run_script(script, key, arguments)

    async def close(self) -> None:
        """Ends the connections of the running event loop. They are made again when used."""
        commands = self._loops.pop()
        if commands is not None:
            await commands.close()


async def run_script(
    execute: Callable[..., Awaitable[Any]], script: Script, key: bytes, arguments: Sequence[Argument]
) -> Any:
    """The reply to `script`, whose command `execute` sends."""
    try:
        return await execute("EVALSHA", script.digest, 1, key, *arguments)
    except NoScriptError:  # the scripts of a running server were flushed
        return await execute("EVAL", script.text, 1, key, *arguments)


async def check_all(commands: Commands) -> None:
    """Raises LayerUnavailableError unless every server answers."""
    await commands.connect()
    for connection in list(commands.connections):
        await connection.execute("PING")
