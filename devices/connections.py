"""Which devices are connected to this process, so that they can be cut off, and so that people can see it.

Each process has a row of `GatewayInstance` with a heartbeat; a device's row names the process that has its connection.
When a process is killed its heartbeat ends, and with it what it said.

Orders to cut a device off (`ConnectionCut`) come through the database, since they are given in any process: a command,
the admin of another gateway. Each process looks for new ones every POLL_INTERVAL_S.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final, Protocol

from django.db import Error as DatabaseFault
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from devices import metrics
from devices.credentials import Directory, Identity
from devices.models import HEARTBEAT_INTERVAL_S, HEARTBEAT_TIMEOUT_MS, ConnectionCut, Device, GatewayInstance, now_ms
from gateway.db import database_sync_to_async
from protocols.log_limit import LogLimit

logger = logging.getLogger("gateway.devices")

POLL_INTERVAL_S: Final = 1.0
KEEP_CUTS: Final = timedelta(hours=1)
OVERLAP: Final = 1_000
"""How far back each look for orders goes: of two given at once, the one with the higher number may come first."""

OWNER_PREFIX: Final = "device/"

Close = Callable[[str], None]
"""Closes a connection; the argument says why."""


class Keeper(Protocol):
    """A protocol server, as far as it keeps what outlives connections (protocols.server.ProtocolServer)."""

    def owners(self) -> Collection[str]: ...

    def forget_owners(self, reasons: Mapping[str, str]) -> None: ...


class Connections:
    """The devices' open connections in this process."""

    def __init__(
        self,
        directory: Directory,
        *,
        announce: Callable[[int, bool], None],
        servers: Callable[[], Sequence[Keeper]] = tuple,
    ) -> None:
        """`announce(device_id, connected)` is called when a device's first connection, or that it has none left, is
        recorded: not before, or a snapshot read in between would contradict it and win. `servers` are those of this
        process, once they are started: they forget what they keep for a device that is cut off."""
        self._directory = directory
        self._announce = announce
        self._servers = servers
        self._closers: dict[int, dict[Close, Hashable]] = {}
        self._changed: dict[int, int] = {}
        metrics.device_connections.set_function(lambda: sum(map(len, self._closers.values())))

    def add(self, device: Identity, close: Close, *, seat: Hashable = None) -> bool:
        """Notes an open connection; False, and nothing noted, if the device has been cut off since it was looked up.
        One that has a `seat` takes it from the device's connection that had it before, which is about to end."""
        if not self._directory.is_current(device):
            return False
        closers = self._closers.setdefault(device.device_id, {})
        closers[close] = seat
        if len(closers) == 1:
            self._change(device.device_id, True)
        return True

    def count(self, device_id: int, *, beside: Hashable = None) -> int:
        """How many connections of a device are open, not counting one that has the seat `beside`."""
        seats = self._closers.get(device_id, {}).values()
        return sum(seat is None or seat != beside for seat in seats)

    def remove(self, device: Identity, close: Close) -> None:
        """Notes that a connection has ended."""
        closers = self._closers[device.device_id]
        del closers[close]
        if not closers:
            del self._closers[device.device_id]
            self._change(device.device_id, False)

    def cut(self, reasons: dict[int, str]) -> None:
        """Closes the connections of devices, given with the reasons."""
        self._directory.forget(set(reasons))
        for device_id, reason in reasons.items():
            for close in list(self._closers.get(device_id, ())):
                metrics.connections_cut.labels(reason).inc()
                close(reason)
        self._forget(reasons)

    def kept(self) -> set[int] | None:
        """The devices for which something is kept here that outlives their connections; None before the servers are
        started."""
        servers = self._servers()
        if not servers:
            return None
        names = [owner.removeprefix(OWNER_PREFIX) for owner in _owners(servers) if owner.startswith(OWNER_PREFIX)]
        return {int(name) for name in names if name.isdecimal()}

    def forget_all_but(self, device_ids: Collection[int]) -> None:
        """Forgets what is kept for other devices: such as were cut off while no gateway ran here."""
        self._forget(dict.fromkeys((self.kept() or set()).difference(device_ids), "disabled or deleted"))

    def _forget(self, reasons: Mapping[int, str]) -> None:
        owners = {owner_of(device_id): reason for device_id, reason in reasons.items()}
        for server in self._servers():
            server.forget_owners(owners)

    def take_changes(self) -> dict[int, tuple[bool, int]]:
        """What has changed since the last call: device -> whether it is connected, and since when (ms)."""
        changes = {device_id: (device_id in self._closers, at_ms) for device_id, at_ms in self._changed.items()}
        self._changed.clear()
        return changes

    def put_back(self, changes: dict[int, tuple[bool, int]]) -> None:
        """Takes back changes that could not be recorded."""
        for device_id, (_, at_ms) in changes.items():
            self._changed.setdefault(device_id, at_ms)

    def recorded(self, changes: dict[int, tuple[bool, int]]) -> None:
        """Tells those who watch of changes that the database has now."""
        for device_id, (connected, _) in changes.items():
            self._announce(device_id, connected)

    def all(self) -> list[int]:
        """The devices that are connected."""
        return list(self._closers)

    def _change(self, device_id: int, connected: bool) -> None:
        self._changed[device_id] = now_ms()


