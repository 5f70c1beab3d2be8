"""Subscriptions of one event loop: what is wanted is subscribed to, now and after each reconnection.

Those on the servers of a fixed list are here, those on a cluster in cluster_subscriptions.py.
"""

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypedDict, TypeVar, Unpack

from redis.exceptions import MovedError

from gateway.layers.redis.connection import RedisConnection
from gateway.layers.redis.hosts import Host, shard_of

Outcome = TypeVar("Outcome")

Owns: TypeAlias = Callable[[bytes], bool]
"""Whether a key is among those that are meant."""


class Hooks(TypedDict):
    """What subscriptions call: `on_lost` with the keys that are cut off, `on_back` with those subscribed again."""

    on_message: Callable[[bytes, bytes], None]
    on_lost: Callable[[Owns], None]
    on_back: Callable[[Owns], None]


class Subscriptions(Protocol):
    """Keys subscribed to, each on its server."""

    @property
    def down(self) -> bool:
        """Whether messages are known to be missed now."""

    async def subscribe(self, key: bytes) -> None:
        """Returns when subscribed, or at once while the connection is lost: it subscribes when it is back.

        Raises LayerUnavailableError if there never was a connection.
        """

    def want(self, key: bytes) -> None:
        """Subscribes, without waiting for it."""

    def unsubscribe(self, key: bytes) -> None:
        """Ends the subscription, if there is one."""

    async def close(self) -> None:
        """Ends the subscriptions and the connections."""


class Waiters(Generic[Outcome]):
    """Those who wait until something is known of a key."""

    def __init__(self) -> None:
        self._waiters: dict[bytes, list[asyncio.Future[Outcome]]] = {}

    def wait(self, key: bytes) -> "asyncio.Future[Outcome]":
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(key, []).append(waiter)
        return waiter

    def resolve(self, key: bytes, outcome: Outcome) -> None:
        for waiter in self._waiters.pop(key, ()):
            if not waiter.done():
                waiter.set_result(outcome)

    def resolve_all(self, outcome: Outcome) -> None:
        for key in list(self._waiters):
            self.resolve(key, outcome)


class Words(NamedTuple):
    """The commands and the replies of one kind of publish and subscribe."""

    subscribe: str
    unsubscribe: str
    message: bytes
    subscribed: bytes
    unsubscribed: bytes
    keys_per_command: int


PLAIN: Final = Words("SUBSCRIBE", "UNSUBSCRIBE", b"message", b"subscribe", b"unsubscribe", 500)
# One key per command: keys of different slots may not share one.
SHARDED: Final = Words("SSUBSCRIBE", "SUNSUBSCRIBE", b"smessage", b"ssubscribe", b"sunsubscribe", 1)


class SubscriberConnection(RedisConnection):
    """The subscriptions on one server."""

    purpose = "subscriptions"

    def __init__(
        self,
        host: Host,
        words: Words,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_settled: Callable[[bytes], None],
        on_lost: Callable[[bool], None],
        on_up: Callable[[], None] | None = None,
        on_gone: Callable[[Iterable[bytes]], None] | None = None,
    ) -> None:
        """`on_message(key, payload)` is called for each message.

        `on_settled(key)`: the server has confirmed what is wanted of `key`. `on_up()`: connected, and everything is
        requested. `on_lost(was_up)`: the connection is lost, or an attempt to connect failed. `on_gone(keys)`: the
        server no longer serves `keys`, which are no longer wanted here; without it, that ends the connection.
        """
        super().__init__(host)
        self._words = words
        self._on_message = on_message
        self._on_settled = on_settled
        self._on_connection_lost = on_lost
        self._on_connection_up = on_up
        self._on_gone = on_gone
        self.wanted: set[bytes] = set()
        self._requested: set[bytes] = set()
        self._unconfirmed: Counter[bytes] = Counter()
        self._changed: set[bytes] = set()

    def want(self, key: bytes) -> None:
        """Subscribes at the end of this loop iteration, or when the connection is up."""
        self.start()
        if key not in self.wanted:
            self.wanted.add(key)
            self._change(key)

    def unsubscribe(self, key: bytes) -> None:
        """Unsubscribes at the end of this loop iteration, unless `key` is wanted again by then."""
        if key in self.wanted:
            self.wanted.discard(key)
            self._change(key)

    def is_subscribed(self, key: bytes) -> bool:
        """Whether the server has confirmed the subscription."""
        return key in self._requested and key not in self._unconfirmed and key not in self._changed

    def _change(self, key: bytes) -> None:
        if not self.up:
            return
        if not self._changed:
            self._loop.call_soon(self._request)
        self._changed.add(key)

    def _request(self) -> None:
        """Sends what has changed, with as many keys in a command as it may have."""
        if not self.up:
            return
        changed, self._changed = self._changed, set()
        came = [key for key in changed if key in self.wanted and key not in self._requested]
        went = [key for key in changed if key not in self.wanted and key in self._requested]
        self._requested.update(came)
        self._requested.difference_update(went)
        self._unconfirmed.update(came)
        for command, keys in ((self._words.subscribe, came), (self._words.unsubscribe, went)):
            for start in range(0, len(keys), self._words.keys_per_command):
                self._write(command, *keys[start : start + self._words.keys_per_command])
        for key in changed:
            if key not in self._unconfirmed:
                self._on_settled(key)  # dropped, or dropped and wanted again, within one loop iteration

    def _on_up(self) -> None:
        self._changed = set(self.wanted)
        self._request()
        if self._on_connection_up is not None:
            self._on_connection_up()

    def _on_reply(self, reply: Any) -> bool:
        if isinstance(reply, Exception):
            if self._on_gone is None or not isinstance(reply, MovedError):
                raise reply  # such as NOPERM, CLUSTERDOWN: nothing on this connection works now
            self._slot_moved(self._on_gone)
        elif reply[0] == self._words.message:
            self._on_message(reply[1], reply[2])
        elif reply[0] == self._words.subscribed:
            self._confirm(reply[1])
        elif reply[0] == self._words.unsubscribed and self._on_gone is not None:
            self._unsubscribed(reply[1], self._on_gone)
        return bool(self._unconfirmed)

    def _confirm(self, key: bytes) -> None:
        if key not in self._unconfirmed:
            return  # requested before its slot moved
        self._unconfirmed[key] -= 1
        if not self._unconfirmed[key]:
            del self._unconfirmed[key]
            if key not in self._changed:
                self._on_settled(key)

    def _unsubscribed(self, key: bytes | None, on_gone: Callable[[Iterable[bytes]], None]) -> None:
        """The reply to a command; or the node ended the subscription because the slot is no longer its own."""
        if key is not None and key in self.wanted and self.is_subscribed(key):
            self._drop([key])
            on_gone([key])

    def _slot_moved(self, on_gone: Callable[[Iterable[bytes]], None]) -> None:
        """Drops all unconfirmed keys: one of them is not served here, and the error does not say which."""
        gone = [key for key in self._unconfirmed if key in self.wanted]
        self._unconfirmed.clear()
        self._drop(gone)
        on_gone(gone)

    def _drop(self, keys: Iterable[bytes]) -> None:
        self.wanted.difference_update(keys)
        self._requested.difference_update(keys)

    def _on_lost(self, was_up: bool) -> None:
        self._requested.clear()
        self._unconfirmed.clear()
        self._changed.clear()
        self._on_connection_lost(was_up)

    def _ping(self) -> None:
        self._write("PING")


