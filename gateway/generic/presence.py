"""Who is in a group: members with metadata, told to those who watch, correct also after a process was killed.

    class Room(PresentConsumer, AsyncJsonWebsocketConsumer):
        async def connect(self):
            await self.accept()
            await self.send_json([member.data for member in await self.watch("room.1")])
            await self.enter("room.1", {"user": self.scope["user"].username})

        async def presence_joined(self, event):     # {"group": "room.1", "member": {"id": ..., "data": {...}}}
            await self.send_json({"joined": event["member"]})

        async def presence_left(self, event):
            await self.send_json({"left": event["member"]["id"]})

A member has an ID of its own, made when it enters; two tabs of one user are two members. Those who watch are told
through the layer, so at most once: `members` is the truth.
"""

import asyncio
from typing import Any, ClassVar

from gateway.consumer import AsyncConsumer
from gateway.layers import LayerUnavailableError
from gateway.layers.manager import make_presence, presence
from gateway.layers.presence import Entry, Member, Presence
from gateway.layers.redis.presence import RedisPresence
from protocols.asgi import Receive, Scope, Send
from protocols.log_lines import PeerLog

__all__ = ["Entry", "Member", "Presence", "PresentConsumer", "RedisPresence", "make_presence", "presence"]

peer_log = PeerLog("gateway.layer")

LEAVE_TIMEOUT_S = 5.0


class PresentConsumer(AsyncConsumer, events=()):
    """To be put before a consumer class: what it entered it leaves when its connection ends, however that ends."""

    channel_layer_alias: ClassVar[str]
    """Not None: members are those of a layer."""

    __entries: dict[str, Entry] = {}

    async def enter(self, group: str, data: dict[str, Any] | None = None) -> Member:
        """Makes this consumer a member of `group`; again, with other data, as another member."""
        former = self.__entries.get(group)
        entry = await presence(self.channel_layer_alias).enter(group, data)
        self.__entries = {**self.__entries, group: entry}
        if former is not None:
            await presence(self.channel_layer_alias).leave(former)
        return Member(entry.id, entry.data)

    async def leave(self, group: str) -> None:
        """Ends the membership, if there is one."""
        entry = self.__entries.pop(group, None)
        if entry is not None:
            await presence(self.channel_layer_alias).leave(entry)

    async def members(self, group: str) -> list[Member]:
        """Who is in `group` now."""
        return await presence(self.channel_layer_alias).members(group)

    async def watch(self, group: str) -> list[Member]:
        """Calls the handlers `presence_joined` and `presence_left` from now on; returns who is there."""
        return await presence(self.channel_layer_alias).watch(group, self.channel_name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lives through one connection, then leaves every group that it has entered."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self.__entries:
                await self.__leave_all()

    async def __leave_all(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                for group in list(self.__entries):
                    await self.leave(group)
        except (LayerUnavailableError, TimeoutError) as error:
            name = type(self).__qualname__
            peer_log.warning(name, "%s could not leave its groups: %s", name, error)
