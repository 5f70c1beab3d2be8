"""Workers: consumers that live in a process of their own and handle what is sent to named channels.

For each channel there is one application instance, which gets the messages in order, each when it asks for it. One that
raises is logged with its channel and the message, and a new instance takes the next one: no message but that one is
lost, neither then nor at the end of the worker, because a message that nobody asked for stays in the layer.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence

from gateway.dispatch.threads import close_connections
from gateway.layers import BaseChannelLayer
from protocols.asgi import Application, Event
from protocols.inbox import Inbox
from protocols.log_lines import PeerLog

logger = logging.getLogger("gateway.worker")
peer_log = PeerLog("gateway.worker")

RETRY_S = 1.0
STOP_TIMEOUT_S = 10.0


class Worker:
    """Gives the messages of `channels` to `application`, in a scope of {"type": "channel", "channel": NAME}."""

    def __init__(
        self,
        application: Application,
        channels: Sequence[str],
        channel_layer: BaseChannelLayer | None,
        max_applications: int = 1000,
    ) -> None:
        """`max_applications` is accepted for Channels' sake: there are as many instances as channels.

        Raises ValueError without a channel layer.
        """
        if channel_layer is None:
            raise ValueError("Channel layer is not valid")
        self.application = application
        self.channels = list(channels)
        self.channel_layer = channel_layer
        self.max_applications = max_applications

    def run(self) -> None:
        """Works until SIGINT or SIGTERM; then takes no more messages and lets the handlers that run come to an end.

        Raises LayerUnavailableError when the layer's server is not there at the beginning.
        """
        asyncio.run(self._run_until_signal())

    async def handle(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for channel in self.channels:
                tasks.create_task(self.listener(channel))

    async def listener(self, channel: str) -> None:
        """Works on one channel until it is cancelled; then waits for the handler that runs."""
        instance = _Instance(self.application, channel)
        try:
            while True:
                message = await self._receive(channel)
                if message.get("type"):
                    await instance.handle(message)
                else:
                    peer_log.error(
                        channel, "message without a type on channel %s, keys: %s", channel, ", ".join(message)
                    )
        finally:
            await instance.stop()

    async def _receive(self, channel: str) -> Event:
        while True:
            try:
                return await self.channel_layer.receive(channel)
            except Exception:  # the layer may be any package's; what it stands on may be away for a while
                logger.exception("receiving from channel %s failed; trying again in %g s", channel, RETRY_S)
                await asyncio.sleep(RETRY_S)

    async def _run_until_signal(self) -> None:
        await self.channel_layer.check()
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows: KeyboardInterrupt does it
                loop.add_signal_handler(number, stopped.set)
        logger.info("Running worker for channels %s", self.channels)
        work = asyncio.create_task(self.handle())
        wait = asyncio.create_task(stopped.wait())
        await asyncio.wait({work, wait}, return_when=asyncio.FIRST_COMPLETED)
        wait.cancel()
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await close_connections()


class _WorkerInbox(Inbox):
    """An inbox of one message at a time: it knows which one the application has, and when it waits for the next."""

    __slots__ = ("_offered", "current", "idle", "taken")

    def __init__(self) -> None:
        self._offered: Event = {}
        self.current: Event = {}
        self.taken: asyncio.Future[None] | None = None
        self.idle = asyncio.Event()
        # With a mark of 0 bytes `resume` is called whenever the last message has been taken.
        super().__init__(high_water_bytes=0, resume=self._on_taken)

    def offer(self, message: Event) -> "asyncio.Future[None]":
        """Feeds `message`; what is returned is done when the application has taken it."""
        self._offered = message
        self.taken = asyncio.get_running_loop().create_future()
        self.feed(message, 1)
        return self.taken

    def _on_taken(self) -> None:
        self.current = self._offered
        if self.taken is not None and not self.taken.done():
            self.taken.set_result(None)

    async def wait(self) -> None:
        """As of any inbox; sets `idle` meanwhile."""
        self.idle.set()
        try:
            await super().wait()
        finally:
            self.idle.clear()


class _Instance:
    """The application instance of one channel, and its successors."""

    def __init__(self, application: Application, channel: str) -> None:
        self._application = application
        self._channel = channel
        self._inbox = _WorkerInbox()
        self._task: asyncio.Task[None] | None = None

    async def handle(self, message: Event) -> None:
        """Returns when an instance has asked for `message` and got it, or refused it by ending without asking."""
        taken = self._inbox.offer(message)
        if self._task is not None:
            await asyncio.wait({self._task, taken}, return_when=asyncio.FIRST_COMPLETED)
        if not taken.done():
            self._task = asyncio.create_task(self._run())
            await asyncio.wait({self._task, taken}, return_when=asyncio.FIRST_COMPLETED)
        if not taken.done():
            self._inbox.discard_events()
            kind, channel = message["type"], self._channel
            peer_log.error(channel, "message of type %s on channel %s was not taken", kind, channel)
            self._inbox = _WorkerInbox()

    async def stop(self) -> None:
        """Waits for the handler that runs, and ends the instance."""
        if self._task is None or self._task.done():
            return
        waiting = asyncio.create_task(self._inbox.idle.wait())
        await asyncio.wait({self._task, waiting}, timeout=STOP_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            await self._application({"type": "channel", "channel": self._channel}, self._inbox.receive, _refuse)
        except Exception as error:
            kind, channel = self._inbox.current.get("type", "(none yet)"), self._channel
            peer_log.error(channel, "a message of type %s on channel %s failed", kind, channel, exc_info=error)


async def _refuse(event: Event) -> None:
    raise NotImplementedError("a worker has no connection to send to; send to a channel or a group instead")
