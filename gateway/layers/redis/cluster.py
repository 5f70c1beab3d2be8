"""Redis Cluster: commands to the node that serves their key, by a map of slots that is kept up to date.

The map is asked for once, and again when a node says that a slot has moved, when a connection is lost, and every
`POLL_S` until each slot has a node that answers: so a failover is followed, however long the cluster takes to agree.
Only commands with one key are sent, so keys need not share a slot.

While a slot moves, messages of one sender may overtake each other: the redirected ones take the longer way.
"""

import asyncio
import contextlib
import functools
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError

from gateway.layers.base import LayerUnavailableError
from gateway.layers.redis.commands import run_script
from gateway.layers.redis.connection import Argument, CommandConnection, Locate, RedisConnection, Script
from gateway.layers.redis.hosts import Host, describe_host, node_host

Address: TypeAlias = tuple[str, int]

SLOTS = 16384
REDIRECTIONS = 5
MIN_REFRESH_S = 0.1
POLL_S = 0.25
TRY_AGAIN_S = 0.05


class SlotMap:
    """Ranges of slots and the masters that serve them."""

    def __init__(self, ranges: Iterable[tuple[int, int, Address]] = (), nodes: Iterable[Address] = ()) -> None:
        """`ranges` are (first slot, last slot, master); `nodes` are all nodes, replicas included."""
        self._ranges = sorted(ranges)
        self._starts = [start for start, _, _ in self._ranges]
        self.masters = {master for _, _, master in self._ranges}
        self.nodes = set(nodes) | self.masters
        self.complete = sum(end - start + 1 for start, end, _ in self._ranges) == SLOTS

    def owner(self, key: bytes) -> Address | None:
        """The master that serves `key`, or None."""
        slot = key_slot(key)
        index = bisect_right(self._starts, slot) - 1
        if index < 0:
            return None
        _, end, master = self._ranges[index]
        return master if slot <= end else None

    @classmethod
    def from_reply(cls, reply: Sequence[Any], asked: Address) -> "SlotMap":
        """From the reply to CLUSTER SLOTS of the node `asked`, which may not know its own name."""

        def address(node: Sequence[Any]) -> Address:
            name = node[0].decode() if isinstance(node[0], bytes) else node[0]
            return (name if name not in (None, "", "?") else asked[0], int(node[1]))

        ranges = [(int(start), int(end), address(nodes[0])) for start, end, *nodes in reply]
        return cls(ranges, (address(node) for _, _, *nodes in reply for node in nodes))


