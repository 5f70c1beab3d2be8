"""Who is connected, for people to see; and orders to cut devices off, which come through the database."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
from django.db import connections as database_connections
from django.db.models import F

from devices.credentials import DeviceDirectory, Identity, order_disconnect, set_enabled
from devices.models import (
    HEARTBEAT_INTERVAL_S,
    HEARTBEAT_TIMEOUT_MS,
    ConnectedDevice,
    Device,
    DisconnectOrder,
    GatewayInstance,
    now_ms,
)
from devices.presence import KEEP_ORDERS, POLL_INTERVAL_S, ConnectionRegistry, PresenceRecorder, owner_of
from devices.profiles import profile_of
from gateway.db import database_sync_to_async
from tests.support.databases import default_database, postgresql_settings
from tests.support.postgres import PostgresServer
from tests.support.silent_proxy import SilentProxy, silent_proxy
from tests.support.waiting import until
from tests.unit.devices.conftest import MakeStoredDevice

pytestmark = pytest.mark.usefixtures("database")

DEADLINE_S = 30.0


class Keeping:
    """A protocol server that keeps something for owners."""

    def __init__(self, *owners: str) -> None:
        self.kept = set(owners)
        self.forgotten: dict[str, str] = {}

    def owners(self) -> set[str]:
        return self.kept

    def forget_owners(self, reasons: Mapping[str, str]) -> None:
        for owner in self.kept & set(reasons):
            self.forgotten[owner] = reasons[owner]
        self.kept -= set(reasons)


class Gateway:
    """A gateway process, as far as its connections go."""

    def __init__(self, *, poll_interval_s: float = 0.02, heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S) -> None:
        self.announced: list[tuple[int, bool]] = []
        self.directory = DeviceDirectory()
        self.servers: list[Keeping] = []
        self.connections = ConnectionRegistry(
            self.directory, announce=lambda *change: self.announced.append(change), servers=lambda: self.servers
        )
        self.presence = PresenceRecorder(
            self.connections, poll_interval_s=poll_interval_s, heartbeat_interval_s=heartbeat_interval_s
        )

    async def __aenter__(self) -> "Gateway":
        await self.presence.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.presence.close()

    def identity(self, device: Device) -> Identity:
        """As of now."""
        return Identity(device.pk, device.name, profile_of("thingsboard"), self.directory.generation)

    def connect(self, device: Device) -> "Connection":
        return Connection(self, device)


class Connection:
    """A device's connection, which does as it is told."""

    def __init__(self, gateway: Gateway, device: Device) -> None:
        self._gateway = gateway
        self._identity = gateway.identity(device)
        self.closed_for: str | None = None
        assert gateway.connections.add(self._identity, self._close)

    def _close(self, reason: str) -> None:
        self.closed_for = reason
        self.end()

    def end(self) -> None:
        self._gateway.connections.remove(self._identity, self._close)


@pytest.fixture
async def gateway(database: str) -> AsyncIterator[Gateway]:
    async with Gateway() as running:
        yield running


@pytest.fixture
def device(database: str, new_device: MakeStoredDevice) -> Device:
    return new_device("thermo-1")


async def until_stored(condition: Callable[[], bool]) -> None:
    """Waits for a condition on the database."""
    async with asyncio.timeout(DEADLINE_S):
        while not await database_sync_to_async(condition)():
            await asyncio.sleep(0.01)


def is_connected(device: Device) -> bool:
    return Device.objects.with_connected().get(pk=device.pk).connected  # type: ignore[attr-defined,no-any-return]


def shift_heartbeats(by_ms: int) -> None:
    """As if the clock that heartbeats are told by had been set since."""
    GatewayInstance.objects.update(heartbeat_ms=F("heartbeat_ms") + by_ms)


