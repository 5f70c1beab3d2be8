"""The reading half of an endpoint: whether the socket of its client is read, and each of the reasons why not."""

import asyncio
from typing import Final, cast

from protocols import metrics
from protocols.mqtt.codec.packets import ReasonCode
from protocols.mqtt.connection import Connection
from protocols.mqtt.rate import Rate
from protocols.mqtt.server_state import ListenerContext, ServerState

# The reasons, as bits of `Reading._unread`.
INBOX_FULL: Final = 1
CONGESTED: Final = 2
"""So many publishes or subscriptions wait for the application."""
UNANSWERED: Final = 4
"""The application has not said yet whether it accepts the client."""
NOT_WRITABLE: Final = 8
"""The client takes less than it is sent."""
STOPPING: Final = 16
UNCOMMITTED: Final = 32
"""What it was told waits for a commit."""
TOO_FAST: Final = 64


class Reading(asyncio.Protocol):
    """Reads while there is no reason not to."""

    __slots__ = ("_context", "_ended", "_pause", "_rate", "_server_state", "_transport", "_unread", "connection")

    connection: Connection

    def __init__(self, context: ListenerContext) -> None:
        self._context = context
        self._server_state: ServerState = context.server_state
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._unread = 0
        self._ended = False
        """Whether the end of the connection has been dealt with; what comes then is thrown away."""
        self._pause: asyncio.TimerHandle | None = None
        """Ends the time for which the client, which is too fast, is not read."""
        self._rate: Rate | None = None
        options = context.options
        if options.max_messages_per_s or options.max_bytes_per_s:
            self._rate = Rate(
                messages_per_s=options.max_messages_per_s,
                bytes_per_s=options.max_bytes_per_s,
                now=context.server_state.loop.time(),
            )

    def stop_reading(self) -> None:
        """The server stops: what has been read is still answered."""
        self._stop_reading(STOPPING)

    def _stop_reading(self, why: int) -> None:
        if self._ended:
            return
        if not self._unread and not self._transport.is_closing():
            self._transport.pause_reading()
        self._unread |= why

    def _read_on(self, why: int) -> None:
        """The reason is none any more. The transport of a tunnel delivers what it has in hand before it returns, and
        that may be a reason again: hence the order."""
        unread = self._unread
        self._unread = unread & ~why
        if unread == why and not self._transport.is_closing():
            self._transport.resume_reading()

    def _pause_for_inbox(self) -> None:
        self._stop_reading(INBOX_FULL)

    def _resume_for_inbox(self) -> None:
        self._read_on(INBOX_FULL)

    def _slow_down(self, rate: Rate, size: int) -> None:
        """Reads a client that is too fast no faster than it may be; in the end tells it to go."""
        now = self._server_state.loop.time()
        pause_s, what = rate.received(publishes=self.connection.received_publishes, size=size, now=now)
        if not pause_s:
            return
        left_s = self._context.options.max_slowed_s - rate.slowed_s(now)
        if left_s < 0:
            self._send_away(what)
            return
        if not self._unread & TOO_FAST:
            metrics.mqtt_slowed.labels("paused").inc()
        self._stop_reading(TOO_FAST)
        self._end_pause()
        if pause_s <= left_s:
            self._pause = self._server_state.loop.call_later(pause_s, self._read_on, TOO_FAST)
        else:  # what it has sent at once is that much
            self._pause = self._server_state.loop.call_later(left_s, self._send_away, what)

    def _send_away(self, what: str) -> None:
        """Ends the connection of a client that was slowed down for as long as it may be."""
        if self._ended:
            return
        metrics.mqtt_slowed.labels("closed").inc()
        code = ReasonCode.MESSAGE_RATE_TOO_HIGH if what == "messages" else ReasonCode.QUOTA_EXCEEDED
        text = f"too many {what} a second for {self._context.options.max_slowed_s:g} s"
        self.connection.close(code, "application", self._server_state.loop.time(), text=text)

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
