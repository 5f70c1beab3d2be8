"""Subscriptions on a Redis Cluster: each on the node that serves its slot, and on another when the slot moves.

With sharded publish and subscribe (Redis 7) a message goes to the nodes of one slot only. Before, it goes to all
nodes; the subscriptions are placed in the same way, which spreads the load.
"""

import asyncio
import contextlib
import functools
from collections.abc import Iterable
from typing import Unpack

from gateway.layers.base import LayerUnavailableError
from gateway.layers.redis.cluster import Address, ClusterCommands
from gateway.layers.redis.connection import REPLY_TIMEOUT_S
from gateway.layers.redis.hosts import node_host
from gateway.layers.redis.subscriptions import PLAIN, SHARDED, Hooks, SubscriberConnection, Waiters


class ClusterSubscriptions:
    """All subscriptions. Reports those that are cut off, and once all of them are back."""

    def __init__(self, cluster: ClusterCommands, **hooks: Unpack[Hooks]) -> None:
        self._on_message = hooks["on_message"]
        self._cluster = cluster
        self._on_lost = hooks["on_lost"]
        self._on_back = hooks["on_back"]
        self._connections: dict[Address, SubscriberConnection] = {}
        self._placed: dict[bytes, Address | None] = {}
        self._confirmed: set[bytes] = set()
        self._missing: set[bytes] = set()
        self._cut_off: set[bytes] = set()
        self._waiters: Waiters[None] = Waiters()
        cluster.on_change = self._place_all
        cluster.is_well = lambda: not self.down and None not in self._placed.values()

    @property
    def down(self) -> bool:
        return bool(self._missing) or any(connection.down for connection in self._connections.values())

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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REPLY_TIMEOUT_S):  # its slot may be between two nodes
                await self._waiters.wait(key)

    def want(self, key: bytes) -> None:
        self._placed.setdefault(key, None)
        self._place(key)

    def unsubscribe(self, key: bytes) -> None:
        address = self._placed.pop(key, None)
        if address is not None:
            self._connections[address].unsubscribe(key)
        self._confirmed.discard(key)
        self._waiters.resolve(key, None)
        self._found(key)

    async def close(self) -> None:
        self._placed.clear()
        for keys in (self._confirmed, self._missing, self._cut_off):
            keys.clear()
        self._waiters.resolve_all(None)
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.close()

    def _is_down(self, key: bytes) -> bool:
        address = self._placed.get(key)
        return address is None or self._connections[address].down

    def _place_all(self) -> None:
        """Follows the map of slots, which has changed."""
        for key in list(self._placed):
            self._place(key)
        unused = [address for address, connection in self._connections.items() if not connection.wanted]
        for address in unused:
            if address not in self._cluster.map.masters:
                self._cluster.close_soon(self._connections.pop(address))

    def _place(self, key: bytes) -> None:
        owner = self._cluster.map.owner(key)
        placed = self._placed[key]
        if owner is None:
            self._cluster.in_trouble()
        elif owner != placed:
            if placed is not None:
                self._connections[placed].unsubscribe(key)
                self._lose([key])
            self._placed[key] = owner
            self._connection(owner).want(key)

    def _connection(self, address: Address) -> SubscriberConnection:
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connections[address] = SubscriberConnection(
                node_host(self._cluster.host, address),
                SHARDED if self._cluster.sharded else PLAIN,
                on_message=self._on_message,
                on_settled=functools.partial(self._settled, address),
                on_lost=functools.partial(self._connection_lost, address),
                on_gone=self._gone,
            )
        return connection

    # What the connections report

    def _settled(self, address: Address, key: bytes) -> None:
        if self._placed.get(key) == address:
            self._confirmed.add(key)
            self._waiters.resolve(key, None)
            self._found(key)

    def _gone(self, keys: Iterable[bytes]) -> None:
        """The node that had `keys` no longer serves them."""
        for key in keys:
            self._placed[key] = None
        self._lose(keys)
        self._cluster.in_trouble()

    def _connection_lost(self, address: Address, was_up: bool) -> None:
        """It is tried again, and the new map says whether another node took over."""
        connection = self._connections.get(address)
        if connection is None:
            return  # closed by us
        self._lose(connection.wanted)
        for key in connection.wanted:
            self._waiters.resolve(key, None)
        if connection.error is not None:
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
