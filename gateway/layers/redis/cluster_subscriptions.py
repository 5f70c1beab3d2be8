"""Subscriptions on a Redis Cluster: each on the node that serves its slot, and after it when that moves.

With sharded publish and subscribe (Redis 7) a message goes to the nodes of one slot only. On older ones each message
goes to all nodes; the same nodes are used all the same, which spreads the connections' load.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, Unpack

from redis.exceptions import MovedError

from gateway.layers.base import LayerUnavailableError
from gateway.layers.redis.cluster import Address, ClusterCommands
from gateway.layers.redis.commands import Hooks
from gateway.layers.redis.hosts import Host, node_host
from gateway.layers.redis.link import REPLY_TIMEOUT_S, Link

SHARDED = ("SSUBSCRIBE", "SUNSUBSCRIBE", b"smessage", b"ssubscribe", b"sunsubscribe")
PLAIN = ("SUBSCRIBE", "UNSUBSCRIBE", b"message", b"subscribe", b"unsubscribe")


class NodeLink(Link):
    """The subscriptions on one node."""

    purpose = "subscriptions"

    def __init__(self, host: Host, *, sharded: bool, owner: "ClusterSubscriptions", address: Address) -> None:
        super().__init__(host)
        words = SHARDED if sharded else PLAIN
        self._subscribe, self._unsubscribe, self._message, self._subscribed, self._unsubscribed = words
        self._owner = owner
        self.address = address
        self.keys: set[bytes] = set()
        self._unconfirmed: Counter[bytes] = Counter()
        self._leaving: Counter[bytes] = Counter()

    def add(self, key: bytes) -> None:
        self.keys.add(key)
        self.start()
        if self.up:
            self._request(key)

    def remove(self, key: bytes) -> None:
        self.keys.discard(key)
        if self.up:
            self._leaving[key] += 1
            self._write(self._unsubscribe, key)

    def _request(self, key: bytes) -> None:
        # One key a command: those of different slots may not share one.
        self._unconfirmed[key] += 1
        self._write(self._subscribe, key)

    def _on_up(self) -> None:
        for key in self.keys:
            self._request(key)

    def _on_reply(self, reply: Any) -> bool:
        if isinstance(reply, MovedError):
            self._slot_moved()
        elif isinstance(reply, Exception):
            raise reply  # such as CLUSTERDOWN, NOPERM: nothing on this link works now
        elif reply[0] == self._message:
            self._owner.on_message(reply[1], reply[2])
        elif reply[0] == self._subscribed:
            self._confirm(reply[1])
        elif reply[0] == self._unsubscribed and reply[1] is not None:
            self._left(reply[1])
        return bool(self._unconfirmed)

    def _confirm(self, key: bytes) -> None:
        if _take_one(self._unconfirmed, key) and key in self.keys:
            self._owner.confirmed(key, self)

    def _left(self, key: bytes) -> None:
        """As asked; or the node ended the subscription because the slot is no longer its own."""
        if key in self._leaving:
            _take_one(self._leaving, key)
        elif key in self.keys:
            self.keys.discard(key)
            self._owner.gone([key])

    def _slot_moved(self) -> None:
        """Some key is not served here, and the error does not say which: all that are not confirmed look anew."""
        gone = [key for key in self._unconfirmed if key in self.keys]
        self._unconfirmed.clear()
        self._leaving.clear()
        self.keys.difference_update(gone)
        self._owner.gone(gone)

    def _on_lost(self, was_up: bool) -> None:
        self._unconfirmed.clear()
        self._leaving.clear()
        self._owner.lost(self)

    def _ping(self) -> None:
        self._write("PING")


class ClusterSubscriptions:
    """Every subscription, and the news of those that were cut off: once, until all of them are back."""

    def __init__(self, cluster: ClusterCommands, **hooks: Unpack[Hooks]) -> None:
        self.on_message = hooks["on_message"]
        self._cluster = cluster
        self._on_lost = hooks["on_lost"]
        self._on_back = hooks["on_back"]
        self._links: dict[Address, NodeLink] = {}
        self._placed: dict[bytes, Address | None] = {}
        self._confirmed: set[bytes] = set()
        self._missing: set[bytes] = set()
        self._cut_off: set[bytes] = set()
        self._waiters: dict[bytes, list[asyncio.Future[None]]] = {}
        cluster.on_change = self._place_all
        cluster.is_well = lambda: not self.down and None not in self._placed.values()

    @property
    def down(self) -> bool:
        return bool(self._missing) or any(link.down for link in self._links.values())

    async def subscribe(self, key: bytes) -> None:
        self._placed.setdefault(key, None)
        try:
            await self._cluster.connect()
        except LayerUnavailableError:
            self._placed.pop(key, None)
            raise
        self._place(key)
        if key in self._confirmed or self._is_down(key):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(key, []).append(waiter)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REPLY_TIMEOUT_S):  # its slot may be between two nodes
                await waiter

    def want(self, key: bytes) -> None:
        self._placed.setdefault(key, None)
        self._place(key)

    def unsubscribe(self, key: bytes) -> None:
        address = self._placed.pop(key, None)
        if address is not None:
            self._links[address].remove(key)
        self._confirmed.discard(key)
        self._resolve(key)
        self._found(key)

    async def close(self) -> None:
        self._placed.clear()
        for keys in (self._confirmed, self._missing, self._cut_off):
            keys.clear()
        for key in list(self._waiters):
            self._resolve(key)
        links, self._links = self._links, {}
        for link in links.values():
            await link.close()

    def _is_down(self, key: bytes) -> bool:
        address = self._placed.get(key)
        return address is None or self._links[address].down

    def _place_all(self) -> None:
        """The map of slots is known, or has changed."""
        for key in list(self._placed):
            self._place(key)
        for address in [address for address, link in self._links.items() if not link.keys]:
            if address not in self._cluster.map.masters:
                self._cluster.close_soon(self._links.pop(address))

    def _place(self, key: bytes) -> None:
        owner = self._cluster.map.owner(key)
        placed = self._placed[key]
        if owner is None:
            self._cluster.in_trouble()
        elif owner != placed:
            if placed is not None:
                self._links[placed].remove(key)
                self._lose([key])
            self._placed[key] = owner
            self._link(owner).add(key)

    def _link(self, address: Address) -> NodeLink:
        link = self._links.get(address)
        if link is None:
            host = node_host(self._cluster.host, address)
            link = NodeLink(host, sharded=bool(self._cluster.sharded), owner=self, address=address)
            self._links[address] = link
        return link

    # What the links say

    def confirmed(self, key: bytes, link: NodeLink) -> None:
        """`key` is subscribed to."""
        if self._placed.get(key) == link.address:
            self._confirmed.add(key)
            self._resolve(key)
            self._found(key)

    def gone(self, keys: Iterable[bytes]) -> None:
        """The node that had `keys` does not serve them any more."""
        for key in keys:
            self._placed[key] = None
        self._lose(keys)
        self._cluster.in_trouble()

    def lost(self, link: NodeLink) -> None:
        """The connection to a node failed; it is tried again, and the map asked whether others took over."""
        self._lose(link.keys)
        for key in link.keys:
            self._resolve(key)
        if link.error is not None:
            self._cluster.in_trouble()

    def _lose(self, keys: Iterable[bytes]) -> None:
        lost = self._confirmed.intersection(keys)
        if lost:
            self._confirmed -= lost
            self._missing |= lost
            self._cut_off |= lost
            self._on_lost(lost.__contains__)

    def _found(self, key: bytes) -> None:
        self._missing.discard(key)
        if self._cut_off and not self._missing:
            back, self._cut_off = self._cut_off, set()
            self._on_back(back.__contains__)

    def _resolve(self, key: bytes) -> None:
        for waiter in self._waiters.pop(key, ()):
            if not waiter.done():
                waiter.set_result(None)


def _take_one(counts: "Counter[bytes]", key: bytes) -> bool:
    """Counts one down; whether none is left."""
    counts[key] -= 1
    if counts[key] > 0:
        return False
    del counts[key]
    return True
