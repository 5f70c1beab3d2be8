"""Subscriptions of one event loop to one Redis, kept: what is wanted is subscribed to, whatever happens in between."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from gateway.layers.redis.hosts import Host
from gateway.layers.redis.link import Link

NAMES_PER_COMMAND = 500


class SubscriberLink(Link):
    """Subscriptions: what is `wanted` is subscribed to, now and after each reconnection."""

    purpose = "subscriptions"

    def __init__(
        self,
        host: Host,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_disconnect: Callable[[], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        """`on_message(channel, payload)` per message; `on_reconnect` when all that is wanted is subscribed again."""
        super().__init__(host)
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._on_reconnect = on_reconnect
        self.wanted: set[bytes] = set()
        self._requested: set[bytes] = set()
        self._unconfirmed: Counter[bytes] = Counter()
        self._changed: set[bytes] = set()
        self._waiters: dict[bytes, list[asyncio.Future[bool]]] = {}
        self._restoring: set[bytes] | None = None

    async def subscribe(self, channel: bytes) -> bool:
        """Subscribes; True when Redis has confirmed it, False when the link is down: it is done when that is back."""
        self.want(channel)
        if self.up and not (channel in self._unconfirmed or channel in self._changed):
            return True
        if self.down:
            return False
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiters.setdefault(channel, []).append(waiter)
        return await waiter

    def want(self, channel: bytes) -> None:
        """Subscribes, without waiting for it."""
        self.start()
        if channel not in self.wanted:
            self.wanted.add(channel)
            self._change(channel)

    def unsubscribe(self, channel: bytes) -> None:
        """Unsubscribes at the end of this pass of the loop, unless it is wanted again by then."""
        if channel in self.wanted:
            self.wanted.discard(channel)
            self._change(channel)

    def _change(self, channel: bytes) -> None:
        if not self.up:
            return
        if not self._changed:
            self._loop.call_soon(self._request)
        self._changed.add(channel)

    def _request(self) -> None:
        """Sends what has changed: one command for all the channels that came and one for those that went."""
        if not self.up:
            return
        changed, self._changed = self._changed, set()
        came = [channel for channel in changed if channel in self.wanted and channel not in self._requested]
        went = [channel for channel in changed if channel not in self.wanted and channel in self._requested]
        self._requested.update(came)
        self._requested.difference_update(went)
        self._unconfirmed.update(came)
        for command, channels in (("SUBSCRIBE", came), ("UNSUBSCRIBE", went)):
            for start in range(0, len(channels), NAMES_PER_COMMAND):
                self._write(command, *channels[start : start + NAMES_PER_COMMAND])
        for channel in changed:
            if channel in self._requested and channel not in self._unconfirmed:
                self._resolve(channel, confirmed=True)  # went and came again within one pass

    def _resolve(self, channel: bytes, *, confirmed: bool) -> None:
        for waiter in self._waiters.pop(channel, ()):
            if not waiter.done():
                waiter.set_result(confirmed)

    def _on_up(self) -> None:
        self._restoring = set(self.wanted) if self._restoring is not None else None
        self._changed = set(self.wanted)
        self._request()
        self._end_restoring()

    def _end_restoring(self) -> None:
        if self._restoring is not None and not self._restoring & self.wanted:
            self._restoring = None
            self._on_reconnect()

    def _on_reply(self, reply: Any) -> bool:
        if isinstance(reply, Exception):
            raise reply  # such as NOPERM: nothing on this link works
        kind = reply[0]
        if kind == b"message":
            self._on_message(reply[1], reply[2])
        elif kind == b"subscribe":
            self._confirm(reply[1])
        return bool(self._unconfirmed)

    def _confirm(self, channel: bytes) -> None:
        self._unconfirmed[channel] -= 1
        if not self._unconfirmed[channel]:
            del self._unconfirmed[channel]
            if channel not in self._changed:
                self._resolve(channel, confirmed=True)
                if self._restoring is not None:
                    self._restoring.discard(channel)
                    self._end_restoring()

    def _on_lost(self, was_up: bool) -> None:
        self._requested.clear()
        self._unconfirmed.clear()
        self._changed.clear()
        for channel in list(self._waiters):
            self._resolve(channel, confirmed=False)
        if was_up:
            if self._restoring is None:
                self._on_disconnect()
            self._restoring = set()

    def _ping(self) -> None:
        self._write("PING")