class ClusterCommands:
    """Commands to the nodes of a cluster; for other connections, the places of the nodes.

    `on_change` is called when the map has changed, `on_well` when every slot has a node that answers and `is_well()`.
    """

    def __init__(self, host: Host, scripts: Sequence[Script] = ()) -> None:
        """`host` has "cluster": some nodes to begin with. "sharded" False forbids sharded publish and subscribe."""
        self.host = host
        self.map = SlotMap()
        self.sharded: bool | None = None
        self.on_change: Callable[[], None] = _do_nothing
        self.is_well: Callable[[], bool] = _is_well
        self.on_well: Callable[[], None] = _do_nothing
        self._seeds: list[Address] = [(str(name), int(port)) for name, port in host["cluster"]]
        self._scripts = scripts
        self._connections: dict[Address, CommandConnection] = {}
        self._loop = asyncio.get_running_loop()
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = float("-inf")
        self._poll: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.error: BaseException | None = None

    # The interface `Commands`

    @property
    def connections(self) -> Sequence[CommandConnection]:
        return list(self._connections.values())

    async def connect(self) -> None:
        """Raises LayerUnavailableError when no node returns the map of slots."""
        if not self.map.masters:
            await self.refresh()

    async def execute(self, key: bytes, *arguments: Argument) -> Any:
        await self.connect()
        return await self._follow(self._owner(key), arguments)

    def execute_quietly(self, key: bytes, *arguments: Argument) -> None:
        owner = self.map.owner(key)
        if owner is not None:
            self._send_quietly(owner, arguments, asking=False, redirections=REDIRECTIONS)

    async def run_script(self, script: Script, key: bytes, arguments: Sequence[Argument]) -> Any:
        return await run_script(functools.partial(self.execute, key), script, key, arguments)

    async def publish(self, key: bytes, payload: bytes) -> None:
        await self.connect()
        await self._follow(self._owner(key), ("SPUBLISH" if self.sharded else "PUBLISH", key, payload))

    def is_down(self, key: bytes) -> bool:
        owner = self.map.owner(key)
        return owner is None or self._connection(owner).down

    def was_up(self, key: bytes) -> bool:
        return bool(self.map.masters)

    def where(self, key: bytes) -> tuple[Host, Locate | None]:
        async def locate() -> Host:
            await self.refresh()
            return node_host(self.host, self._owner(key))

        return self.host, locate

    async def close(self) -> None:
        for task in (self._poll, self._refreshing):
            if task is not None:
                task.cancel()
        self._poll = self._refreshing = None
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.close()
        self.map = SlotMap()

    async def _follow(self, address: Address, arguments: Sequence[Argument]) -> Any:
        """The reply, wherever the cluster redirects the command to."""
        asking = False
        for _ in range(REDIRECTIONS):
            connection = self._connection(address)
            if asking:
                connection.execute_quietly("ASKING")  # leaves with the command that it is for
            try:
                return await connection.execute(*arguments)
            except AskError as error:  # MovedError is one
                asking = not isinstance(error, MovedError)
                address = self._redirected(address, error)
            except TryAgainError:
                await asyncio.sleep(TRY_AGAIN_S)
            except ClusterDownError as error:
                self.in_trouble()
                raise self.unavailable(error) from error
        raise self.unavailable("too many redirections")

    def _send_quietly(
        self, address: Address, arguments: Sequence[Argument], *, asking: bool, redirections: int
    ) -> None:
        connection = self._connection(address)

        def follow(future: "asyncio.Future[Any]") -> None:
            error = None if future.cancelled() else future.exception()
            if isinstance(error, AskError) and redirections:
                ask = not isinstance(error, MovedError)
                target = self._redirected(address, error)
                self._send_quietly(target, arguments, asking=ask, redirections=redirections - 1)

        with contextlib.suppress(LayerUnavailableError):
            if asking:
                connection.execute_quietly("ASKING")
            connection.execute(*arguments).add_done_callback(follow)

    def _redirected(self, asked: Address, error: AskError) -> Address:
        if isinstance(error, MovedError):
            self.in_trouble()
        return (error.host or asked[0], error.port)

    def _owner(self, key: bytes) -> Address:
        owner = self.map.owner(key)
        if owner is None:
            self.in_trouble()
            raise self.unavailable(f"no node serves slot {key_slot(key)}")
        return owner

    def _connection(self, address: Address) -> CommandConnection:
        connection = self._connections.get(address)
        if connection is None:
            connection = CommandConnection(node_host(self.host, address), self._scripts, on_failure=self.in_trouble)
            self._connections[address] = connection
        return connection

    def unavailable(self, reason: object = None) -> LayerUnavailableError:
        """The exception for what cannot be done now."""
        text = f"Redis at {describe_host(self.host)} is not available: {reason or self.error}"
        return LayerUnavailableError(text)

    # The map

    async def refresh(self) -> None:
        """Asks for the map of slots; callers that wait at the same time share one question."""
        if self._refreshing is None:
            self._refreshing = self._loop.create_task(self._refresh(), name="redis cluster map")
            self._refreshing.add_done_callback(self._refreshed)
        await asyncio.shield(self._refreshing)

    def _refreshed(self, task: "asyncio.Task[None]") -> None:
        if self._refreshing is task:
            self._refreshing = None
        if not task.cancelled():
            task.exception()  # for asyncio, if no caller waits

    async def _refresh(self) -> None:
        wait_s = self._refreshed_at + MIN_REFRESH_S - self._loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        self._refreshed_at = self._loop.time()
        for address in self._nodes_to_ask():
            connection = self._connection(address)
            try:
                if self.sharded is None:
                    self.sharded = await self._is_sharded(connection)
                slots = SlotMap.from_reply(await connection.execute("CLUSTER", "SLOTS"), address)
            except (LayerUnavailableError, ResponseError) as error:
                self.error = error.__cause__ or error
                continue
            if slots.masters:
                self._use(slots)
                return
            self.error = ResponseError("it serves no slots")
        raise self.unavailable()

    async def _is_sharded(self, connection: CommandConnection) -> bool:
        """Whether the cluster has sharded publish and subscribe: since Redis 7.0 [Redis, Sharded Pub/Sub]."""
        if (configured := self.host.get("sharded")) is not None:
            return bool(configured)
        reply = await connection.execute("COMMAND", "INFO", "SPUBLISH")
        return bool(reply and reply[0])

    def _nodes_to_ask(self) -> list[Address]:
        """The connected nodes first, in random order: one that is cut off from the others has an old map."""
        known = [*self.map.nodes, *(seed for seed in self._seeds if seed not in self.map.nodes)]
        random.shuffle(known)
        return sorted(known, key=lambda address: not (address in self._connections and self._connections[address].up))

    def _use(self, slots: SlotMap) -> None:
        self.map = slots
        self.error = None
        for address in [address for address in self._connections if address not in slots.masters]:
            self.close_soon(self._connections.pop(address))
        self.on_change()
        if not slots.complete:
            self.in_trouble()

    def close_soon(self, connection: RedisConnection) -> None:
        """Closes a connection to a node that no longer serves slots, in the background."""
        task = self._loop.create_task(connection.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def in_trouble(self) -> None:
        """Refreshes the map until every slot has a node that answers."""
        if self._poll is None:
            self._poll = self._loop.create_task(self._refresh_until_well(), name="redis cluster poll")

    async def _refresh_until_well(self) -> None:
        try:
            while True:
                with contextlib.suppress(LayerUnavailableError):
                    await self.refresh()
                answering = not any(connection.down for connection in self._connections.values())
                if self.map.complete and answering and self.is_well():
                    self.on_well()
                    return
                await asyncio.sleep(POLL_S * random.uniform(0.5, 1.0))  # noqa: S311
        finally:
            self._poll = None


def _do_nothing() -> None:
    pass


def _is_well() -> bool:
    return True