class TestOrders:
    async def test_a_device_that_is_disabled_elsewhere_is_cut_off(self, gateway: Gateway, device: Device) -> None:
        first, second = gateway.connect(device), gateway.connect(device)

        await database_sync_to_async(set_enabled)(device, False)

        await until(lambda: first.closed_for and second.closed_for)
        assert first.closed_for == second.closed_for == "disabled"

    async def test_what_servers_keep_for_a_device_goes_with_it_and_that_of_others_stays(
        self, gateway: Gateway, device: Device
    ) -> None:
        mine, other = owner_of(device.pk), "192.0.2.1"
        server = Keeping(mine, other)
        gateway.servers.append(server)

        await database_sync_to_async(order_disconnect)(device, "credentials rotated")

        await until(lambda: server.forgotten)
        assert server.forgotten == {mine: "credentials rotated"}
        assert server.kept == {other}

    async def test_what_servers_keep_for_a_device_that_was_cut_off_while_no_gateway_ran_goes_with_it(
        self, database: str, device: Device, new_device: MakeStoredDevice
    ) -> None:
        disabled, deleted = [await database_sync_to_async(new_device)(name) for name in ("disabled", "deleted")]
        await database_sync_to_async(set_enabled)(disabled, False)
        server = Keeping(*(owner_of(one.pk) for one in (device, disabled, deleted)), "192.0.2.1", "device/of-others")
        await database_sync_to_async(deleted.delete)()

        async with Gateway() as gateway:
            gateway.servers.append(server)  # they start after the services of the application

            await until(lambda: server.forgotten)

        assert server.kept == {owner_of(device.pk), "192.0.2.1", "device/of-others"}

    def test_orders_are_looked_for_often_enough_to_be_carried_out_within_two_seconds(self) -> None:
        assert POLL_INTERVAL_S <= 1

    async def test_an_order_leaves_other_devices_connected(
        self, gateway: Gateway, device: Device, new_device: MakeStoredDevice
    ) -> None:
        other = await database_sync_to_async(new_device)("thermo-2")
        connection, other_connection = gateway.connect(device), gateway.connect(other)

        await database_sync_to_async(order_disconnect)(device, "disabled")

        await until(lambda: connection.closed_for)
        assert other_connection.closed_for is None

    async def test_every_gateway_carries_it_out(self, gateway: Gateway, device: Device) -> None:
        async with Gateway() as other:
            here, there = gateway.connect(device), other.connect(device)

            await database_sync_to_async(order_disconnect)(device, "disabled")

            await until(lambda: here.closed_for and there.closed_for)

    async def test_a_connection_whose_login_was_overtaken_by_it_is_not_let_in(
        self, gateway: Gateway, device: Device
    ) -> None:
        looked_up_before = gateway.identity(device)
        watched = gateway.connect(device)

        await database_sync_to_async(order_disconnect)(device, "disabled")

        await until(lambda: watched.closed_for)
        assert not gateway.connections.add(looked_up_before, lambda reason: None)
        assert gateway.connections.add(gateway.identity(device), lambda reason: None)

    async def test_each_is_carried_out_once(self, gateway: Gateway, device: Device) -> None:
        first = gateway.connect(device)
        await database_sync_to_async(order_disconnect)(device, "disabled")
        await until(lambda: first.closed_for)

        again = gateway.connect(device)
        await database_sync_to_async(order_disconnect)(Device(pk=device.pk + 1), "another")
        await until(lambda: gateway.directory.generation == 2)

        assert again.closed_for is None

    async def test_one_with_a_lower_number_that_is_committed_later_counts_too(
        self, gateway: Gateway, device: Device
    ) -> None:
        await database_sync_to_async(DisconnectOrder.objects.create)(pk=500, device_id=device.pk + 1, reason="first")
        await until(lambda: gateway.directory.generation == 1)
        connection = gateway.connect(device)

        await database_sync_to_async(DisconnectOrder.objects.create)(pk=499, device=device, reason="late")

        await until(lambda: connection.closed_for)

    async def test_orders_from_before_the_start_are_not_carried_out(self, device: Device) -> None:
        await database_sync_to_async(order_disconnect)(device, "disabled")

        async with Gateway() as gateway:
            connection = gateway.connect(device)
            await database_sync_to_async(order_disconnect)(Device(pk=device.pk + 1), "another")
            await until(lambda: gateway.directory.generation)

        assert connection.closed_for is None

    async def test_a_bounded_number_is_kept_whatever_the_clock_says(self, device: Device) -> None:
        order = {"device": device, "reason": "disabled"}
        numbers = (1, KEEP_ORDERS, KEEP_ORDERS + 1)
        await database_sync_to_async(DisconnectOrder.objects.bulk_create)(
            [DisconnectOrder(pk=number, **order) for number in numbers]
        )

        async with Gateway():
            kept = await database_sync_to_async(lambda: list(DisconnectOrder.objects.values_list("pk", flat=True)))()

        assert kept == [KEEP_ORDERS, KEEP_ORDERS + 1]

    async def test_orders_are_carried_out_while_nothing_can_be_written(self, gateway: Gateway, device: Device) -> None:
        connection = gateway.connect(device)
        await until_stored(lambda: is_connected(device))
        await database_sync_to_async(break_writing)()
        gateway.connect(device).end()  # something that would be written
        connection_of_another = gateway.connect(Device(pk=device.pk + 1, name="another"))

        await database_sync_to_async(order_disconnect)(device, "disabled")

        await until(lambda: connection.closed_for)
        connection_of_another.end()
        await database_sync_to_async(mend_writing)()


