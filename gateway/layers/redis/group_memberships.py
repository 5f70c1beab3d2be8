"""The groups that a process is in, as Redis has to know them for the queue layer.

`{prefix}:group:{group}` is a sorted set: each member, and the time it was written last. Members are processes (their
name up to the "!") and channels that no process owns. Only a process knows which of its channels are members.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from gateway.layers.base import LayerUnavailableError
from gateway.layers.local import LocalChannels
from gateway.layers.redis.commands import Commands
from gateway.layers.redis.options import RedisOptions
from gateway.layers.validation import decode_name, encode_name, escape_name

REFRESHES_PER_GROUP_EXPIRY: Final = 4
RETRY_S: Final = 0.1


class GroupMemberships:
    """Writes to Redis that `process` is in a group while a channel of it is, and again before that would expire."""

    def __init__(
        self,
        options: RedisOptions,
        process: str,
        *,
        local: LocalChannels,
        commands: Commands,
        run_in_background: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """`local` has the groups of this process."""
        self._options = options
        self._process = process
        self._local = local
        self._commands = commands
        self._run_in_background = run_in_background
        self._joined: set[str] = set()
        self._refresh: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Forgets what was written, and ends the refreshing."""
        if self._refresh is not None:
            self._refresh.cancel()
            self._refresh = None
        self._joined.clear()

    async def join(self, group: str) -> None:
        """Returns when Redis knows that this process is in `group`, or at once while the connection is lost.

        Then it is written when the connection is back. Raises LayerUnavailableError if there never was one.
        """
        if group in self._joined:
            return
        try:
            await self.add(group, self._process)
        except LayerUnavailableError:
            if not self._commands.was_up(self._key(group)):
                raise
            self._joined.discard(group)
            self._run_in_background(self._write_missing())
        else:
            self._note_written([group])
        self._refresh_later()

    def leave(self, group: str) -> None:
        """Removes this process from `group`, without waiting for Redis."""
        self._joined.discard(group)
        key = self._key(group)
        if not self._commands.is_down(key):  # else the membership expires
            self._commands.execute_quietly(key, "ZREM", key, encode_name(self._process))

    async def add(self, group: str, member: str) -> None:
        """Writes that `member`, a process or a channel, is in `group`."""
        key = self._key(group)
        try:
            await self._commands.execute(key, "ZADD", key, int(time.time()), encode_name(member))
        finally:
            self._commands.execute_quietly(key, "EXPIRE", key, math.ceil(self._options.group_expiry))

    async def discard(self, group: str, member: str) -> None:
        """Ends the membership of `member`."""
        key = self._key(group)
        await self._commands.execute(key, "ZREM", key, encode_name(member))

    async def others(self, group: str) -> list[str]:
        """The members of `group` except this process."""
        key = self._key(group)
        found = await self._commands.execute(key, "ZRANGEBYSCORE", key, oldest(self._options), "+inf")
        return [name for name in map(decode_name, found) if name != self._process]

    async def write_all(self) -> None:
        """Writes every membership of this process, and tries again until Redis has them."""
        self._joined.clear()
        await self._write_missing()

    async def _write_missing(self) -> None:
        while missing := [group for group in self._local.groups if group not in self._joined]:
            try:
                await asyncio.gather(*(self.add(group, self._process) for group in missing))
            except LayerUnavailableError:
                await asyncio.sleep(RETRY_S)
            else:
                self._note_written(missing)

    def _note_written(self, groups: Iterable[str]) -> None:
        # Without those left meanwhile, which Redis no longer has: who joins them next has to write it again.
        self._joined.update(group for group in groups if group in self._local.groups)

    def write_all_soon(self) -> None:
        """Called when a node of a cluster was lost or replaced: the new one may not have all memberships."""
        if self._local.groups:
            self._run_in_background(self.write_all())

    def _refresh_later(self) -> None:
        if self._refresh is None:
            loop = asyncio.get_running_loop()
            self._refresh = loop.call_later(self._options.group_expiry / REFRESHES_PER_GROUP_EXPIRY, self._refresh_now)

    def _refresh_now(self) -> None:
        self._refresh = None
        if self._local.groups:
            self._run_in_background(self.write_all())
            self._refresh_later()

    def _key(self, group: str) -> bytes:
        return group_key(self._options, group)


def group_key(options: RedisOptions, group: str) -> bytes:
    """The sorted set of the members of `group`."""
    return f"{options.prefix}:group:{escape_name(group)}".encode()


def oldest(options: RedisOptions) -> int:
    """The time before which a membership that was written has expired, in seconds on this machine's clock."""
    return int(time.time() - options.group_expiry)
