"""Presence: who is in a group. The interface, and the members in one process.

Watchers of a group get events through the layer, so at most once: `members` is the truth.
"""

import itertools
import logging
from typing import Any, NamedTuple, Protocol

from gateway.layers.base import BaseChannelLayer, LayerUnavailableError, run_now
from gateway.layers.validation import require_name

logger = logging.getLogger("gateway.layer")


class Member(NamedTuple):
    """A member of a group; `data` is what it entered with."""

    id: str
    data: dict[str, Any]


class Entry:
    """A member that this process entered. It gets a new ID when it has to be entered again."""

    __slots__ = ("data", "group", "id", "left")

    def __init__(self, group: str, data: dict[str, Any]) -> None:
        self.group = group
        self.data = data
        self.id = ""
        self.left = False

    @property
    def member(self) -> Member:
        """The entry as others see it."""
        return Member(self.id, self.data)


class Presence:
    """Who is in the groups of one layer, made by `gateway.layers.manager.presence`.

    A subclass implements `_enter`, `_leave` and `_members`.
    """

    def __init__(self, layer: BaseChannelLayer) -> None:
        self.layer = layer

    async def enter(self, group: str, data: dict[str, Any] | None = None) -> Entry:
        """Adds a member to `group` until `leave` or the end of this process; sends `presence.joined` to watchers."""
        require_name("Group", group)
        entry = Entry(group, dict(data or {}))
        await self._enter(entry)
        return entry

    async def leave(self, entry: Entry) -> None:
        """Ends a membership, once; sends `presence.left` to watchers."""
        if not entry.left:
            entry.left = True
            await self._leave(entry)

    async def members(self, group: str) -> list[Member]:
        """Who is in `group` now, in all processes, by ID."""
        require_name("Group", group)
        return await self._members(group)

    async def watch(self, group: str, channel: str) -> list[Member]:
        """Sends `presence.joined` and `presence.left` of `group` to `channel` from now on; returns the members now."""
        await self.layer.group_add(events_group(group), channel)
        return await self.members(group)

    async def unwatch(self, group: str, channel: str) -> None:
        """Ends `watch`."""
        await self.layer.group_discard(events_group(group), channel)

    @property
    def sync(self) -> "SyncPresence":
        """`members` for synchronous code: views, Celery tasks, threads, scripts."""
        return SyncPresence(self)

    async def close(self) -> None:
        """Closes the connections of the running event loop; its members count until their lease ends."""

    async def send_event(self, what: str, group: str, member: Member) -> None:
        """Sends `presence.joined` or `presence.left` to the watchers of `group`, if the layer can."""
        message = {"type": what, "group": group, "member": member._asdict()}
        try:
            await self.layer.group_send(events_group(group), message)
        except LayerUnavailableError as error:
            logger.warning("%s could not be told to other processes: %s", what, error)

    async def _enter(self, entry: Entry) -> None:
        raise NotImplementedError

    async def _leave(self, entry: Entry) -> None:
        raise NotImplementedError

    async def _members(self, group: str) -> list[Member]:
        """By ID."""
        raise NotImplementedError


class MembersReader(Protocol):
    """The part of presence that synchronous code can use."""

    async def members(self, group: str) -> list[Member]:
        """As `Presence.members`."""

    async def close(self) -> None:
        """Closes the connections, which open again when used."""


class SyncPresence:
    """Who is in the groups, for synchronous code. To be a member takes an event loop that lives as long."""

    def __init__(self, reader: MembersReader) -> None:
        """The coroutines of `reader` never wait."""
        self._reader = reader

    def members(self, group: str) -> list[Member]:
        """As `Presence.members`."""
        require_name("Group", group)
        return run_now(self._reader.members(group))

    def close(self) -> None:
        """Closes the connections, which open again when used."""
        run_now(self._reader.close())


class MemoryPresence(Presence):
    """Members in this process."""

    def __init__(self, layer: BaseChannelLayer) -> None:
        super().__init__(layer)
        self._groups: dict[str, dict[str, Member]] = {}
        self._numbers = itertools.count(1)

    async def _enter(self, entry: Entry) -> None:
        entry.id = f"memory!{next(self._numbers)}"
        member = self._groups.setdefault(entry.group, {})[entry.id] = Member(entry.id, entry.data)
        await self.send_event("presence.joined", entry.group, member)

    async def _leave(self, entry: Entry) -> None:
        members = self._groups.get(entry.group, {})
        member = members.pop(entry.id, None)
        if not members:
            self._groups.pop(entry.group, None)
        if member is not None:
            await self.send_event("presence.left", entry.group, member)

    async def _members(self, group: str) -> list[Member]:
        return sorted(self._groups.get(group, {}).values())


def events_group(group: str) -> str:
    """The group of the watchers of `group`."""
    return f"presence:{group}"
