"""Members of groups: what presence is, whatever the layer, and the members in one process.

Those who watch a group are told through the layer, so at most once: `members` is the truth.
"""

import itertools
import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from gateway.layers.base import BaseChannelLayer, LayerUnavailableError
from gateway.layers.redis.sync_clients import run_now
from gateway.layers.validation import require_name

logger = logging.getLogger("gateway.layer")


class Member(NamedTuple):
    """One who is in a group; `data` is what it entered with."""

    id: str
    data: dict[str, Any]


class Entry:
    """A member that this process entered; its ID changes when it had to be entered anew."""

    __slots__ = ("data", "group", "id", "left")

    def __init__(self, group: str, data: dict[str, Any]) -> None:
        self.group = group
        self.data = data
        self.id = ""
        self.left = False

    @property
    def member(self) -> Member:
        """What others see."""
        return Member(self.id, self.data)


class Presence:
    """Who is in the groups of one layer. Not used by itself: see `gateway.layers.manager.presence`."""

    def __init__(self, layer: BaseChannelLayer) -> None:
        self._layer = layer

    async def enter(self, group: str, data: dict[str, Any] | None = None) -> Entry:
        """Makes somebody a member of `group` until `leave`, or the end of this process; tells those who watch."""
        require_name("Group", group)
        entry = Entry(group, dict(data or {}))
        await self._enter(entry)
        return entry

    async def leave(self, entry: Entry) -> None:
        """Ends a membership, once; tells those who watch."""
        if not entry.left:
            entry.left = True
            await self._leave(entry)

    async def members(self, group: str) -> list[Member]:
        """Who is in `group` now, in all processes, by ID."""
        require_name("Group", group)
        return sorted(await self._members(group))

    async def watch(self, group: str, channel: str) -> list[Member]:
        """Sends `presence.joined` and `presence.left` for `group` to `channel` from now on; returns who is there."""
        await self._layer.group_add(events_group(group), channel)
        return await self.members(group)

    async def unwatch(self, group: str, channel: str) -> None:
        """Ends `watch`."""
        await self._layer.group_discard(events_group(group), channel)

    @property
    def sync(self) -> "SyncPresence":
        """What synchronous code can do: views, Celery tasks, threads, scripts."""
        return SyncPresence(self)

    async def close(self) -> None:
        """Lets go of what the running event loop has: its members are dead when their lease ends."""

    async def _tell(self, what: str, group: str, member: Member) -> None:
        message = {"type": what, "group": group, "member": member._asdict()}
        try:
            await self._layer.group_send(events_group(group), message)
        except LayerUnavailableError as error:
            logger.warning("%s could not be told to other processes: %s", what, error)

    async def _enter(self, entry: Entry) -> None:
        raise NotImplementedError

    async def _leave(self, entry: Entry) -> None:
        raise NotImplementedError

    async def _members(self, group: str) -> Iterable[Member]:
        raise NotImplementedError


class SyncPresence:
    """Who is in the groups, for synchronous code. To be a member needs an event loop that lives as long."""

    def __init__(self, presence: Presence) -> None:
        """Of `presence`, `members` waits for nothing."""
        self._presence = presence

    def members(self, group: str) -> list[Member]:
        """As `Presence.members`."""
        return run_now(self._presence.members(group))

    def close(self) -> None:
        """Closes the connections, which open again when used."""
        run_now(self._presence.close())


class MemoryPresence(Presence):
    """Members in this process."""

    def __init__(self, layer: BaseChannelLayer) -> None:
        super().__init__(layer)
        self._groups: dict[str, dict[str, Member]] = {}
        self._numbers = itertools.count(1)

    async def _enter(self, entry: Entry) -> None:
        entry.id = f"memory!{next(self._numbers)}"
        member = self._groups.setdefault(entry.group, {})[entry.id] = Member(entry.id, entry.data)
        await self._tell("presence.joined", entry.group, member)

    async def _leave(self, entry: Entry) -> None:
        members = self._groups.get(entry.group, {})
        member = members.pop(entry.id, None)
        if not members:
            self._groups.pop(entry.group, None)
        if member is not None:
            await self._tell("presence.left", entry.group, member)

    async def _members(self, group: str) -> Iterable[Member]:
        return list(self._groups.get(group, {}).values())


def events_group(group: str) -> str:
    """The group that those are in who watch `group`."""
    return f"presence:{group}"
