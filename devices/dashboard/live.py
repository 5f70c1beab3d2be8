"""The live streams that browsers watch, by WebSocket and by Server-Sent Events: one stream, two carriers.

What is sent (docs/dashboard.md has each message):

- a snapshot first, and again when messages may have been missed (this consumer fell behind, the layer was away), when
  a device has come that the page may have to show, and every 15 s, because nothing announces that a device was
  connected to a gateway process that was killed;
- then what is committed. The stream of a device passes on the ready text of each commit. The dashboard's has only the
  devices on its page, merged, at most four times a second;
- a heartbeat every 5 s: a browser does not see WebSocket pings, and knows by this that the stream is alive.

No update is missed or overtaken by a snapshot: the group is joined first, then the database is read, and what has come
meanwhile is sent after it. A client keeps the value with the greatest time, so what comes twice does no harm.
"""

import time
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl

import msgspec
from django.urls import path

from devices.dashboard.access import may_watch, session_may_watch
from devices.dashboard.device_list import DeviceList, DeviceListQuery, as_message, read_device, read_device_list
from devices.dashboard.page_changes import ConnectionChanged, PageChanges, decode
from devices.fanout import FLEET_GROUP, device_group
from devices.models import Device, now_ms
from gateway.auth import AuthMiddlewareStack
from gateway.consumer import AsyncConsumer
from gateway.db import database_sync_to_async
from gateway.dispatch.mailbox import MailboxPolicy
from gateway.exceptions import StopConsumer
from gateway.generic.sse import AsyncSseConsumer
from gateway.generic.websocket import AsyncWebsocketConsumer
from gateway.security.websocket import AllowedHostsOriginValidator
from protocols.asgi import Event

ACCESS_ENDED: Final = 4403

HEARTBEAT_INTERVAL_S: Final = 5.0
HEARTBEATS_PER_REFRESH: Final = 3
PUSH_INTERVAL_S: Final = 0.25
SNAPSHOT_INTERVAL_S: Final = 1.0
"""Between the snapshots of a client that keeps falling behind, or of a fleet that keeps growing."""

RECONNECT_MS: Final = 2_000