class TestAnotherDatabase:
    """One that was restored from a backup, say, while the gateway runs."""

    async def test_every_connection_is_closed_and_none_that_was_looked_up_before_is_let_in(
        self, gateway: Gateway, device: Device, new_device: MakeStoredDevice
    ) -> None:
        other = await database_sync_to_async(new_device)("thermo-2")
        looked_up_before = gateway.identity(device)
        connections = [gateway.connect(device), gateway.connect(device), gateway.connect(other)]

        gateway.presence.start_over()

        assert [connection.closed_for for connection in connections] == ["database replaced"] * 3
        assert not gateway.connections.add(looked_up_before, lambda reason: None)

    async def test_orders_in_another_database_from_before_are_old_and_those_that_come_are_carried_out(
        self, gateway: Gateway, device: Device
    ) -> None:
        await database_sync_to_async(DisconnectOrder.objects.create)(pk=5_000, device=device, reason="long ago")
        await until(lambda: gateway.directory.generation)
        await database_sync_to_async(DisconnectOrder.objects.all().delete)()
        await database_sync_to_async(DisconnectOrder.objects.create)(pk=17, device=device, reason="in the backup")

        gateway.presence.start_over()
        connection = gateway.connect(device)
        await until(lambda: gateway.presence._last_order == 17)
        assert connection.closed_for is None
        await database_sync_to_async(DisconnectOrder.objects.create)(pk=18, device=device, reason="disabled")

        await until(lambda: connection.closed_for)
        assert connection.closed_for == "disabled"


class TestWhoIsConnected:
    async def test_who_is_connected_is_recorded_with_the_times(self, gateway: Gateway, device: Device) -> None:
        before = now_ms()

        connection = gateway.connect(device)
        await until_stored(lambda: is_connected(device))
        assert before <= await database_sync_to_async(lambda: ConnectedDevice.objects.get().since_ms)() <= now_ms()
        connection.end()
        await until_stored(lambda: not is_connected(device))

        await database_sync_to_async(device.refresh_from_db)()
        assert device.disconnected_at_ms is not None
        assert before <= device.disconnected_at_ms <= now_ms()

    async def test_who_watches_is_told_once_a_connection_is_recorded(self, gateway: Gateway, device: Device) -> None:
        connection = gateway.connect(device)
        assert gateway.announced == []

        await until(lambda: gateway.announced)
        assert gateway.announced == [(device.pk, True)]
        assert await database_sync_to_async(is_connected)(device)

        connection.end()
        await until(lambda: len(gateway.announced) > 1)
        assert gateway.announced == [(device.pk, True), (device.pk, False)]

    async def test_a_device_is_connected_until_its_last_connection_ends(self, gateway: Gateway, device: Device) -> None:
        first, second = gateway.connect(device), gateway.connect(device)
        await until(lambda: gateway.announced)

        first.end()
        assert not gateway.connections._changed
        second.end()
        await until(lambda: gateway.announced == [(device.pk, True), (device.pk, False)])

    async def test_a_gateway_that_stops_says_that_nobody_is_connected_to_it(self, device: Device) -> None:
        async with Gateway() as gateway:
            gateway.connect(device)
            await until_stored(lambda: is_connected(device))

        assert not await database_sync_to_async(is_connected)(device)
        assert not await database_sync_to_async(GatewayInstance.objects.exists)()

    async def test_what_a_killed_gateway_said_ends_with_its_heartbeat(self, gateway: Gateway, device: Device) -> None:
        gateway.connect(device)
        await until_stored(lambda: is_connected(device))

        await database_sync_to_async(shift_heartbeats)(-HEARTBEAT_TIMEOUT_MS - 1_000)

        assert not await database_sync_to_async(is_connected)(device)

    async def test_the_heart_beats(self, database: str) -> None:
        async with Gateway(heartbeat_interval_s=0.02):
            await database_sync_to_async(shift_heartbeats)(-HEARTBEAT_TIMEOUT_MS)

            await until_stored(lambda: GatewayInstance.objects.get().heartbeat_ms > now_ms() - HEARTBEAT_TIMEOUT_MS / 2)

    async def test_one_that_was_taken_for_dead_registers_anew_with_its_connections(self, device: Device) -> None:
        async with Gateway(heartbeat_interval_s=0.02) as gateway:
            gateway.connect(device)
            await until_stored(lambda: is_connected(device))

            await database_sync_to_async(GatewayInstance.objects.all().delete)()

            await until_stored(lambda: is_connected(device))

    async def test_changes_that_could_not_be_written_are_written_later(
        self, gateway: Gateway, device: Device, caplog: pytest.LogCaptureFixture
    ) -> None:
        await database_sync_to_async(break_writing)()
        gateway.connect(device)
        await until(lambda: "cannot record who is connected" in caplog.text)

        await database_sync_to_async(mend_writing)()

        await until_stored(lambda: is_connected(device))
        await until(lambda: len(caplog.records) > 1)
        failed, again = caplog.records
        assert failed.levelno == logging.ERROR
        assert again.getMessage() == "can record who is connected again"

    async def test_while_they_cannot_be_written_it_says_so(self, gateway: Gateway, device: Device) -> None:
        assert gateway.presence.failure is None
        await database_sync_to_async(break_writing)()
        gateway.connect(device)
        await until(lambda: gateway.presence.failure)
        assert str(gateway.presence.failure).startswith("cannot record who is connected: ")

        await database_sync_to_async(mend_writing)()

        await until(lambda: gateway.presence.failure is None)


