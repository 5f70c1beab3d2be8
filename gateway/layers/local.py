"""The channels and the group memberships that live in this process: the part that every layer delivers through.

Invariants:

- a message is in one place: on its way to `deliver`, or in the queue of its channel. A waiting `get` holds none, so
  cancelling it loses none;
- every queue is bounded by its channel's capacity and by the expiry;
- a channel with no owner, message, reader or membership takes no memory;
- any thread may call anything here but `get`; `deliver` is called in the event loop that attached it.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from gateway.layers.base import NOBODY, Deliver, GroupSendResult, LayerEvent, Message
from gateway.layers.dropped import EXPIRED, FAILED, FULL, GONE, DropLog
from gateway.metrics import layer_delivered
from protocols.log_lines import PeerLog

peer_log = PeerLog("gateway.layer")

_running_loop = asyncio._get_running_loop


class LocalChannel:
    """One channel: either attached (`deliver` and its `loop` set), or a queue with its readers."""

    __slots__ = ("deliver", "groups", "loop", "messages", "opened", "waiters")

    def __init__(self) -> None:
        self.opened = False
        self.deliver: Deliver | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.groups: tuple[str, ...] = ()
        self.messages: deque[tuple[float, Message]] | None = None
        self.waiters: deque[asyncio.Future[None]] | None = None

    @property
    def idle(self) -> bool:
        return not (self.opened or self.deliver or self.groups or self.messages or self.waiters)


class LocalChannels:
    """The channels of one process (or of one event loop, where a layer keeps its state per loop)."""

    def __init__(
        self,
        *,
        capacity: Callable[[str], int],
        expiry: float,
        group_expiry: float = 86400,
        late_readers_leave: bool = False,
        drops: DropLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`capacity(name)` is called for each queued message; `expiry` and `group_expiry` are in seconds.

        `late_readers_leave`: a channel with an expired message leaves its groups, as in the memory layer of Channels.
        """
        self.channels: dict[str, LocalChannel] = {}
        self.groups: dict[str, dict[str, float]] = {}
        self.expiry = expiry
        self.group_expiry = group_expiry
        self._capacity = capacity
        self._late_readers_leave = late_readers_leave
        self._drops = drops
        self._clock = clock
        self._queued: set[str] = set()
        self._next_sweep = 0.0
        # Reentrant: a `deliver` or a handler of the log may send a message.
        self._lock = threading.RLock()

    # Owning a channel

    def open(self, name: str) -> None:
        """Makes `name` known before it has a reader."""
        with self._lock:
            self._get_or_make(name).opened = True

    def knows(self, name: str) -> bool:
        """Whether `name` has an owner, a reader, a message or a membership here."""
        return name in self.channels

    def is_attached(self, name: str) -> bool:
        """Whether messages of `name` go to a function."""
        channel = self.channels.get(name)
        return channel is not None and channel.deliver is not None

    def attach(self, name: str, deliver: Deliver) -> None:
        """Gives the messages of `name`, those that wait included, to `deliver` in the running loop."""
        with self._lock:
            channel = self._get_or_make(name)
            channel.loop = asyncio.get_running_loop()
            channel.deliver = deliver
            waiting, channel.messages = channel.messages, None
            self._queued.discard(name)
        now = self._clock()
        for deadline, message in waiting or ():
            if deadline > now:
                self._call(name, deliver, message)

    def detach(self, name: str) -> list[str]:
        """Forgets `name`, its messages and its memberships; returns the groups that have no member left."""
        with self._lock:
            channel = self.channels.get(name)
            if channel is None:
                return []
            emptied = [group for group in channel.groups if self._leave(group, name, channel)]
            channel.opened = False
            channel.deliver = channel.loop = channel.messages = None
            self._queued.discard(name)
            self._forget_if_idle(name, channel)
            return emptied

    def clear(self) -> None:
        """Drops messages and memberships. Attached and opened channels stay, without a group."""
        with self._lock:
            self.groups.clear()
            self._queued.clear()
            for name, channel in list(self.channels.items()):
                channel.groups = ()
                channel.messages = None
                self._forget_if_idle(name, channel)

    # Groups

    def join(self, group: str, name: str) -> None:
        """Makes `name` a member of `group`, or renews its membership."""
        with self._lock:
            channel = self._get_or_make(name)
            if group not in channel.groups:
                channel.groups += (group,)
            self.groups.setdefault(group, {})[name] = self._clock()

    def leave(self, group: str, name: str) -> bool:
        """Ends the membership. True when that emptied the group."""
        with self._lock:
            channel = self.channels.get(name)
            if channel is None or group not in channel.groups:
                return False
            emptied = self._leave(group, name, channel)
            self._forget_if_idle(name, channel)
            return emptied

    # Delivering

    def put(self, name: str, message: Message) -> bool:
        """Gives `message` to the channel or its queue; False when that is full."""
        with self._lock:
            self._sweep_when_due()
            channel = self._get_or_make(name)
            if channel.deliver is None:
                accepted = self._enqueue(name, channel, message)
                self._forget_if_idle(name, channel)
                return accepted
        return bool(self._deliver_all(name, [(name, channel)], message).delivered)

    def put_group(self, group: str, message: Message) -> GroupSendResult:
        """Gives each member of `group` its own shallow copy of `message`."""
        with self._lock:
            members = self.groups.get(group)
            if not members:
                return NOBODY
            channels = self.channels
            receivers = [(name, channels[name]) for name in members]
        return self._deliver_all(group, receivers, message)

    def announce(self, names: Iterable[str], event: LayerEvent) -> None:
        """Gives `event` to those of `names` that are attached."""
        for name in names:
            channel = self.channels.get(name)
            if channel is not None and channel.deliver is not None:
                self._call(name, channel.deliver, LayerEvent(event))

    def _deliver_all(self, where: str, receivers: list[tuple[str, LocalChannel]], message: Message) -> GroupSendResult:
        here = _running_loop()
        refused = 0
        elsewhere: dict[asyncio.AbstractEventLoop, list[tuple[str, Deliver]]] = {}
        queues: list[tuple[str, LocalChannel]] = []
        # The hot loop of a fan-out, 0.2 us a member: no call but `deliver` and the copy.
        for name, channel in receivers:
            deliver = channel.deliver
            if deliver is None:
                queues.append((name, channel))
            elif channel.loop is here:
                try:
                    if deliver(message.copy()) is False:
                        refused += 1
                except Exception as error:
                    refused += 1
                    _note_failure(name, error)
            elif channel.loop is not None:
                elsewhere.setdefault(channel.loop, []).append((name, deliver))
        gone = self._deliver_elsewhere(elsewhere, message) if elsewhere else 0
        full = self._enqueue_all(queues, message) if queues else 0
        if refused or full:
            self._drops.add(FULL, where, refused + full)
        if gone:
            self._drops.add(GONE, where, gone)
        dropped = refused + full + gone
        layer_delivered.inc(len(receivers) - dropped)
        return GroupSendResult(len(receivers) - dropped, dropped)

    def _deliver_elsewhere(
        self, receivers: dict[asyncio.AbstractEventLoop, list[tuple[str, Deliver]]], message: Message
    ) -> int:
        gone = 0
        for loop, targets in receivers.items():
            try:
                loop.call_soon_threadsafe(self._call_all, targets, message.copy())
            except RuntimeError:  # its loop was closed without a detach
                gone += len(targets)
                for name, _ in targets:
                    self.detach(name)
        return gone

    def _call_all(self, targets: list[tuple[str, Deliver]], message: Message) -> None:
        for name, deliver in targets:
            self._call(name, deliver, message.copy())

    def _call(self, name: str, deliver: Deliver, message: Message) -> None:
        try:
            if deliver(message) is False:
                self._drops.add(FULL, name)
        except Exception as error:
            self._drops.add(FAILED, name)
            _note_failure(name, error)

    # Queues, for channels that are read with `get`

    async def get(self, name: str) -> Message:
        """The next message of the queue of `name`."""
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                channel = self._get_or_make(name)
                message = self._dequeue(name, channel)
                if message is not None:
                    self._forget_if_idle(name, channel)
                    return message
                waiter = loop.create_future()
                if channel.waiters is None:
                    channel.waiters = deque()
                channel.waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                self._stop_waiting(name, channel, waiter)
                raise

    def waiting(self, name: str) -> int:
        """How many readers wait for a message of `name`, without those for which one is queued."""
        channel = self.channels.get(name)
        return len(channel.waiters) if channel is not None and channel.waiters else 0

    def take_oldest(self, name: str) -> tuple[float, Message] | None:
        """Takes out the oldest message of `name`."""
        with self._lock:
            channel = self.channels.get(name)
            if channel is None or not channel.messages:
                return None
            taken = channel.messages.popleft()
            if not channel.messages:
                self._queued.discard(name)
            self._forget_if_idle(name, channel)
            return taken

    def take_unread(self, name: str) -> list[Message]:
        """Takes out the messages of `name` that no reader waits for."""
        with self._lock:
            channel = self.channels.get(name)
            if channel is None or channel.waiters or not channel.messages:
                return []
            unread = [message for _, message in channel.messages]
            channel.messages = None
            self._queued.discard(name)
            self._forget_if_idle(name, channel)
            return unread

    def _stop_waiting(self, name: str, channel: LocalChannel, waiter: "asyncio.Future[None]") -> None:
        with self._lock:
            if channel.waiters and waiter in channel.waiters:
                channel.waiters.remove(waiter)
            if channel.messages:
                self._wake(channel)  # this reader may have been woken for a message that it now leaves
            if self.channels.get(name) is channel:
                self._forget_if_idle(name, channel)

    def _enqueue_all(self, receivers: list[tuple[str, LocalChannel]], message: Message) -> int:
        full = 0
        with self._lock:
            self._sweep_when_due()
            for name, channel in receivers:
                if self.channels.get(name) is channel and not self._enqueue(name, channel, message.copy()):
                    full += 1
        return full

    def _enqueue(self, name: str, channel: LocalChannel, message: Message) -> bool:
        now = self._clock()
        if channel.messages is None:
            channel.messages = deque()
        elif not channel.waiters:
            self._expire(name, channel, now)
        if len(channel.messages) >= self._capacity(name):
            return False
        channel.messages.append((now + self.expiry, message))
        self._queued.add(name)
        self._wake(channel)
        return True

    def _dequeue(self, name: str, channel: LocalChannel) -> Message | None:
        messages = channel.messages
        if not messages:
            return None
        self._expire(name, channel, self._clock())
        message = messages.popleft()[1] if messages else None
        if not messages:
            self._queued.discard(name)
        return message

    def _wake(self, channel: LocalChannel) -> None:
        while channel.waiters:
            waiter = channel.waiters.popleft()
            if waiter.done():
                continue
            loop = waiter.get_loop()
            if loop is _running_loop():
                waiter.set_result(None)
                return
            try:
                loop.call_soon_threadsafe(_resolve, waiter)
            except RuntimeError:  # its loop was closed
                continue
            return

    def _expire(self, name: str, channel: LocalChannel, now: float) -> None:
        """Drops expired messages."""
        messages = channel.messages
        expired = 0
        while messages and messages[0][0] <= now:
            messages.popleft()
            expired += 1
        if expired:
            self._drops.add(EXPIRED, name, expired)
            for group in channel.groups if self._late_readers_leave else ():
                self._leave(group, name, channel)

    def _sweep_when_due(self) -> None:
        """Once per expiry, ends the queues without a reader and the memberships that are too old."""
        now = self._clock()
        if now < self._next_sweep:
            return
        self._next_sweep = now + self.expiry
        for name in list(self._queued):
            channel = self.channels[name]
            self._expire(name, channel, now)
            if not channel.messages:
                channel.messages = None
                channel.opened = False
                self._queued.discard(name)
                self._forget_if_idle(name, channel)
        oldest = now - self.group_expiry
        for group, members in list(self.groups.items()):
            for name in [name for name, joined_at in members.items() if joined_at < oldest]:
                channel = self.channels[name]
                if channel.deliver is None and not channel.waiters:  # an attached channel is alive, however old
                    self._leave(group, name, channel)
                    self._forget_if_idle(name, channel)

    # The registry

    def _get_or_make(self, name: str) -> LocalChannel:
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = LocalChannel()
        return channel

    def _forget_if_idle(self, name: str, channel: LocalChannel) -> None:
        if channel.idle:
            self.channels.pop(name, None)

    def _leave(self, group: str, name: str, channel: LocalChannel) -> bool:
        channel.groups = tuple(other for other in channel.groups if other != group)
        members = self.groups.get(group)
        if members is None:
            return False
        members.pop(name, None)
        if members:
            return False
        del self.groups[group]
        return True


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


def _note_failure(name: str, error: Exception) -> None:
    """Logs under one name for all channels: there is one per connection, and each message can fail in each of them."""
    peer_log.error("the channel layer", "delivering to channel %s failed", name, exc_info=error)
