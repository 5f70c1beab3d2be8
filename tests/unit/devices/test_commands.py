"""Commands to devices: which state may follow which, by compare-and-set; bounds; who waits for an answer."""

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections

from devices import commands
from devices.commands import (
    FORGOTTEN_AT_ONCE,
    KEPT_FINISHED,
    TRANSITIONS,
    FinishedCommandError,
    InvalidCommandError,
    OtherCommandError,
    State,
    TooManyCommandsError,
    UnknownCommandError,
    answer,
    cancel,
    create,
    create_for_all,
    expire_due,
    record_deliveries,
    return_those_of_the_dead,
    send,
    take_queued,
    transition,
)
from devices.device_lock import UnknownDeviceError
from devices.json_text import NoJsonError
from devices.limits import DeviceOptions
from devices.models import HEARTBEAT_TIMEOUT_MS, Command, Device, DownlinkNotice, GatewayInstance, now_ms
from gateway.db import database_sync_to_async
from tests.unit.devices.conftest import MakeStoredDevice

GATEWAY = 77

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def device(database: str, new_device: MakeStoredDevice) -> Device:
    return new_device("thermo-1")


def only(command: Command) -> Any:
    return Command.objects.filter(pk=command.pk)


def now_in(command: Command, state: State, **facts: Any) -> Command:
    """As if it had come into the state in some way."""
    only(command).update(state=state, **facts)
    command.refresh_from_db()
    return command


def taken(command: Command) -> bool:
    """Whether it could be taken, by a gateway process."""
    return command in take_queued({command.device_id: 1}, GATEWAY)


def state_of(command: Command) -> str:
    command.refresh_from_db()
    return command.state


FINAL = [state for state, following in TRANSITIONS.items() if not following]


