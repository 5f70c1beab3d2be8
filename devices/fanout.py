"""Sends what was committed to the dashboards: one message per commit and group, encoded once.

    {"type": "readings", "now": ms, "devices": {"<id>": {"name": ..., "readings": [[key, ts, value, ...], ...]}}}
    {"type": "connection", "id": ..., "connected": bool, "now": ms}

What follows the time is that of devices.values.told, so no value is longer than a line. The group of a device gets its
newest readings, up to NEWEST_PER_DEVICE a commit; the group of the fleet, of each device, the newest of
the first KEYS_PER_ROW keys by name, which is what a row has room for. This is never the durable path: a channel layer
that is slow or away delays nobody but dashboards. Commits that come while it is busy wait; of more than MAX_WAITING the
oldest is dropped and counted, and dashboards make up for it with their next snapshot.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from heapq import nsmallest
from typing import Any, Final

import msgspec

from devices import metrics
from devices.models import now_ms
from devices.observers import Observer
from devices.reading_batch import ReadingBatch
from devices.values import told
from devices.writers import Row
from gateway.layers import BaseChannelLayer
from protocols.log_lines import PeerLog, RateLimitedLog

peer_log = PeerLog("gateway.fanout")
logger = logging.getLogger("gateway.fanout")

FLEET_GROUP: Final = "devices"
KEYS_PER_ROW: Final = 6
"""Keys of a device for which a row of the dashboard has room."""
MAX_WAITING: Final = 100


def device_group(device_id: int) -> str:
    """The group of the dashboards that watch one device."""
    return f"device.{device_id}"


class Fanout(Observer):
    """Sends what was committed to the groups of the dashboards, from one task."""

    def __init__(self, layer: BaseChannelLayer) -> None:
        self._layer = layer
        self._waiting: deque[ReadingBatch] = deque()
        self._connections: dict[int, bool] = {}
        self._work = asyncio.Event()
        self._limited_log = RateLimitedLog(logger)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="fanout")

    def committed(self, batch: ReadingBatch) -> None:
        """Queues a committed batch to be announced. Never waits."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._note_failure("the channel layer is slow: dropped the oldest message")
        self._waiting.append(batch)
        self._work.set()

    def connection(self, device_id: int, connected: bool) -> None:
        """Queues the announcement that a device has connected, or has no connection left. Of many changes the last
        counts."""
        self._connections[device_id] = connected
        self._work.set()

    async def close(self) -> None:
        """Ends at once."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._announce()
            except Exception as error:
                peer_log.error("dashboards", "announcing to dashboards failed", exc_info=error)
                self._work.set()  # for what still waits

    async def _announce(self) -> None:
        connections, self._connections = self._connections, {}
        for device_id, connected in connections.items():
            change = {"type": "connection", "id": device_id, "connected": connected, "now": now_ms()}
            await self._send(FLEET_GROUP, change)
            await self._send(device_group(device_id), change)
        while self._waiting:
            await self._announce_batch(self._waiting.popleft())

    async def _announce_batch(self, batch: ReadingBatch) -> None:
        if not self._layer.group_is_empty(FLEET_GROUP):
            latest: dict[int, list[Row]] = {}
            for step in batch.latest:
                for row in step:
                    latest.setdefault(row[0], []).append(row)
            names = batch.key_names
            for device_id, rows in latest.items():
                if len(rows) > KEYS_PER_ROW:
                    latest[device_id] = nsmallest(KEYS_PER_ROW, rows, key=lambda row: names[row[1]])
            await self._send(FLEET_GROUP, _readings(batch, latest))
        watched = {
            device_id for device_id in batch.submissions if not self._layer.group_is_empty(device_group(device_id))
        }
        if watched:  # mostly few of many devices, whose rows are gone through only then
            for device_id, newest in batch.newest_of(watched).items():
                await self._send(device_group(device_id), _readings(batch, {device_id: newest}))

    async def _send(self, group: str, message: dict[str, Any]) -> None:
        if self._layer.group_is_empty(group):
            return
        text = msgspec.json.encode(message).decode()
        try:
            await self._layer.group_send(group, {"type": "readings.committed", "text": text})
        except Exception as error:  # whatever a layer raises, here it costs dashboards a moment, not devices
            self._note_failure(f"the channel layer does not take messages: {error}")

    def _note_failure(self, why: str) -> None:
        metrics.fanout_failures.inc()
        self._limited_log.warning("dashboards fall behind: %s", why)


def _readings(batch: ReadingBatch, rows: Mapping[int, Iterable[Row]]) -> dict[str, Any]:
    """The message with these rows of devices."""
    names = batch.key_names
    devices = {
        str(device_id): {
            "name": batch.submissions[device_id].name,
            "readings": [
                (names[row[1]], row[2], row[5])
                if row[6] is None and row[5] is not None
                else (names[row[1]], row[2], *told(row[5], row[6]))
                for row in of_device
            ],
        }
        for device_id, of_device in rows.items()
    }
    return {"type": "readings", "now": now_ms(), "devices": devices}