class TestTwoGateways:
    async def test_a_device_that_changes_over_stays_connected(self, gateway: Gateway, device: Device) -> None:
        async with Gateway() as other:
            old = gateway.connect(device)
            await until(lambda: gateway.announced)

            new = other.connect(device)
            await until(lambda: other.announced)
            old.end()
            await until(lambda: len(gateway.announced) > 1)

            assert gateway.announced == [(device.pk, True), (device.pk, True)], "it is connected, elsewhere"
            assert await database_sync_to_async(is_connected)(device)
            new.end()
            await until_stored(lambda: not is_connected(device))
            await until(lambda: len(other.announced) > 1)
            assert other.announced == [(device.pk, True), (device.pk, False)]

    async def test_two_gateways_agree_in_whichever_order_they_write(self, device: Device) -> None:
        old, new = Gateway(poll_interval_s=3600), Gateway(poll_interval_s=3600)
        async with old, new:
            leaving = old.connect(device)
            new.connect(device)
            for gateway in (new, old):
                await gateway.presence._record_changes()

            leaving.end()
            await old.presence._record_changes()

            assert await database_sync_to_async(is_connected)(device)


class TestAClockThatIsSet:
    """By an hour or by forty days: nothing is decided by comparing what two clocks said, or one at two times."""

    SHIFTS = pytest.mark.parametrize("shift_ms", [3_600_000, -3_600_000, 40 * 86_400_000, -40 * 86_400_000])

    @SHIFTS
    async def test_connected_devices_are_connected_from_the_next_heartbeat_on(
        self, device: Device, shift_ms: int
    ) -> None:
        async with Gateway(heartbeat_interval_s=0.02) as gateway, Gateway() as other:
            connection = gateway.connect(device)
            other.connect(device).end()
            await until(lambda: gateway.announced and other.announced)

            await database_sync_to_async(shift_heartbeats)(shift_ms)

            await until_stored(lambda: abs(stored_heartbeat(gateway) - now_ms()) < HEARTBEAT_TIMEOUT_MS)
            assert await database_sync_to_async(is_connected)(device)
            connection.end()
            await until_stored(lambda: not is_connected(device))

    @SHIFTS
    async def test_a_connection_after_it_is_recorded_as_any_other(self, device: Device, shift_ms: int) -> None:
        async with Gateway() as gateway:
            await database_sync_to_async(ConnectedDevice.objects.create)(
                device=device, instance=gateway.presence._instance, since_ms=now_ms() + shift_ms
            )

            gateway.connect(device).end()

            await until_stored(lambda: not is_connected(device))

    @SHIFTS
    async def test_the_dead_are_buried_whatever_their_last_heartbeat_says(self, device: Device, shift_ms: int) -> None:
        beat = now_ms() + shift_ms
        dead = await database_sync_to_async(GatewayInstance.objects.create)(heartbeat_ms=beat)
        await database_sync_to_async(ConnectedDevice.objects.create)(device=device, instance=dead, since_ms=beat)
        async with Gateway(heartbeat_interval_s=0.03) as gateway:
            await until_stored(lambda: not GatewayInstance.objects.filter(pk=dead.pk).exists())

            assert await database_sync_to_async(GatewayInstance.objects.get)() == gateway.presence._instance
        await database_sync_to_async(device.refresh_from_db)()
        assert device.disconnected_at_ms == beat, "the last that was heard of it"
        assert not await database_sync_to_async(is_connected)(device)

    async def test_the_living_are_not_buried(self, device: Device) -> None:
        async with Gateway(heartbeat_interval_s=0.05) as gateway, Gateway(heartbeat_interval_s=0.05) as other:
            first = [one.presence._instance for one in (gateway, other)]
            gateway.connect(device)
            dead = await database_sync_to_async(GatewayInstance.objects.create)(heartbeat_ms=now_ms())
            await until_stored(lambda: not GatewayInstance.objects.filter(pk=dead.pk).exists())

            assert [one.presence._instance for one in (gateway, other)] == first
            assert await database_sync_to_async(is_connected)(device)


