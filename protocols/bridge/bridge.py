"""One bridge: connects, has the application asked, subscribes; and begins again when the connection has ended."""

import asyncio
import logging
import random
from contextlib import suppress
from typing import Any, Final

from protocols.asgi import Application
from protocols.bridge import metrics
from protocols.bridge.application_link import ApplicationLink, EndReason
from protocols.bridge.options import BridgeOptions
from protocols.bridge.spool import Spool
from protocols.bridge.upstream import ConnAckInfo, Upstream, UpstreamError, UpstreamMessage
from protocols.log_lines import PeerLog
from protocols.masking import printable
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.storage.committer import Committer

logger = logging.getLogger("gateway.bridge")
peer_log = PeerLog("gateway.bridge")

ANSWER_TIMEOUT_S: Final = 30.0
"""How long the application may take to accept."""
ANSWER_GRACE_S: Final = 5.0
"""How long, at the end, the application may take to acknowledge what it has."""


class Bridge:
    """A bridge from its `start` to its `close`. `status` is what /readyz says of it."""

    def __init__(
        self,
        application: Application,
        options: BridgeOptions,
        *,
        client_id: str,
        state: Any,
        broker: Broker,
        committer: Committer | None,
    ) -> None:
        """`committer` is that of `broker`, if it keeps what it has."""
        self.options = options
        self.status = "not connected"
        self._application = application
        self._state = state
        self._client_id = client_id
        self._committer = committer
        self._loop = asyncio.get_running_loop()
        self._spool = Spool(options, broker, client_id=client_id, clock=self._loop.time, note=self.note)
        self._link: ApplicationLink | None = None
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._delay_s = options.reconnect_min_s
        self._connected = metrics.connected.labels(options.name)
        self._connected.set(0)
        metrics.unanswered.labels(options.name).set_function(lambda: 0 if self._link is None else self._link.unanswered)
        metrics.waiting.labels(options.name).set_function(lambda: self._spool.waiting)

    def start(self) -> None:
        """Begins; messages for upstream wait from now on, whether it is there or not."""
        self._spool.start()
        self._task = self._loop.create_task(self._run(), name=f"bridge {self.options.name}")

    def stop(self) -> None:
        """Connects no more."""
        self._closing.set()

    async def close(self) -> None:
        """Lets the application acknowledge what it has, says goodbye upstream, and waits for the application's end.
        Cancelling it cuts all that off."""
        self.stop()
        if self._task is None:
            return
        try:
            await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._link is not None:
                self._link.cancel()
            self._task.cancel()
            raise
        finally:
            self._spool.stop()

    def note(self, reason: str, text: str) -> None:
        """Counts a message that is not passed on, and logs it within the share of such messages."""
        name = self.options.name
        metrics.dropped.labels(name, reason).inc()
        message = "bridge %s: %s"
        peer_log.warning(f"bridge {name}", message, name, printable(text), kind=f"{message} {reason}")

    async def _run(self) -> None:
        while not self._closing.is_set():
            try:
                end_reason = await self._converse()
            except UpstreamError as error:
                metrics.connects.labels(self.options.name, "failed").inc()
                end_reason = EndReason("lost", str(error))
            except Exception:  # a fault of ours must not end the bridge for ever
                logger.exception("bridge %s: failed", self.options.name)
                end_reason = EndReason("lost", "an error of the gateway, see the log")
            if self._closing.is_set():
                break
            await self._wait(end_reason)

    async def _wait(self, end_reason: EndReason) -> None:
        """Waits before the next attempt: doubling, and no two bridges alike."""
        delay_s = self._delay_s * random.uniform(0.5, 1.0)  # noqa: S311  spreads load, keeps no secret
        self._delay_s = min(2 * self._delay_s, self.options.reconnect_max_s)
        url, text = self.options.url, printable(end_reason.text)
        logger.warning("bridge %s: %s: %s; next attempt in %.1f s", self.options.name, url, text, delay_s)
        try:
            async with asyncio.timeout(delay_s):
                await self._closing.wait()
        except TimeoutError:
            pass

    async def _converse(self) -> EndReason:
        """One connection, from its begin to its end. Raises UpstreamError."""
        events = _UpstreamEvents(self._spool)
        upstream = Upstream(self.options, client_id=self._client_id, listener=events)
        link = None
        try:
            connack = await upstream.open()
            link = self._link = ApplicationLink(
                self._application,
                self.options,
                client_id=self._client_id,
                state=self._state,
                upstream=upstream,
                spool=self._spool,
                committer=self._committer,
                note=self.note,
            )
            events.attach(link)
            await self._use(upstream, link, connack)
            await self._until_end(link)
            if self._closing.is_set():
                await self._say_goodbye(upstream, link)
            return link.ended.result()
        finally:
            self._connected.set(0)
            self.status = "not connected"
            self._spool.disconnected()
            upstream.abort()
            if link is not None:
                link.end(EndReason("lost", "the connection could not be used"))
                await link.finished
                self._link = None

    async def _use(self, upstream: Upstream, link: ApplicationLink, connack: ConnAckInfo) -> None:
        """Has the application accept, and subscribes; does nothing if the connection ends meanwhile."""
        await asyncio.wait((link.accepted, link.ended), timeout=ANSWER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if link.ended.done():
            return
        if not link.accepted.done():
            raise UpstreamError("the application does not say whether it takes the bridge")
        await upstream.subscribe(self.options.filters)
        self._spool.connected(upstream, send_maximum=connack.receive_maximum, max_packet_bytes=connack.max_packet_bytes)
        self._delay_s = self.options.reconnect_min_s
        self._connected.set(1)
        self.status = "ok"
        metrics.connects.labels(self.options.name, "connected").inc()
        again = "its session is there" if connack.session_present else "a new session"
        logger.info("bridge %s: connected to %s as %s, %s", self.options.name, self.options.url, self._client_id, again)

    async def _until_end(self, link: ApplicationLink) -> None:
        closing = self._loop.create_task(self._closing.wait())
        try:
            await asyncio.wait((link.ended, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()

    async def _say_goodbye(self, upstream: Upstream, link: ApplicationLink) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_GRACE_S):
                await link.wait_for_answers()
        if not link.ended.done():
            await upstream.close()
            link.end(EndReason("shutdown", "the gateway stops"))


class _UpstreamEvents:
    """Relays what happens upstream; keeps messages until the application is attached."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._link: ApplicationLink | None = None
        self._before: list[UpstreamMessage] = []
        self._lost: EndReason | None = None

    def attach(self, link: ApplicationLink) -> None:
        """From now on there is an application; upstream may have sent already, for a session that was there."""
        self._link = link
        for message in self._before:
            link.message(message)
        self._before.clear()
        if self._lost is not None:
            link.end(self._lost)

    def message(self, message: UpstreamMessage) -> None:
        if self._link is None:
            self._before.append(message)
        else:
            self._link.message(message)

    def published(self, mid: int, refused: str | None) -> None:
        self._spool.published(mid, refused)

    def full(self) -> None:
        self._spool.full()

    def drained(self) -> None:
        self._spool.drained()

    def lost(self, reason: str) -> None:
        self._lost = EndReason("lost", reason)
        if self._link is not None:
            self._link.end(self._lost)