class LiveStream(AsyncConsumer):
    """The part that both carriers share. They implement `begin`, `refuse`, `_send_text` and `end`."""

    mailbox_capacity: ClassVar[int | None] = 200
    mailbox_policy: ClassVar[MailboxPolicy] = "drop_oldest"

    _device_id: int | None
    _changes: PageChanges | None = None
    _ticks = 0
    _snapshot_at = float("-inf")
    _pushed_at = float("-inf")
    _push_pending = False
    _resync_pending = False

    # To be implemented by a carrier

    async def begin(self) -> None:
        """Accepts the connection."""
        raise NotImplementedError

    async def refuse(self, status: int, why: str) -> None:
        """Refuses the connection, before `begin`: with a status of HTTP, if it can. `why` is for the log."""
        raise NotImplementedError

    async def _send_text(self, text: str) -> None:
        """Sends one message."""
        raise NotImplementedError

    async def end(self) -> None:
        """Closes the connection; this user shall not come back."""
        raise NotImplementedError

    # Life

    async def connect(self) -> None:
        """Begins the stream, if the user may watch and there is such a device."""
        if not await self._may_watch():
            user = self.scope["user"]
            why = f"{user} may not view devices" if user.is_authenticated else "nobody is logged in"
            await self.refuse(403, why)
            return
        self._device_id = self.scope["url_route"]["kwargs"].get("device_id")
        if self._device_id is not None and not await self._is_there(self._device_id):
            await self.refuse(404, f"there is no device {self._device_id}")
            return
        await self.begin()
        group = FLEET_GROUP if self._device_id is None else device_group(self._device_id)
        assert self.channel_layer is not None, "live streams need a channel layer"
        await self.channel_layer.group_add(group, self.channel_name)
        await self._send_snapshot(gap=True)
        self.every(HEARTBEAT_INTERVAL_S, self._tick)

    async def background_failed(self, event: Event) -> None:
        """What a timer called has failed, as the log says: ends the stream, which the page begins anew."""
        raise StopConsumer

    # What comes from the layer

    async def readings_committed(self, message: Event) -> None:
        """A commit, or a change of a connection: {"text": the message for browsers}."""
        if self.mailbox_overflowed:
            await self._resync()
        elif self._resync_pending:
            pass  # the snapshot that is due will show it
        elif self._changes is None:
            await self._send_text(message["text"])
        else:
            await self._take(self._changes, message["text"])

    async def layer_disconnected(self, message: Event) -> None:
        """The layer lost its server: commits of other processes do not come."""
        await self._tell({"type": "stale", "why": "layer"})

    async def layer_reconnected(self, message: Event) -> None:
        """The layer has its server back: a snapshot makes up for what was missed."""
        await self._send_snapshot(gap=True)

    # What comes from the timers

    async def _tick(self) -> None:
        """Sends a heartbeat, or every third time a snapshot; ends the stream if the user may no longer watch."""
        self._ticks += 1
        if not await self._still_may_watch():
            await self._tell({"type": "denied"})
            await self.end()
        elif self._ticks % HEARTBEATS_PER_REFRESH:
            await self._tell({"type": "heartbeat"})
        elif self._is_cut_off():
            await self._tell({"type": "stale", "why": "layer"})
        else:
            await self._send_snapshot(gap=False)

    async def _push_gathered(self) -> None:
        self._push_pending = False
        await self._push()

    async def _send_late_snapshot(self) -> None:
        await self._send_snapshot(gap=True)

    # The dashboard's share of the fleet

    async def _take(self, changes: PageChanges, text: str) -> None:
        message = decode(text)
        if message is None:
            return  # the next snapshot shows what it had
        if isinstance(message, ConnectionChanged):
            if changes.take_connection(message):
                await self._send_text(text)
        elif changes.take_readings(message) and not self._push_pending:
            wait_s = self._pushed_at + PUSH_INTERVAL_S - time.monotonic()
            if wait_s <= 0:
                await self._push()
            else:
                self._push_pending = True
                self.later(wait_s, self._push_gathered)
        if changes.outdated:
            await self._resync()

    async def _push(self) -> None:
        message = None if self._changes is None else self._changes.drain()
        if message is not None:
            self._pushed_at = time.monotonic()
            await self._tell(message)

    # Snapshots

    async def _resync(self) -> None:
        """Sends a snapshot in place of everything that waits; later, if the last one is too recent."""
        self.drop_waiting()
        wait_s = self._snapshot_at + SNAPSHOT_INTERVAL_S - time.monotonic()
        if wait_s <= 0:
            await self._send_snapshot(gap=True)
        elif not self._resync_pending:
            self._resync_pending = True
            self.later(wait_s, self._send_late_snapshot)

    async def _send_snapshot(self, *, gap: bool) -> None:
        """`gap`: whether updates may have been missed before it, so that a chart has to read its history again."""
        if self._device_id is None:
            shown = await self._read_device_list()
            self._changes = PageChanges(shown)
            devices = [as_message(device) for device in shown.devices]
            snapshot = {"devices": devices, "total": shown.total, "page": shown.page, "pages": shown.pages}
        else:
            facts = await database_sync_to_async(read_device)(self._device_id, self._parameters().get("q", ""))
            snapshot = {"devices": [] if facts is None else [as_message(facts)]}
        self._resync_pending = False
        self._snapshot_at = time.monotonic()
        await self._tell({"type": "snapshot", "gap": gap, **snapshot})
        if self._is_cut_off():
            await self._tell({"type": "stale", "why": "layer"})

    async def _read_device_list(self) -> DeviceList:
        return await database_sync_to_async(read_device_list)(DeviceListQuery.parse(self._parameters()))

    def _parameters(self) -> dict[str, str]:
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1"), errors="replace"))

    def _is_cut_off(self) -> bool:
        return self.channel_layer is not None and not self.channel_layer.connected

    # Who watches

    async def _is_there(self, device_id: int) -> bool:
        return await database_sync_to_async(Device.objects.filter(pk=device_id).exists)()

    async def _may_watch(self) -> bool:
        return await database_sync_to_async(may_watch)(self.scope["user"])

    async def _still_may_watch(self) -> bool:
        return await database_sync_to_async(session_may_watch)(self.scope["session"].session_key)

    async def _tell(self, message: dict[str, Any]) -> None:
        message.setdefault("now", now_ms())
        await self._send_text(msgspec.json.encode(message).decode())


class LiveConsumer(LiveStream, AsyncWebsocketConsumer):
    """The stream over WebSocket. Refuses with 403; closes with 4403 when the user may no longer watch."""

    async def begin(self) -> None:
        await self.accept()

    async def refuse(self, status: int, why: str) -> None:
        """Refuses the handshake, with 403 in any case."""
        await self.close(reason=why)

    async def _send_text(self, text: str) -> None:
        await self.send(text_data=text)

    async def end(self) -> None:
        await self.close(ACCESS_ENDED, "no longer allowed")


class LiveEventsConsumer(LiveStream, AsyncSseConsumer):
    """The stream as Server-Sent Events, each with an `id`; 403 for a user who may not watch, 404 for no such device."""

    _sent = 0

    async def begin(self) -> None:
        await self.accept()

    async def refuse(self, status: int, why: str) -> None:
        """Answers with the status, after which an EventSource does not try again."""
        await self.deny(status, log_reason=why)

    async def _send_text(self, text: str) -> None:
        self._sent += 1
        await self.send_event(text, id=str(self._sent), retry=RECONNECT_MS if self._sent == 1 else None)

    async def end(self) -> None:
        """Ends the response; the message before says that there is no use in coming back."""
        await self.close()


_socket = AllowedHostsOriginValidator(AuthMiddlewareStack(LiveConsumer.as_asgi()))
_events = AuthMiddlewareStack(LiveEventsConsumer.as_asgi())

live_websocket_routes = [path("ws/live/", _socket), path("ws/live/<int:device_id>/", _socket)]
live_http_routes = [path("events/live/", _events), path("events/live/<int:device_id>/", _events)]