class TestStates:
    @pytest.mark.parametrize(("state", "to"), list(itertools.product(State, State)))
    def test_a_state_is_followed_by_those_of_the_table_and_no_others(
        self, device: Device, state: State, to: State
    ) -> None:
        finished = {"finished_at_ms": 1} if state in FINAL else {}
        command = now_in(create(device, "m"), state, **finished)

        moved = transition(only(command), to)

        assert moved == (to in TRANSITIONS[state])
        assert state_of(command) == (to if moved else state)
        assert (command.finished_at_ms is not None) == (command.state in FINAL)

    def test_every_state_is_in_the_table_and_can_be_reached(self) -> None:
        assert set(TRANSITIONS) == set(State)
        assert {to for following in TRANSITIONS.values() for to in following} == set(State)

    def test_one_that_is_one_way_is_finished_when_it_is_delivered(self, device: Device) -> None:
        command = create(device, "m", one_way=True)
        assert taken(command)

        assert transition(only(command), State.DELIVERED)

        assert state_of(command) == State.DELIVERED
        assert command.delivered_at_ms is not None
        assert command.finished_at_ms is not None
        assert command.finished_at_ms >= command.delivered_at_ms  # SQLite is given the time of each column by itself
        for to in State:
            assert not transition(only(command), to)

    def test_each_state_is_written_with_its_time(self, device: Device) -> None:
        command = create(device, "m")
        assert taken(command)
        assert transition(only(command), State.DELIVERED)
        answer(device.pk, command.pk, {"ok": True})

        command.refresh_from_db()
        times = [command.created_at_ms, command.sent_at_ms, command.delivered_at_ms, command.finished_at_ms]
        assert times == sorted(time for time in times if time is not None)
        assert (command.state, command.answer_json, command.attempts) == (State.ANSWERED, '{"ok":true}', 1)

    def test_one_of_many_who_take_a_command_at_once_has_it(self, device: Device) -> None:
        command = create(device, "m")

        def take_it(_: int) -> bool:
            try:
                return taken(command)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(take_it, range(8))) == 1

        command.refresh_from_db()
        assert command.attempts == 1

    def test_one_that_is_queued_again_and_taken_again_has_two_attempts(self, device: Device) -> None:
        command = create(device, "m")
        assert taken(command)
        assert transition(only(command), State.QUEUED)
        assert taken(command)

        command.refresh_from_db()
        assert command.attempts == 2

    def test_one_whose_time_is_over_is_not_taken_and_expires(self, device: Device) -> None:
        other = create(device, "m")
        command = now_in(create(device, "m"), State.QUEUED, expires_at_ms=1)

        assert take_queued({device.pk: 10}, GATEWAY) == [other]
        assert expire_due() == 1

        assert state_of(command) == State.EXPIRED
        assert state_of(other) == State.SENT

    def test_a_device_is_given_its_oldest_commands_as_many_as_it_takes(
        self, device: Device, new_device: MakeStoredDevice
    ) -> None:
        other = new_device("thermo-2")
        first, of_other, second, third = (create(each, "m") for each in (device, other, device, device))

        taken_first = take_queued({device.pk: 2, other.pk: 2}, GATEWAY)

        assert taken_first == [first, of_other, second]
        assert take_queued({device.pk: 2, other.pk: 2}, GATEWAY) == [third]

    def test_what_a_dead_gateway_has_sent_waits_again_and_what_nobody_acknowledges_does_not(
        self, device: Device
    ) -> None:
        living = GatewayInstance.objects.create(heartbeat_ms=now_ms())
        dead = GatewayInstance.objects.create(heartbeat_ms=now_ms() - HEARTBEAT_TIMEOUT_MS - 1_000)
        of_gone, of_dead, of_living, of_nobody = (create(device, "m") for _ in range(4))
        for command, gateway in ((of_gone, 999), (of_dead, dead.pk), (of_living, living.pk), (of_nobody, dead.pk)):
            now_in(command, State.SENT, sent_by_id=gateway)
        record_deliveries(unacknowledged=[of_nobody.pk])

        DownlinkNotice.objects.all().delete()

        return_those_of_the_dead()

        assert [notice.device_id for notice in DownlinkNotice.objects.all()] == [device.pk]
        assert [state_of(each) for each in (of_gone, of_dead)] == [State.QUEUED] * 2
        assert [state_of(each) for each in (of_living, of_nobody)] == [State.SENT] * 2

    def test_one_that_follows_what_another_gateway_has_under_way_waits_for_that(self, device: Device) -> None:
        under_way, following = create(device, "m"), create(device, "m")
        now_in(under_way, State.SENT, sent_by_id=GATEWAY + 1)

        assert take_queued({device.pk: 2}, GATEWAY) == []
        record_deliveries(returned=[under_way.pk])

        assert take_queued({device.pk: 2}, GATEWAY) == [under_way, following]

    def test_what_became_of_commands_is_written_together(self, device: Device) -> None:
        delivered, returned, failed = (create(device, "m") for _ in range(3))
        take_queued({device.pk: 3}, GATEWAY)

        record_deliveries(delivered=[delivered.pk], returned=[returned.pk], failed={failed.pk: "too large"})

        assert [state_of(each) for each in (delivered, returned, failed)] == [
            State.DELIVERED,
            State.QUEUED,
            State.FAILED,
        ]
        assert failed.error == "too large"

    def test_one_that_was_answered_before_its_connection_ended_does_not_come_again(self, device: Device) -> None:
        command = create(device, "m")
        assert taken(command)
        answer(device.pk, command.pk, 1)

        record_deliveries(returned=[command.pk])

        assert state_of(command) == State.ANSWERED


