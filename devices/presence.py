"""Records which devices are connected to this process, for people to see, and disconnects devices by order.

Each process has a row of `GatewayInstance` with a heartbeat, and a row of `ConnectedDevice` for each device that has a
connection to it. When a process is killed its heartbeat ends, and its rows are void. No process writes the rows of
another, and none waits for the row of a device: nothing is decided by comparing the clocks of two processes.

Clocks may be set, so nothing here relies on them: intervals are measured by the monotonic clock, and the others take a
process for dead when its heartbeat was the same in UNCHANGED_LOOKS looks, whatever time it says.

Orders to disconnect a device (`DisconnectOrder`) come through the database, since any process gives them: a command,
the admin of another gateway. Each process looks for new ones every POLL_INTERVAL_S, in a thread of its own: a database
that does not let it record who is connected must not keep a device that was cut off.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from django.db import Error as DatabaseFault
from django.db import transaction

from devices import metrics
from devices.credentials import DeviceDirectory, Identity
from devices.failures import Failures
from devices.models import (
    HEARTBEAT_INTERVAL_S,
    ConnectedDevice,
    DatabaseNow,
    Device,
    DisconnectOrder,
    GatewayInstance,
    now_ms,
)
from gateway.databases.thread import DatabaseThread
from gateway.db import one_line

logger = logging.getLogger("gateway.devices")

POLL_INTERVAL_S: Final = 1.0
LOOK_LIMIT_S: Final = 4.0
"""How long a look for orders may take: then the connection to the database is replaced by a new one."""
KEEP_ORDERS: Final = 100_000
"""How many orders are kept for gateways that have not seen them yet; a number, as a wrong clock would delete all."""
UNCHANGED_LOOKS: Final = 7
"""After so many looks, one each HEARTBEAT_INTERVAL_S, a process whose heartbeat is still the same is dead. Looks count,
not time: while the database is away, nobody can look and nobody can beat."""
CLOCK_JUMP_MS: Final = 1_000
"""By how much the clock has to change against the monotonic one to count as set."""
ROWS_AT_ONCE: Final = 200
"""Rows of one transaction at most: while it lasts, SQLite takes no readings."""

LOOKING: Final = "look for devices to cut off"
RECORDING: Final = "record who is connected"
OVERLAP: Final = 1_000
"""How far back each look for orders goes: of two concurrent orders, the one with the higher number may appear first."""

OWNER_PREFIX: Final = "device/"

Close = Callable[[str], None]
"""Closes a connection; the argument says why."""


class Keeper(Protocol):
    """The part of a protocol server that keeps state beyond connections (protocols.server.ProtocolServer)."""

    def owners(self) -> Collection[str]: ...

    def forget_owners(self, reasons: Mapping[str, str]) -> None: ...


class ConnectionRegistry:
    """The devices' open connections in this process."""

    def __init__(
        self,
        directory: DeviceDirectory,
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

    def add(self, device: Identity, close: Close, *, session_key: Hashable = None) -> bool:
        """Adds an open connection. Returns False, and adds none, if the device was cut off since it was looked up.
        With a `session_key` it takes the place of the device's connection that has the same one, which is about to
        end."""
        if not self._directory.is_current(device):
            return False
        closers = self._closers.setdefault(device.device_id, {})
        closers[close] = session_key
        if len(closers) == 1:
            self._change(device.device_id, True)
        return True

    def count(self, device_id: int, *, beside: Hashable = None) -> int:
        """How many connections of a device are open, not counting one whose session key is `beside`."""
        session_keys = self._closers.get(device_id, {}).values()
        return sum(session_key is None or session_key != beside for session_key in session_keys)

    def remove(self, device: Identity, close: Close) -> None:
        """Removes a connection that has ended."""
        closers = self._closers[device.device_id]
        del closers[close]
        if not closers:
            del self._closers[device.device_id]
            self._change(device.device_id, False)

    def disconnect(self, reasons: dict[int, str]) -> None:
        """Closes the connections of devices, given with the reasons."""
        self._directory.forget(set(reasons))
        for device_id, reason in reasons.items():
            for close in list(self._closers.get(device_id, ())):
                metrics.connections_cut.labels(reason).inc()
                close(reason)
        self._forget(reasons)

    def disconnect_all(self, reason: str) -> None:
        """Closes every connection, and forgets every device that was looked up; the servers keep what they have for
        them."""
        self._directory.forget_all()
        for closers in list(self._closers.values()):
            for close in list(closers):
                metrics.connections_cut.labels(reason).inc()
                close(reason)

    def kept(self) -> set[int] | None:
        """The devices for which the servers keep something beyond connections; None before the servers are started."""
        servers = self._servers()
        if not servers:
            return None
        names = [owner.removeprefix(OWNER_PREFIX) for owner in _owners(servers) if owner.startswith(OWNER_PREFIX)]
        return {int(name) for name in names if name.isdecimal()}

    def forget_all_but(self, device_ids: Collection[int]) -> None:
        """Forgets what the servers keep for other devices, which were cut off while no gateway ran here."""
        self._forget(dict.fromkeys((self.kept() or set()).difference(device_ids), "disabled or deleted"))

    def _forget(self, reasons: Mapping[int, str]) -> None:
        owners = {owner_of(device_id): reason for device_id, reason in reasons.items()}
        for server in self._servers():
            server.forget_owners(owners)

    def drain_changes(self) -> dict[int, tuple[bool, int]]:
        """The changes since the last call: device -> whether it is connected, and since when (ms)."""
        changes = {device_id: (device_id in self._closers, at_ms) for device_id, at_ms in self._changed.items()}
        self._changed.clear()
        return changes

    def restore(self, changes: dict[int, tuple[bool, int]]) -> None:
        """Puts back changes that could not be recorded."""
        for device_id, (_, at_ms) in changes.items():
            self._changed.setdefault(device_id, at_ms)

    def recorded(self, states: dict[int, bool]) -> None:
        """Announces which devices are connected, as it is in the database now."""
        for device_id, connected in states.items():
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


class PresenceRecorder:
    """Records in the database which devices are connected here, and carries out the orders found there: two tasks, each
    once a second."""

    def __init__(
        self,
        connections: ConnectionRegistry,
        *,
        poll_interval_s: float = POLL_INTERVAL_S,
        heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S,
    ) -> None:
        self._connections = connections
        self._poll_interval_s = poll_interval_s
        self._heartbeat_interval_s = heartbeat_interval_s
        self._instance: GatewayInstance | None = None
        self._beat_at = 0.0
        self._wall_offset_ms = 0.0
        self._looked_at = float("-inf")
        self._others: dict[int, tuple[int, int]] = {}
        """Other processes: the heartbeat of each, and how often it was the same again."""
        self._last_order = 0
        self._done_orders: set[int] = set()
        self._has_compared = False
        self._must_start_over = False
        self._task: asyncio.Task[None] | None = None
        self._failures = Failures()
        self._looking = DatabaseThread("orders", slow_s=LOOK_LIMIT_S, call_s=LOOK_LIMIT_S)
        self._recording = DatabaseThread("presence")

    @property
    def instance_id(self) -> int | None:
        """The number of this process in the database; None before `start`."""
        return None if self._instance is None else self._instance.pk

    @property
    def failure(self) -> str | None:
        """What fails now, and why; None while all is well."""
        return self._failures.first

    async def start(self) -> "asyncio.Task[None]":
        """Registers this process and starts. Returns the task, which only `close` ends. Raises what the database driver
        raises."""
        await self._recording.call(self._register, self._failures.slow(RECORDING))
        self._task = asyncio.get_running_loop().create_task(self._run(), name="presence")
        return self._task

    def start_over(self) -> None:
        """The database is another now: it has let nobody in who is here, orders that are in it are old, and what is
        kept here may be nobody's there."""
        self._connections.disconnect_all("database replaced")
        self._must_start_over = True

    async def close(self) -> None:
        """Records that no device is connected here any more, and stops."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self._recording.call(self._sign_off, self._failures.slow(RECORDING))
        except DatabaseFault as error:
            logger.warning("cannot record that this gateway stops, its heartbeat will say so: %s", error)
        await self._looking.close()
        await self._recording.close()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self._carry_out_orders))
            group.create_task(self._repeat(self._record_changes))

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._poll_interval_s)
            await step()

    async def _carry_out_orders(self) -> None:
        try:
            orders = await self._looking.call(self._new_orders, self._failures.slow(LOOKING))
        except Exception as error:  # whatever a driver raises, or the start of a thread
            self._failures.note(LOOKING, one_line(error))
        else:
            self._failures.over(LOOKING)
            if orders:
                self._connections.disconnect({order.device_id: order.reason for order in orders})
        if not self._has_compared:
            await self._compare_kept()

    async def _compare_kept(self) -> None:
        """Once the servers have restored what they keep, forgets what belongs to devices that were cut off while no
        gateway looked for orders."""
        kept = self._connections.kept()
        if kept is None:
            return
        try:
            enabled = await self._looking.call(_enabled, self._failures.slow(LOOKING)) if kept else set()
        except Exception as error:
            self._failures.note(LOOKING, one_line(error))
        else:
            self._has_compared = True
            self._connections.forget_all_but(enabled)

    async def _record_changes(self) -> None:
        changes = self._connections.drain_changes()
        try:
            states = await self._recording.call(self._round, self._failures.slow(RECORDING), changes)
        except Exception as error:
            self._connections.restore(changes)
            self._failures.note(RECORDING, one_line(error))
        else:
            if states is not None:
                self._failures.over(RECORDING)
                self._connections.recorded(states)

    # In a thread

    def _register(self) -> None:
        newest = DisconnectOrder.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        DisconnectOrder.objects.filter(pk__lte=newest - KEEP_ORDERS).delete()
        self._instance = self._new_instance()
        self._new_orders()

    def _new_instance(self) -> GatewayInstance:
        self._note_beat()
        return GatewayInstance.objects.create(heartbeat_ms=DatabaseNow())

    def _round(self, changes: dict[int, tuple[bool, int]]) -> dict[int, bool] | None:
        """Writes what is due. Returns which devices of `changes` are connected then; None if nothing was due."""
        if not changes and not self._is_beat_due():
            return None
        with transaction.atomic():
            self._beat()
        self._note_beat()
        states: dict[int, bool] = {}
        for ids in _slices(list(changes)):  # commits of readings may come between
            with transaction.atomic():
                states |= self._record({device_id: changes[device_id] for device_id in ids})
        self._delete_dead_processes()
        return states

    def _new_orders(self) -> list[DisconnectOrder]:
        """The orders that have not been returned before."""
        if self._must_start_over:
            self._must_start_over = self._has_compared = False
            self._last_order, self._done_orders = 0, set()
            self._new_orders()
        recent = DisconnectOrder.objects.filter(pk__gt=self._last_order - OVERLAP).order_by("pk")
        orders = [order for order in recent if order.pk not in self._done_orders]
        if orders:
            self._last_order = max(self._last_order, orders[-1].pk)
            self._done_orders.update(order.pk for order in orders)
            self._done_orders = {pk for pk in self._done_orders if pk > self._last_order - OVERLAP}
        return orders

    def _is_beat_due(self) -> bool:
        has_jumped = abs(_wall_offset_ms() - self._wall_offset_ms) > CLOCK_JUMP_MS
        return has_jumped or time.monotonic() - self._beat_at >= self._heartbeat_interval_s

    def _note_beat(self) -> None:
        self._beat_at = time.monotonic()
        self._wall_offset_ms = _wall_offset_ms()

    def _beat(self) -> None:
        assert self._instance is not None
        if not GatewayInstance.objects.filter(pk=self._instance.pk).update(heartbeat_ms=DatabaseNow()):
            # Another gateway has taken this one for dead, as after a suspended laptop wakes up.
            self._instance = self._new_instance()
            self._record_connected(dict.fromkeys(self._connections.all(), now_ms()))

    def _delete_dead_processes(self) -> None:
        """Deletes the processes whose heartbeat has been the same for UNCHANGED_LOOKS looks."""
        now = time.monotonic()
        if now - self._looked_at < self._heartbeat_interval_s:
            return
        self._looked_at = now
        assert self._instance is not None
        others = GatewayInstance.objects.exclude(pk=self._instance.pk).values_list("pk", "heartbeat_ms")
        seen, self._others = self._others, {}
        for pk, heartbeat_ms in others:
            before, looks = seen.get(pk, (heartbeat_ms, -1))
            looks = looks + 1 if heartbeat_ms == before else 0
            if looks >= UNCHANGED_LOOKS:
                with transaction.atomic():
                    self._delete(GatewayInstance(pk=pk), heartbeat_ms)
            else:
                self._others[pk] = (heartbeat_ms, looks)

    def _record(self, changes: dict[int, tuple[bool, int]]) -> dict[int, bool]:
        """Writes the changes. Returns whether each device is connected, here or elsewhere."""
        here = {device_id: at_ms for device_id, (connected, at_ms) in changes.items() if connected}
        gone = {device_id: at_ms for device_id, (connected, at_ms) in changes.items() if not connected}
        self._record_connected(here)
        return dict.fromkeys(here, True) | self._record_gone(self._instance, gone)

    def _record_connected(self, since_ms: dict[int, int]) -> None:
        assert self._instance is not None
        ConnectedDevice.objects.bulk_create(
            (
                ConnectedDevice(device_id=device_id, instance=self._instance, since_ms=at_ms)
                for device_id, at_ms in since_ms.items()
            ),
            batch_size=ROWS_AT_ONCE,
            update_conflicts=True,
            unique_fields=["device", "instance"],
            update_fields=["since_ms"],
        )

    def _record_gone(self, instance: GatewayInstance | None, at_ms: dict[int, int]) -> dict[int, bool]:
        """Writes that devices have no connection to a gateway any more, and since when. Returns whether each is still
        connected to another one."""
        states: dict[int, bool] = {}
        for ids in _slices(list(at_ms)):
            ConnectedDevice.objects.filter(instance=instance, device__in=ids).delete()
            # A row that somebody has locked keeps the time that it has: this is for people to read.
            gone = list(Device.objects.select_for_update(skip_locked=True, no_key=True).filter(pk__in=ids).only("pk"))
            for device in gone:
                device.disconnected_at_ms = at_ms[device.pk]
            Device.objects.bulk_update(gone, ["disconnected_at_ms"])
            known: Any = Device.objects.with_connected().filter(pk__in=ids)  # "connected" is no field, says mypy
            states |= known.values_list("pk", "connected")
        return states

    def _sign_off(self) -> None:
        assert self._instance is not None
        with transaction.atomic():
            self._delete(self._instance, now_ms())

    def _delete(self, instance: GatewayInstance, at_ms: int) -> None:
        """Deletes a gateway that ended at `at_ms`, and its rows."""
        devices = ConnectedDevice.objects.filter(instance=instance).values_list("device", flat=True)
        self._record_gone(instance, dict.fromkeys(devices, at_ms))
        instance.delete()


def _wall_offset_ms() -> float:
    """How far the clock is ahead of the monotonic one."""
    return now_ms() - time.monotonic() * 1000


def _slices(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[start : start + ROWS_AT_ONCE] for start in range(0, len(ids), ROWS_AT_ONCE))


def _enabled() -> set[int]:
    return set(Device.objects.filter(enabled=True).values_list("pk", flat=True))