class TestARowThatSomebodyHasLocked:
    """Only PostgreSQL locks rows."""

    @pytest.fixture
    def locked_devices(self, postgresql_database: str, postgres_server: PostgresServer) -> Iterator[None]:
        with postgres_server.connect(postgresql_database) as holder, holder.transaction():
            holder.execute(b"SELECT 1 FROM gateway_devices_device FOR UPDATE")
            yield

    @pytest.fixture
    def database(self, postgresql_database: str) -> str:
        return "postgresql"

    async def test_a_row_that_somebody_has_locked_keeps_no_revoked_device_connected_and_nothing_from_being_recorded(
        self, gateway: Gateway, device: Device, locked_devices: None
    ) -> None:
        connection = gateway.connect(device)
        await until_stored(lambda: is_connected(device))

        await database_sync_to_async(order_disconnect)(device, "revoked")

        await until(lambda: connection.closed_for)
        await until(lambda: gateway.announced == [(device.pk, True), (device.pk, False)])
        assert gateway.presence.failure is None

    async def test_a_locked_row_of_the_gateway_itself_keeps_no_revoked_device_connected(
        self, gateway: Gateway, device: Device, postgresql_database: str, postgres_server: PostgresServer
    ) -> None:
        connection = gateway.connect(device)
        await until(lambda: gateway.announced)
        with postgres_server.connect(postgresql_database) as holder, holder.transaction():
            holder.execute(b"SELECT 1 FROM gateway_devices_gatewayinstance FOR UPDATE")
            gateway.connect(device).end()
            gateway.connect(Device(pk=device.pk + 1, name="another")).end()
            await until(lambda: gateway.presence.failure)
            assert "lock timeout" in str(gateway.presence.failure)

            await database_sync_to_async(order_disconnect)(device, "revoked")

            await until(lambda: connection.closed_for)
        await until(lambda: gateway.presence.failure is None)


class TestAPostgresqlThatHasFallenSilent:
    @pytest.fixture
    def proxy(self, postgres_server: PostgresServer) -> Iterator[SilentProxy]:
        with silent_proxy(postgres_server.port) as proxy:
            yield proxy

    @pytest.fixture
    def database(self, proxy: SilentProxy, postgresql_database: str, postgres_server: PostgresServer) -> Iterator[str]:
        settings = postgresql_settings(postgres_server, postgresql_database) | {"PORT": proxy.port}
        with default_database(settings):
            yield "postgresql"

    async def test_a_postgresql_that_has_fallen_silent_is_told_of_and_left_for_a_new_connection(
        self, proxy: SilentProxy, gateway: Gateway, device: Device, caplog: pytest.LogCaptureFixture
    ) -> None:
        connection = gateway.connect(device)
        await until(lambda: gateway.announced)

        proxy.silence_established()
        connection.end()
        await until(lambda: gateway.presence.failure)

        await until(lambda: gateway.announced == [(device.pk, True), (device.pk, False)])
        await until(lambda: gateway.presence.failure is None)
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert sum("look for devices to cut off, trying again" in line for line in told) == 1
        assert sum("record who is connected, trying again" in line for line in told) == 1


def stored_heartbeat(gateway: Gateway) -> int:
    assert gateway.presence._instance is not None
    return GatewayInstance.objects.get(pk=gateway.presence._instance.pk).heartbeat_ms


_TABLE = "gateway_devices_gatewayinstance"


def break_writing() -> None:
    """The table of gateways is away."""
    with database_connections["default"].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {_TABLE} RENAME TO away")


def mend_writing() -> None:
    with database_connections["default"].cursor() as cursor:
        cursor.execute(f"ALTER TABLE away RENAME TO {_TABLE}")
