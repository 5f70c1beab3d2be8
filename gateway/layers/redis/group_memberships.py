"""The groups that a process is in, as Redis has to know them for the queue layer.

`{prefix}:group:{group}` is a sorted set: who is in the group since when. Those are processes (their name up to the
"!"), and channels that no process owns. Which channels of a process are members only that process knows.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.layers.base import LayerUnavailableError
from gateway.layers.local import LocalChannels
from gateway.layers.redis.commands import Commands
from gateway.layers.redis.layer import RemoteChannelLayer
from gateway.layers.validation import escape_name

REFRESHES_PER_GROUP_EXPIRY = 4
RETRY_S = 0.1


def group_key(layer: RemoteChannelLayer[Any], group: str) -> bytes:
    """The sorted set of the members of `group`."""
    return f"{layer.prefix}:group:{escape_name(group)}".encode()


class Memberships:
    """Writes that `process` is in a group while a channel of it is, and again before that would expire."""

    def __init__(
        self,
        layer: RemoteChannelLayer[Any],
        process: str,
        *,
        local: LocalChannels,
        commands: Commands,
        do: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """`local` has the groups of this process; `do` runs a coroutine by the way."""
        self._layer = layer
        self._process = process
        self._local = local
        self._commands = commands
        self._do = do
        self._joined: set[str] = set()
        self._refresh: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Forgets what was written, and refreshes no more."""
        if self._refresh is not None:
            self._refresh.cancel()
            self._refresh = None
        self._joined.clear()

    async def join(self, group: str) -> None:
        """Returns when Redis knows that this process is in `group`, or when that waits for a lost connection.

        Raises LayerUnavailableError if there never was one.
        """
        if group in self._joined:
            return
        try:
            await self.add(group, self._process)
        except LayerUnavailableError:
            if not self._commands.was_up(group_key(self._layer, group)):
                raise
            self._do(self._write_missing())
        else:
            self._joined.add(group)
        self._refresh_later()

    def leave(self, group: str) -> None:
        """Says so to Redis, without waiting."""
        self._joined.discard(group)
        key = group_key(self._layer, group)
        if not self._commands.is_down(key):  # else the membership ends by not being refreshed
            self._commands.execute_quietly(key, "ZREM", key, _text(self._process))

    async def add(self, group: str, member: str) -> None:
        """Writes that `member`, of whatever kind, is in `group`."""
        key = group_key(self._layer, group)
        try:
            await self._commands.execute(key, "ZADD", key, int(time.time()), _text(member))
        finally:
            self._commands.execute_quietly(key, "EXPIRE", key, math.ceil(self._layer.group_expiry))

    async def discard(self, group: str, member: str) -> None:
        """Ends the membership of `member`."""
        key = group_key(self._layer, group)
        await self._commands.execute(key, "ZREM", key, _text(member))

    async def others(self, group: str) -> list[str]:
        """The members of `group` but this process."""
        key = group_key(self._layer, group)
        found = await self._commands.execute(key, "ZRANGEBYSCORE", key, oldest(self._layer), "+inf")
        return [name for name in map(member_name, found) if name != self._process]

    async def write_all(self) -> None:
        """Writes every membership of this process, again and again until Redis has them."""
        self._joined.clear()
        await self._write_missing()

    async def _write_missing(self) -> None:
        while missing := [group for group in self._local.groups if group not in self._joined]:
            try:
                await asyncio.gather(*(self.add(group, self._process) for group in missing))
            except LayerUnavailableError:
                await asyncio.sleep(RETRY_S)
            else:
                self._joined.update(missing)

    def write_all_soon(self) -> None:
        """A node of a cluster was lost or replaced, perhaps by one that has not heard of all of them."""
        if self._local.groups:
            self._do(self.write_all())

    def _refresh_later(self) -> None:
        if self._refresh is None:
            loop = asyncio.get_running_loop()
            self._refresh = loop.call_later(self._layer.group_expiry / REFRESHES_PER_GROUP_EXPIRY, self._refresh_now)

    def _refresh_now(self) -> None:
        self._refresh = None
        if self._local.groups:
            self._do(self.write_all())
            self._refresh_later()


def oldest(layer: RemoteChannelLayer[Any]) -> int:
    """When the oldest memberships that still hold were written, in seconds on this machine's clock."""
    return int(time.time() - layer.group_expiry)


def member_name(text: bytes | str) -> str:
    """The member that a command of Redis returned."""
    return text.decode("utf-8", "surrogatepass") if isinstance(text, bytes) else text


def _text(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