class HostSubscriptions:
    """Subscriptions on the servers of a fixed list, over which the keys are spread."""

    def __init__(self, hosts: Sequence[Host], **hooks: Unpack[Hooks]) -> None:
        def shard(number: int, host: Host) -> _Shard:
            return _Shard(host, lambda key: shard_of(key, len(hosts)) == number, hooks)

        self._shards = [shard(number, host) for number, host in enumerate(hosts)]

    def _shard(self, key: bytes) -> "_Shard":
        return self._shards[shard_of(key, len(self._shards))]

    @property
    def down(self) -> bool:
        return any(shard.connection.down for shard in self._shards)

    async def subscribe(self, key: bytes) -> None:
        await self._shard(key).subscribe(key)

    def want(self, key: bytes) -> None:
        self._shard(key).connection.want(key)

    def unsubscribe(self, key: bytes) -> None:
        self._shard(key).connection.unsubscribe(key)

    async def close(self) -> None:
        for shard in self._shards:
            shard.connection.wanted.clear()
            await shard.connection.close()


class _Shard:
    """The subscriptions on one of the servers, their waiters, and the reports of a lost connection."""

    def __init__(self, host: Host, owns: Owns, hooks: Hooks) -> None:
        self.connection = SubscriberConnection(
            host,
            PLAIN,
            on_message=hooks["on_message"],
            on_settled=self._settled,
            on_lost=self._lost,
            on_up=self._up,
        )
        self._report_lost = functools.partial(hooks["on_lost"], owns)
        self._report_back = functools.partial(hooks["on_back"], owns)
        self._waiters: Waiters[bool] = Waiters()
        """They get whether the server has confirmed the key; not if the connection is lost meanwhile."""
        # None: nothing to report. Else the keys whose subscriptions are to be confirmed before all are back.
        self._restoring: set[bytes] | None = None

    async def subscribe(self, key: bytes) -> None:
        self.connection.want(key)
        if self.connection.is_subscribed(key):
            return
        if not self.connection.down and await self._waiters.wait(key):
            return
        if not self.connection.ever_up:
            self.connection.wanted.discard(key)
            raise self.connection.unavailable()

    def _settled(self, key: bytes) -> None:
        self._waiters.resolve(key, True)
        if self._restoring is not None:
            self._restoring.discard(key)
            self._report_if_restored()

    def _up(self) -> None:
        if self._restoring is not None:
            self._restoring = set(self.connection.wanted)
            self._report_if_restored()

    def _report_if_restored(self) -> None:
        if self._restoring is not None and not self._restoring & self.connection.wanted:
            self._restoring = None
            self._report_back()

    def _lost(self, was_up: bool) -> None:
        self._waiters.resolve_all(False)
        if was_up:
            if self._restoring is None:
                self._report_lost()
            self._restoring = set()
