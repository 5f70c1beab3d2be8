"""What waits for a device is given to its connections, in order, once, and what became of it is written down."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from devices.attributes import Scope, delete_attributes, set_attributes, untold
from devices.commands import State, create
from devices.downlink import AttributesDue, CommandDue, Downlink, Due, Receiver
from devices.downlink.receivers import MAX_RECEIVERS
from devices.models import Command, Device, GatewayInstance, now_ms
from devices.profiles import Meaning
from devices.refusals import MessageRefusal, RefusedError
from gateway.db import database_sync_to_async
from gateway.layers import InMemoryChannelLayer, channel_layers
from tests.support.waiting import until
from tests.unit.devices.conftest import MakeStoredDevice

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def device(database: str, new_device: MakeStoredDevice) -> Device:
    return new_device("thermo-1")


class Connection:
    """A connection of a device, and what it was given."""

    def __init__(self, downlink: Downlink, device: Device, *meanings: Meaning, most: int = 20) -> None:
        self.given: list[tuple[int, Due]] = []
        self.receiver: Receiver = downlink.open(device.pk, lambda *given: self.given.append(given), most=most)
        for meaning in meanings or (Meaning.COMMAND, Meaning.SHARED_ATTRIBUTES):
            downlink.take(self.receiver, meaning)

    @property
    def methods(self) -> list[str]:
        return [due.method for _, due in self.given if isinstance(due, CommandDue)]

    @property
    def attributes(self) -> list[Any]:
        return [
            {key: msgspec.json.decode(value) for key, value in due.values.items()} or sorted(due.versions)
            for _, due in self.given
            if isinstance(due, AttributesDue)
        ]


@pytest.fixture
async def downlink(database: str) -> AsyncIterator[Downlink]:
    """That of a process that lives, which looks so seldom that only what is told is found."""
    layer = InMemoryChannelLayer()
    before = channel_layers.set("default", layer)
    instance = await database_sync_to_async(GatewayInstance.objects.create)(heartbeat_ms=now_ms())
    downlink = Downlink(layer, instance_id=lambda: instance.pk, look_interval_s=3_600)
    await downlink.start()
    yield downlink
    await downlink.close()
    channel_layers.backends.pop("default")
    if before is not None:
        channel_layers.set("default", before)


async def command(device: Device, method: str, **options: Any) -> Command:
    return await database_sync_to_async(create)(device, method, **options)


async def state_of(command: Command) -> str:
    await database_sync_to_async(command.refresh_from_db)()
    return command.state


async def until_state(command: Command, state: State) -> None:
    async with asyncio.timeout(30):
        while await state_of(command) != state:
            await asyncio.sleep(0.01)


class TestCommands:
    async def test_one_that_waits_is_given_when_the_device_comes(self, downlink: Downlink, device: Device) -> None:
        waiting = await command(device, "reboot")

        connection = Connection(downlink, device)
        await until(lambda: connection.methods, "a command")

        assert await state_of(waiting) == State.SENT

    async def test_one_for_a_device_that_is_here_is_given_at_once(self, downlink: Downlink, device: Device) -> None:
        connection = Connection(downlink, device)

        await command(device, "reboot", params={"delay": 5})
        await until(lambda: connection.given, "a command")

        [(_, due)] = connection.given
        assert isinstance(due, CommandDue)
        assert msgspec.json.encode(due.params) == b'{"delay":5}'
        assert not due.redelivered

    async def test_several_come_in_order_and_no_more_at_a_time_than_the_connection_takes(
        self, downlink: Downlink, device: Device
    ) -> None:
        for number in range(5):
            await command(device, f"m{number}")

        connection = Connection(downlink, device, most=2)
        await until(lambda: len(connection.methods) == 2, "two commands")
        for delivery_id in range(1, 6):
            connection.receiver.delivered(delivery_id)
            await until(lambda: len(connection.methods) == min(5, delivery_id + 2), "the next")  # noqa: B023

        assert connection.methods == ["m0", "m1", "m2", "m3", "m4"]

    async def test_the_acknowledgement_of_the_device_delivers_it_and_makes_room(
        self, downlink: Downlink, device: Device
    ) -> None:
        first = await command(device, "first")
        await command(device, "second")
        connection = Connection(downlink, device, most=1)
        await until(lambda: connection.methods == ["first"], "the first")

        connection.receiver.delivered(1)

        await until(lambda: connection.methods == ["first", "second"], "the second")
        assert await state_of(first) == State.DELIVERED

    async def test_what_is_under_way_when_the_connection_ends_comes_again_with_a_mark(
        self, downlink: Downlink, device: Device
    ) -> None:
        lost = await command(device, "reboot")
        connection = Connection(downlink, device)
        await until(lambda: connection.methods, "a command")
        downlink.end(connection.receiver)
        await until_state(lost, State.QUEUED)

        again = Connection(downlink, device)
        await until(lambda: again.methods, "the command again")

        [(_, due)] = again.given
        assert isinstance(due, CommandDue)
        assert due.redelivered

    async def test_a_device_on_two_wires_gets_it_once(self, downlink: Downlink, device: Device) -> None:
        connections = [Connection(downlink, device), Connection(downlink, device)]

        for number in range(10):
            await command(device, f"m{number}")
        await until(lambda: sum(len(each.methods) for each in connections) == 10, "ten commands")

        assert sorted(len(each.methods) for each in connections) == [0, 10]

    @pytest.mark.parametrize(
        ("outcome", "state"),
        [
            (lambda receiver: receiver.sent(1), State.SENT),
            (lambda receiver: receiver.failed(1, "packet too large"), State.FAILED),
            (lambda receiver: receiver.refuse(1), State.QUEUED),
        ],
        ids=["nobody acknowledges", "the device refuses", "the connection does not take it"],
    )
    async def test_what_became_of_it_is_written_down(
        self, downlink: Downlink, device: Device, outcome: Callable[[Receiver], None], state: State
    ) -> None:
        given = await command(device, "reboot")
        connection = Connection(downlink, device)
        await until(lambda: connection.methods, "a command")
        connection.receiver.meanings.clear()

        outcome(connection.receiver)
        await downlink.close()

        assert await state_of(given) == state

    async def test_when_the_process_ends_what_is_under_way_waits_again(
        self, downlink: Downlink, device: Device
    ) -> None:
        given = await command(device, "reboot")
        connection = Connection(downlink, device)
        await until(lambda: connection.methods, "a command")

        await downlink.close()

        assert await state_of(given) == State.QUEUED

    async def test_a_message_that_was_missed_is_made_up_for_by_the_look(self, database: str, device: Device) -> None:
        deaf = Downlink(InMemoryChannelLayer(), instance_id=lambda: 1, look_interval_s=0.02)
        await deaf.start()
        try:
            connection = Connection(deaf, device)
            await command(device, "reboot")

            await until(lambda: connection.methods, "a command")
        finally:
            await deaf.close()


def test_one_connection_too_many_that_wants_to_be_told_is_refused() -> None:
    downlink = Downlink(InMemoryChannelLayer(), instance_id=lambda: None)
    receivers = [downlink.open(1, lambda *due: None) for _ in range(MAX_RECEIVERS)]

    with pytest.raises(RefusedError) as refusal:
        downlink.open(1, lambda *due: None)
    downlink.end(receivers[0])
    downlink.open(1, lambda *due: None)
    downlink.open(2, lambda *due: None)

    assert refusal.value.refusal is MessageRefusal.POLLS


class TestAttributes:
    async def test_what_was_changed_is_told_and_what_was_deleted(self, downlink: Downlink, device: Device) -> None:
        write, remove = database_sync_to_async(set_attributes), database_sync_to_async(delete_attributes)
        await write(device.pk, Scope.SHARED, {"interval": 60, "unit": "C"})
        connection = Connection(downlink, device)
        await until(lambda: connection.given, "attributes")
        connection.receiver.delivered(1)

        await remove(device.pk, Scope.SHARED, ["unit"])
        await write(device.pk, Scope.SHARED, {"interval": 30})
        await until(lambda: len(connection.attributes) >= 3, "changes")

        assert connection.attributes == [{"interval": 60, "unit": "C"}, ["unit"], {"interval": 30}]

    async def test_the_device_has_them_when_it_has_acknowledged_them(self, downlink: Downlink, device: Device) -> None:
        await database_sync_to_async(set_attributes)(device.pk, Scope.SHARED, {"interval": 60})
        connection = Connection(downlink, device)
        await until(lambda: connection.given, "attributes")
        downlink.end(connection.receiver)

        again = Connection(downlink, device)
        await until(lambda: again.given, "attributes again")
        again.receiver.delivered(1)
        await downlink.close()

        assert await database_sync_to_async(untold)([device.pk]) == {}

    async def test_what_is_under_way_is_not_told_twice(self, downlink: Downlink, device: Device) -> None:
        write = database_sync_to_async(set_attributes)
        connection = Connection(downlink, device)
        for number in range(3):
            await write(device.pk, Scope.SHARED, {f"key{number}": number})
            await until(lambda: len(connection.attributes) == number + 1, "a change")  # noqa: B023

        assert connection.attributes == [{"key0": 0}, {"key1": 1}, {"key2": 2}]

    async def test_attributes_of_other_scopes_are_nothing_for_the_device(
        self, downlink: Downlink, device: Device
    ) -> None:
        connection = Connection(downlink, device)
        for scope in (Scope.CLIENT, Scope.SERVER):
            await database_sync_to_async(set_attributes)(device.pk, scope, {"a": 1})
        await database_sync_to_async(set_attributes)(device.pk, Scope.SHARED, {"b": 1})
        await until(lambda: connection.given, "attributes")

        assert connection.attributes == [{"b": 1}]