def owner_of(device_id: int) -> str:
    """The owner, for protocol servers, of what they keep for a device."""
    return f"{OWNER_PREFIX}{device_id}"


def _owners(servers: Iterable[Keeper]) -> Iterator[str]:
    for server in servers:
        yield from server.owners()


class Watchman:
    """Records in the database who is connected here, and carries out orders found there; one task, once a second."""

    def __init__(self, connections: Connections, *, poll_interval_s: float = POLL_INTERVAL_S) -> None:
        self._connections = connections
        self._poll_interval_s = poll_interval_s
        self._instance: GatewayInstance | None = None
        self._last_cut = 0
        self._done_cuts: set[int] = set()
        self._has_compared = False
        self._task: asyncio.Task[None] | None = None
        self._log_limit = LogLimit()

    async def start(self) -> "asyncio.Task[None]":
        """Registers this process, and begins; the task that is returned ends by `close` only. Raises what the database
        driver raises."""
        await database_sync_to_async(self._register)()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="watchman")
        return self._task

    async def close(self) -> None:
        """Says that nobody is connected here any more."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            await database_sync_to_async(self._sign_off)()
        except DatabaseFault as error:
            logger.warning("cannot record that this gateway stops, its heartbeat will say so: %s", error)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._poll_interval_s)
            # Two steps: a database that can be read but not written must not keep a device that was cut off.
            await self._carry_out_orders()
            await self._record_changes()

    async def _carry_out_orders(self) -> None:
        try:
            cuts = await database_sync_to_async(self._new_cuts)()
        except Exception as error:  # whatever a driver raises, or the start of a thread
            self._note_failure("look for devices to cut off", error)
        else:
            if cuts:
                self._connections.cut({cut.device_id: cut.reason for cut in cuts})
        if not self._has_compared:
            await self._compare_kept()

    async def _compare_kept(self) -> None:
        """Once the servers have what they have kept, takes away what was cut off while nobody looked for orders."""
        kept = self._connections.kept()
        if kept is None:
            return
        try:
            enabled = await database_sync_to_async(_enabled)() if kept else set()
        except Exception as error:
            self._note_failure("look for devices to forget", error)
        else:
            self._has_compared = True
            self._connections.forget_all_but(enabled)

    async def _record_changes(self) -> None:
        changes = self._connections.take_changes()
        try:
            await database_sync_to_async(self._round)(changes)
        except Exception as error:
            self._connections.put_back(changes)
            self._note_failure("record who is connected", error)
        else:
            self._connections.recorded(changes)

    def _note_failure(self, what: str, error: Exception) -> None:
        if self._log_limit.take() is not None:
            logger.error("cannot %s, trying again: %s", what, error)

    # In a thread

    def _register(self) -> None:
        now = now_ms()
        GatewayInstance.objects.filter(heartbeat_ms__lt=now - 10 * HEARTBEAT_TIMEOUT_MS).delete()
        ConnectionCut.objects.filter(created_at__lt=timezone.now() - KEEP_CUTS).delete()
        self._instance = GatewayInstance.objects.create(heartbeat_ms=now)
        self._new_cuts()

    def _round(self, changes: dict[int, tuple[bool, int]]) -> None:
        assert self._instance is not None
        now = now_ms()
        if changes or now - self._instance.heartbeat_ms >= HEARTBEAT_INTERVAL_S * 1000:
            with transaction.atomic():
                self._beat(now)
                self._record(changes)

    def _new_cuts(self) -> list[ConnectionCut]:
        """The orders that have not been returned before."""
        recent = ConnectionCut.objects.filter(pk__gt=self._last_cut - OVERLAP).order_by("pk")
        cuts = [cut for cut in recent if cut.pk not in self._done_cuts]
        if cuts:
            self._last_cut = max(self._last_cut, cuts[-1].pk)
            self._done_cuts.update(cut.pk for cut in cuts)
            self._done_cuts = {pk for pk in self._done_cuts if pk > self._last_cut - OVERLAP}
        return cuts

    def _beat(self, now: int) -> None:
        assert self._instance is not None
        if not GatewayInstance.objects.filter(pk=self._instance.pk).update(heartbeat_ms=now):
            # Another gateway has taken this one for dead, as after a suspended laptop wakes up.
            self._instance = GatewayInstance.objects.create(heartbeat_ms=now)
            self._record(dict.fromkeys(self._connections.all(), (True, now)))
        self._instance.heartbeat_ms = now

    def _record(self, changes: dict[int, tuple[bool, int]]) -> None:
        for device_id, (connected, at_ms) in changes.items():
            devices = Device.objects.filter(pk=device_id)
            if connected:  # unless it has connected to another gateway since, which was quicker to record it
                earlier = Q(connected_at_ms=None) | Q(connected_at_ms__lte=at_ms)
                devices.filter(earlier).update(connected_instance=self._instance, connected_at_ms=at_ms)
            else:  # unless it has already connected to another gateway
                devices.filter(connected_instance=self._instance).update(
                    connected_instance=None, disconnected_at_ms=at_ms
                )

    def _sign_off(self) -> None:
        assert self._instance is not None
        with transaction.atomic():
            Device.objects.filter(connected_instance=self._instance).update(
                connected_instance=None, disconnected_at_ms=now_ms()
            )
            self._instance.delete()


def _enabled() -> set[int]:
    return set(Device.objects.filter(enabled=True).values_list("pk", flat=True))
