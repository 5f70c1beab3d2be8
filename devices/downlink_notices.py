"""Says to every gateway process that something waits for a device."""

import logging
from collections.abc import Sequence
from typing import Any, Final

from django.db import transaction

from devices.models import DownlinkNotice
from gateway.layers import get_channel_layer
from protocols.log_lines import RateLimitedLog

_limited_log: Final = RateLimitedLog(logging.getLogger("gateway.devices"))

GROUP: Final = "gateway.downlink"
"""One group for all devices, whose members are the processes: joining one for each device would cost a device that
comes back a call to Redis, and there may be ten thousand at once (ADR 24)."""
MESSAGE_TYPE: Final = "downlink.due"
DEVICES_PER_MESSAGE: Final = 1_000
KEEP_NOTICES: Final = 10_000
"""How many notices are kept for processes that have not seen them yet. One that is slower than that misses none of what
waits for a device that connects: that is looked for anyway."""


def note(*device_ids: int) -> None:
    """To be called in the transaction that writes what waits; when it is committed, the processes are told."""
    DownlinkNotice.objects.bulk_create(DownlinkNotice(device_id=device_id) for device_id in device_ids)
    transaction.on_commit(lambda: _tell(device_ids))


def _tell(device_ids: Sequence[int]) -> None:
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        for start in range(0, len(device_ids), DEVICES_PER_MESSAGE):
            ids = list(device_ids[start : start + DEVICES_PER_MESSAGE])
            layer.sync.group_send(GROUP, {"type": MESSAGE_TYPE, "device_ids": ids})
    except Exception as error:  # whatever a layer raises: the notice is found all the same
        _limited_log.warning("cannot tell that something waits for a device; it is found within a second: %s", error)


def devices_of(message: dict[str, Any]) -> list[int] | None:
    """The devices that a message of the group is about; None for what is no such message."""
    device_ids = message.get("device_ids")
    if message.get("type") != MESSAGE_TYPE or type(device_ids) is not list:
        return None
    return device_ids if all(type(device_id) is int for device_id in device_ids) else None


class NoticeReader:
    """Finds the notices that were written since the last look. Of two that are written at once, the one with the higher
    number may appear first: each look goes some way back."""

    OVERLAP: Final = 1_000

    def __init__(self) -> None:
        self._last: int | None = None
        self._seen: set[int] = set()

    def read(self) -> set[int]:
        """The devices of new notices; of the first look none, as whoever is connected was looked at then."""
        if self._last is None:
            self._last = DownlinkNotice.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
            return set()
        recent = dict(DownlinkNotice.objects.filter(pk__gt=self._last - self.OVERLAP).values_list("pk", "device_id"))
        new = recent.keys() - self._seen
        if not new:
            return set()
        self._last = max(self._last, *new)
        self._seen = {pk for pk in recent if pk > self._last - self.OVERLAP}
        return {recent[pk] for pk in new}

    def prune(self) -> None:
        """Deletes notices that every process has seen."""
        if self._last is not None:
            DownlinkNotice.objects.filter(pk__lte=self._last - KEEP_NOTICES).delete()
