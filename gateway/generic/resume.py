"""Consumers that miss nothing: they get what is sent to a group in order, each once, and what was sent meanwhile.

    class Room(ResumableGroups, AsyncJsonWebsocketConsumer):
        async def connect(self):
            await self.accept()
            await self.resume(["room.1"], cursor_that_the_client_sent)

        async def chat_message(self, event):
            await self.send_json({"text": event["text"], "cursor": self.cursor})

        async def group_gap(self, event):
            await self.send_json({"reload": True})

The messages are those that `gateway.layers.manager.group_log().send(group, message)` sends. What comes over the layer
is taken as news that there is a message: one that does not directly follow the last one makes the consumer read the
log. That covers a message that overtook another, one that a full mailbox dropped, and a connection to Redis that was
lost.
"""

from collections.abc import Iterable
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlencode

from gateway.consumer import AsyncConsumer
from gateway.dispatch.background import Timer
from gateway.layers import LayerEvent, LayerUnavailableError
from gateway.layers.group_log import GroupLog, Position
from gateway.layers.manager import group_log
from protocols.asgi import Event
from protocols.log_lines import PeerLog

peer_log = PeerLog("gateway.layer")

RETRY_S = 0.5
MAX_CURSOR_LENGTH = 8192


class ResumableGroups(AsyncConsumer, events=("layer.reconnected", "group.gap")):
    """To be put before a consumer class. All groups joined by `resume` are followed; `group_add` joins as ever."""

    channel_layer_alias: ClassVar[str]
    """Not None: what is followed are groups of a layer."""

    __followed: dict[str, Position] = {}
    __log: GroupLog
    __retry: Timer | None = None

    @property
    def cursor(self) -> str:
        """Where this consumer is in the groups that it follows: for the client to keep, and `resume` to take back."""
        return urlencode({group: str(position) for group, position in self.__followed.items()})

    async def resume(self, groups: Iterable[str], cursor: str | None = None) -> None:
        """Joins `groups` and gives the handlers what was sent to them after `cursor`.

        A group that is not in the cursor begins with the next message. What is not a cursor is a gap in each group.
        """
        positions = parse_cursor(cursor)
        self.__log = group_log(self.channel_layer_alias)
        assert self.channel_layer is not None
        self.__followed = dict(self.__followed)
        for group in groups:
            after = (positions or {}).get(group)
            self.__followed[group] = await self.__log.end(group) if after is None else after
            await self.channel_layer.group_add(group, self.channel_name)
            if positions is None:
                await self.__tell_gap(group, None)
        await self.__catch_up_all()

    async def unfollow(self, group: str) -> None:
        """Leaves a group that `resume` joined."""
        self.__followed.pop(group, None)
        assert self.channel_layer is not None
        await self.channel_layer.group_discard(group, self.channel_name)

    async def group_gap(self, event: Event) -> None:
        """Called when messages of event["group"] after the position event["after"] are gone; may be overridden.

        Those that the log still has are given to the handlers next. `after` is None when it is not known.
        """

    async def layer_reconnected(self, event: Event) -> None:
        """The layer is back. What was missed is read from the logs after this; does nothing, unless overridden."""

    async def dispatch(self, message: Event) -> None:
        """Runs the handler of `message`, if it is its turn, and of those that should have come before."""
        origin = message.get("log")
        if isinstance(origin, dict) and origin.get("group") in self.__followed:
            await self.__take(origin["group"], Position.parse(origin["position"]), message)
            return
        await super().dispatch(message)
        if isinstance(message, LayerEvent):
            await self.__catch_up_all()

    async def __take(self, group: str, position: Position, message: Event) -> None:
        seen = self.__followed[group]
        if seen.epoch == position.epoch and position.number <= seen.number:
            return  # it was in the log when that was read
        if seen.directly_before(position):
            await self.__give(group, position, message)
        elif not await self.__catch_up(group):
            await self.__tell_gap(group, seen)
            await self.__give(group, position, message)

    async def __catch_up_all(self) -> None:
        """Reads all logs; if Redis takes part in the layer again but not yet here, tries again until they are read."""
        caught_up = [await self.__catch_up(group) for group in list(self.__followed)]
        if all(caught_up):
            if self.__retry is not None:
                self.__retry.cancel()
                self.__retry = None
        elif self.__retry is None:
            self.__retry = self.every(RETRY_S, self.__catch_up_all)

    async def __catch_up(self, group: str) -> bool:
        """Reads the log; False when it cannot be read now."""
        seen = self.__followed.get(group)
        if seen is None:
            return True  # a handler left it
        try:
            replay = await self.__log.read(group, seen)
        except LayerUnavailableError as error:
            name = type(self).__qualname__
            peer_log.info(name, "the log of a group cannot be read: %s", error)  # the layer says so aloud, once
            return False
        if replay.gap:
            await self.__tell_gap(group, seen)
        for message in replay.messages:
            if group not in self.__followed:
                return True  # a handler left it
            await self.__give(group, Position.parse(message["log"]["position"]), message)
        if group in self.__followed:
            self.__followed[group] = replay.end
        return True

    async def __give(self, group: str, position: Position, message: Event) -> None:
        self.__followed[group] = position
        await super().dispatch(message)

    async def __tell_gap(self, group: str, after: Position | None) -> None:
        text = None if after is None else str(after)
        await self.group_gap({"type": "group.gap", "group": group, "after": text})


def parse_cursor(cursor: str | None) -> dict[str, Position] | None:
    """The positions in a cursor, which a client may have made up; None when it is none."""
    if not cursor:
        return {}
    try:
        if len(cursor) > MAX_CURSOR_LENGTH:
            return None
        pairs: list[tuple[str, Any]] = parse_qsl(cursor, strict_parsing=True, keep_blank_values=True)
        return {group: Position.parse(text) for group, text in pairs}
    except ValueError:
        return None