class TestCreating:
    def test_a_command_is_queued_with_all_that_was_said(self, device: Device) -> None:
        command = create(device, "reboot", {"delay_s": 5}, expires_s=60, by="anna")

        assert (command.state, command.method, command.params_json) == (State.QUEUED, "reboot", '{"delay_s":5}')
        assert command.expires_at_ms - command.created_at_ms == 60_000
        assert command.created_by == "anna"

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"method": ""}, InvalidCommandError),
            ({"method": "m" * 256}, InvalidCommandError),
            ({"method": "a\0b"}, InvalidCommandError),
            ({"params": "x" * 65_535}, InvalidCommandError),
            ({"params": object()}, NoJsonError),
            ({"expires_s": 0}, InvalidCommandError),
            ({"expires_s": float("nan")}, InvalidCommandError),
            ({"expires_s": 31 * 86_400}, InvalidCommandError),
            ({"idempotency_key": ""}, InvalidCommandError),
            ({"idempotency_key": "k" * 101}, InvalidCommandError),
        ],
    )
    def test_one_that_no_device_could_be_sent_is_refused(
        self, device: Device, arguments: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            create(device, **{"method": "m", **arguments})

        assert not Command.objects.exists()

    def test_an_unknown_device_is_sent_none(self, device: Device) -> None:
        with pytest.raises(UnknownDeviceError):
            create(Device(pk=device.pk + 1), "m")

    def test_the_same_idempotency_key_is_the_same_command(self, device: Device, new_device: MakeStoredDevice) -> None:
        first = create(device, "m", [1], idempotency_key="key")

        assert create(device, "m", [1], idempotency_key="key") == first
        assert create(new_device("thermo-2"), "m", [1], idempotency_key="key") != first
        assert create(device, "m", [1]) != first

    @pytest.mark.parametrize("other", [{"method": "n"}, {"params": [2]}, {"one_way": True}], ids=str)
    def test_an_idempotency_key_with_another_command_is_refused(self, device: Device, other: dict[str, Any]) -> None:
        create(device, "m", [1], idempotency_key="key")

        with pytest.raises(OtherCommandError):
            create(device, **{"method": "m", "params": [1], "idempotency_key": "key", **other})

    def test_one_too_many_is_refused_until_another_is_finished(
        self, device: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("devices.commands.configured", lambda: DeviceOptions(max_commands_per_device=2))
        first, _ = create(device, "m"), create(device, "m")

        with pytest.raises(TooManyCommandsError):
            create(device, "m")

        cancel(first.uuid)
        assert create(device, "m").state == State.QUEUED

    def test_those_whose_time_is_over_take_no_room(self, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("devices.commands.configured", lambda: DeviceOptions(max_commands_per_device=1))
        now_in(create(device, "m"), State.QUEUED, expires_at_ms=1)

        assert create(device, "m").state == State.QUEUED

    def test_many_devices_are_commanded_together_or_none(
        self, device: Device, new_device: MakeStoredDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("devices.commands.configured", lambda: DeviceOptions(max_commands_per_device=2))
        other = new_device("thermo-2")

        made = create_for_all([other, device], "reboot", {"delay": 1}, idempotency_key="one")
        again = create_for_all([device, other], "reboot", {"delay": 1}, idempotency_key="one")
        create(other, "m")
        with pytest.raises(TooManyCommandsError):
            create_for_all([device, other], "m")

        assert [command.device_id for command in made] == [other.pk, device.pk]
        assert again == made[::-1]
        assert Command.objects.filter(device=device).count() == 1
        assert {notice.device_id for notice in DownlinkNotice.objects.all()} == {device.pk, other.pk}

    def test_the_newest_finished_commands_are_kept(self, device: Device) -> None:
        for _ in range(KEPT_FINISHED + FORGOTTEN_AT_ONCE):
            last = create(device, "m")
            cancel(last.uuid)

        waiting = create(device, "m")

        kept = list(Command.objects.order_by("-pk")[:2])
        assert kept == [waiting, last]
        assert Command.objects.count() == KEPT_FINISHED + 1

    def test_commands_go_with_their_device(self, device: Device) -> None:
        create(device, "m")

        device.delete()

        assert not Command.objects.exists()


class TestAnswers:
    @pytest.mark.parametrize("state", [State.SENT, State.DELIVERED])
    def test_an_answer_finishes_a_command_that_was_sent(self, device: Device, state: State) -> None:
        command = now_in(create(device, "m"), state)

        answer(device.pk, command.pk, [None, "ü"])

        assert state_of(command) == State.ANSWERED
        assert command.answer_json == '[null,"ü"]'

    def test_a_second_answer_is_refused_and_the_first_stays(self, device: Device) -> None:
        command = now_in(create(device, "m"), State.DELIVERED)
        answer(device.pk, command.pk, 1)

        with pytest.raises(FinishedCommandError, match="answered already"):
            answer(device.pk, command.pk, 2)

        command.refresh_from_db()
        assert command.answer_json == "1"

    def test_an_answer_that_comes_too_late_is_refused(self, device: Device) -> None:
        command = now_in(create(device, "m"), State.DELIVERED, expires_at_ms=1)

        with pytest.raises(FinishedCommandError, match="expired already"):
            answer(device.pk, command.pk, 1)

    def test_an_answer_to_no_command_or_to_that_of_another_device_is_refused(
        self, device: Device, new_device: MakeStoredDevice
    ) -> None:
        command = now_in(create(device, "m"), State.DELIVERED)

        for device_id, command_id in ((device.pk, command.pk + 1), (new_device("thermo-2").pk, command.pk)):
            with pytest.raises(UnknownCommandError):
                answer(device_id, command_id, 1)

        assert state_of(command) == State.DELIVERED

    def test_an_answer_that_is_too_long_is_refused(self, device: Device) -> None:
        command = now_in(create(device, "m"), State.DELIVERED)

        with pytest.raises(InvalidCommandError):
            answer(device.pk, command.pk, "x" * 65_535)


class TestCancelling:
    def test_a_command_is_cancelled_and_says_by_whom(self, device: Device) -> None:
        command = create(device, "m")

        cancel(command.uuid, by="anna")

        assert state_of(command) == State.CANCELLED
        assert command.error == "cancelled by anna"

    def test_one_that_is_finished_cannot_be(self, device: Device) -> None:
        command = create(device, "m")
        cancel(command.uuid)

        with pytest.raises(FinishedCommandError):
            cancel(command.uuid)

    def test_one_that_is_not_there_cannot_be(self) -> None:
        with pytest.raises(UnknownCommandError):
            cancel(uuid4())


class TestWaiting:
    async def _waiting(self, device: Device, meanwhile: Callable[[Command], object]) -> Command:
        """Sends a command, and does something once there is one."""
        sending = asyncio.create_task(send(device, "m", wait_s=30))
        while (found := await database_sync_to_async(Command.objects.first)()) is None:
            await asyncio.sleep(0.01)
        await database_sync_to_async(meanwhile)(found)
        return await sending

    async def test_who_waits_gets_the_answer(self, device: Device) -> None:
        def answer_it(command: Command) -> None:
            taken(command)
            answer(device.pk, command.pk, 42)

        command = await self._waiting(device, answer_it)

        assert (command.state, command.answer_json) == (State.ANSWERED, "42")

    async def test_who_waits_learns_that_it_was_cancelled(self, device: Device) -> None:
        command = await self._waiting(device, lambda command: cancel(command.uuid))

        assert command.state == State.CANCELLED

    async def test_who_waits_learns_that_the_device_was_deleted(self, device: Device) -> None:
        with pytest.raises(UnknownDeviceError):
            await self._waiting(device, lambda _: device.delete())

    async def test_who_waits_too_short_gets_the_command_as_it_is(self, device: Device) -> None:
        command = await send(device, "m", wait_s=0.001)

        assert command.state == State.QUEUED

    async def test_who_does_not_wait_has_the_command_at_once(self, device: Device) -> None:
        assert (await commands.send(device, "m")).state == State.QUEUED
