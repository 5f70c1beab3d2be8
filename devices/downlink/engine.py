"""Takes from the database what waits for the devices that are here, and gives it to their connections.

One task does so, for a number of devices at a time; so what waits for a device is given in order. One more looks once
a second for what nobody has told: notices, commands of processes that are dead, commands whose time is over.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NamedTuple

from django.db import transaction

from devices import commands
from devices.attributes import mark_told, untold
from devices.downlink.receivers import (
    MAX_RECEIVERS,
    MAX_UNDER_WAY,
    AttributesDue,
    CommandDue,
    Due,
    Outcomes,
    Receiver,
    encoded,
)
from devices.downlink_notices import GROUP, NoticeReader, devices_of
from devices.failures import Failures
from devices.profiles import Meaning
from devices.refusals import MessageRefusal, RefusedError
from gateway.databases.thread import DatabaseThread
from gateway.db import one_line
from gateway.layers import BaseChannelLayer, LayerEvent

LOOK_INTERVAL_S: Final = 1.0
RETRY_S: Final = 1.0
DEVICES_AT_ONCE: Final = 200
"""Of so many devices at most it is read together what waits."""
LOOKS_PER_PRUNING: Final = 60

DELIVERING: Final = "deliver what waits for devices"
LOOKING: Final = "look for what waits for devices"


class _Wanted(NamedTuple):
    """Of which devices the next look is to read what, and how much."""

    rooms: Mapping[int, int]
    """How many commands each takes."""
    attributes: frozenset[int]
    """Which take attributes."""


class _Found(NamedTuple):
    """What waits: for each device what it is to be given, in order; and of which devices there may be more, for they
    got as much as they had room for."""

    commands: Sequence[tuple[int, CommandDue]]
    attributes: Mapping[int, Sequence[AttributesDue]]
    more: frozenset[int]


class Downlink:
    """What this process gives to devices."""

    def __init__(
        self,
        layer: BaseChannelLayer,
        *,
        instance_id: Callable[[], int | None],
        look_interval_s: float = LOOK_INTERVAL_S,
    ) -> None:
        """`instance_id` is the number of this process among those that run (devices.models.GatewayInstance)."""
        self._layer = layer
        self._instance_id = instance_id
        self._look_interval_s = look_interval_s
        self._receivers: dict[int, list[Receiver]] = {}
        self._due: dict[int, None] = {}
        """The devices to look at, in order. Those that are connected here at most."""
        self.outcomes = Outcomes()
        self._work = asyncio.Event()
        self._closing = asyncio.Event()
        self._delivering = DatabaseThread("downlink")
        self._looking = DatabaseThread("downlink look")
        self._notices = NoticeReader()
        self._looks = 0
        self._failures = Failures()
        self._channel: str | None = None
        self._task: asyncio.Task[None] | None = None

    # Connections

    def open(self, device_id: int, give: Callable[[int, Due], None], *, most: int = MAX_UNDER_WAY) -> Receiver:
        """A receiver for a connection of a device; nothing comes before `take`. Raises RefusedError if it has many."""
        receivers = self._receivers.setdefault(device_id, [])
        if len(receivers) >= MAX_RECEIVERS:
            why = f"{MAX_RECEIVERS} connections of the device wait for commands or attributes already"
            raise RefusedError(MessageRefusal.POLLS, why)
        receiver = Receiver(self, device_id, give, most=most)
        receivers.append(receiver)
        return receiver

    def take(self, receiver: Receiver, meaning: Meaning) -> None:
        """The connection takes messages of this meaning from now on: the device is given what waits."""
        receiver.meanings.add(meaning)
        self.look_at(receiver.device_id)

    def end(self, receiver: Receiver) -> None:
        """The connection has ended. Does nothing the second time."""
        receivers = self._receivers.get(receiver.device_id, [])
        if receiver in receivers:
            receivers.remove(receiver)
            receiver.end()
            if receivers:
                self.look_at(receiver.device_id)  # what was under way goes by another one
            else:
                del self._receivers[receiver.device_id]

    # What receivers say

    def wake(self) -> None:
        """There are outcomes to be written."""
        self._work.set()

    def look_at(self, device_id: int) -> None:
        """There may be something that waits for the device."""
        if device_id in self._receivers:
            self._due[device_id] = None
            self._work.set()

    # Its life

    async def start(self) -> "asyncio.Task[None]":
        """Starts. Returns the task, which only `close` ends. Raises LayerUnavailableError if the layer is away."""
        self._channel = await self._layer.new_channel()
        self._layer.attach(self._channel, self._told)
        await self._layer.group_add(GROUP, self._channel)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="downlink")
        return self._task

    async def close(self) -> None:
        """Writes down what became of what was given, as far as it is known, and stops. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        assert self._channel is not None
        self._layer.detach(self._channel)
        # Not cancelled: what it has just taken from the database is to be given, or to wait again.
        self._closing.set()
        self._work.set()
        await asyncio.gather(task, return_exceptions=True)
        for receiver in [each for receivers in self._receivers.values() for each in receivers]:
            self.end(receiver)
        await self._deliver()
        await self._delivering.close()
        await self._looking.close()

    def start_over(self) -> None:
        """The database is another now, in which what was given means nothing."""
        for receivers in self._receivers.values():
            for receiver in receivers:
                receiver.end()
        self._receivers.clear()
        self._due.clear()
        self.outcomes = Outcomes()
        self._notices = NoticeReader()

    def _told(self, message: dict[str, Any]) -> bool:
        if isinstance(message, LayerEvent):
            return True
        device_ids = devices_of(message)
        for device_id in device_ids or ():
            self.look_at(device_id)
        return device_ids is not None

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver_what_waits())
            group.create_task(self._look_for_what_was_missed())

    async def _look_for_what_was_missed(self) -> None:
        while not self._closing.is_set():
            try:
                device_ids = await self._looking.call(self._look, self._failures.slow(LOOKING))
            except Exception as error:  # whatever a driver raises, or the start of a thread
                self._failures.note(LOOKING, one_line(error))
            else:
                self._failures.over(LOOKING)
                for device_id in device_ids:
                    self.look_at(device_id)
            await self._pause(self._look_interval_s)

    async def _deliver_what_waits(self) -> None:
        while not self._closing.is_set():
            await self._work.wait()
            self._work.clear()
            if not await self._deliver():
                await self._pause(RETRY_S)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _deliver(self) -> bool:
        """Writes outcomes, and gives what waits for some of the devices. Returns whether the database let it."""
        device_ids = list(islice(self._due, DEVICES_AT_ONCE))
        for device_id in device_ids:
            del self._due[device_id]
        if self._due:
            self._work.set()
        outcomes, self.outcomes = self.outcomes, Outcomes()
        wanted = self._wanted(device_ids)
        try:
            found = await self._delivering.call(
                self._exchange, self._failures.slow(DELIVERING), outcomes, wanted, self._instance_id()
            )
        except Exception as error:
            self.outcomes.add(outcomes)
            self._due = dict.fromkeys((*device_ids, *self._due))
            self._work.set()
            self._failures.note(DELIVERING, one_line(error))
            return False
        self._failures.over(DELIVERING)
        self._give(found)
        return True

    def _wanted(self, device_ids: Iterable[int]) -> _Wanted:
        rooms: dict[int, int] = {}
        attributes = set()
        for device_id in device_ids:
            receiver = self._receiver_of_commands(device_id)
            if receiver is not None and receiver.room > 0:
                rooms[device_id] = receiver.room
            if self._receiver_of_attributes(device_id) is not None:
                attributes.add(device_id)
        return _Wanted(rooms, frozenset(attributes))

    def _receiver_of_commands(self, device_id: int) -> Receiver | None:
        """The connection that has commands under way, which those that follow are to follow; else the newest that takes
        commands."""
        taking = [each for each in self._receivers.get(device_id, ()) if Meaning.COMMAND in each.meanings]
        return next((each for each in taking if each.is_busy), taking[-1] if taking else None)

    def _receiver_of_attributes(self, device_id: int) -> Receiver | None:
        taking = [each for each in self._receivers.get(device_id, ()) if Meaning.SHARED_ATTRIBUTES in each.meanings]
        return taking[-1] if taking else None

    def _give(self, found: _Found) -> None:
        for device_id, command in found.commands:
            receiver = self._receiver_of_commands(device_id)
            if receiver is not None and receiver.room > 0:
                receiver.give(command)
            else:  # it has gone meanwhile
                self.outcomes.returned.add(command.command_id)
                self._work.set()
        for device_id, changes in found.attributes.items():
            receiver = self._receiver_of_attributes(device_id)
            for change in changes if receiver is not None else ():
                assert receiver is not None
                keys = receiver.without_those_under_way(change.versions)
                if keys:
                    receiver.give(_only(change, keys))
        for device_id in found.more:
            self.look_at(device_id)

    # In a thread

    def _look(self) -> set[int]:
        """Ends commands whose time is over, has those wait again that a dead process has sent, and returns the devices
        for which something waits that was not there at the last look."""
        commands.expire_due()
        self._looks += 1
        if self._looks % LOOKS_PER_PRUNING == 0:
            self._notices.prune()
        commands.return_those_of_the_dead()
        return self._notices.read()

    def _exchange(self, outcomes: Outcomes, wanted: _Wanted, instance_id: int | None) -> _Found:
        if outcomes:
            with transaction.atomic():
                commands.record_deliveries(
                    delivered=outcomes.delivered,
                    unacknowledged=outcomes.unacknowledged,
                    returned=outcomes.returned,
                    failed=outcomes.failed,
                )
                mark_told(outcomes.told)
        taken = commands.take_queued(wanted.rooms, instance_id) if wanted.rooms else []
        counts = Counter(command.device_id for command in taken)
        is_cut = len(taken) >= commands.MOST_TAKEN
        more = frozenset(device_id for device_id, room in wanted.rooms.items() if is_cut or counts[device_id] == room)
        due = [
            (
                command.device_id,
                CommandDue(command.pk, command.method, encoded(command.params_json), redelivered=command.attempts > 0),
            )
            for command in taken
        ]
        changes = untold(wanted.attributes) if wanted.attributes else {}
        return _Found(due, {device_id: _changes(rows) for device_id, rows in changes.items()}, more)


def _changes(rows: Iterable[tuple[str, str | None, int]]) -> list[AttributesDue]:
    """What a device is to be told: that attributes are there no more, and values."""
    values = {key: (text, version) for key, text, version in rows if text is not None}
    deleted = {key: version for key, text, version in rows if text is None}
    changes = [AttributesDue(deleted)] if deleted else []
    if values:
        changes.append(
            AttributesDue(
                {key: version for key, (_, version) in values.items()},
                {key: encoded(text) for key, (text, _) in values.items()},
            )
        )
    return changes


def _only(change: AttributesDue, keys: set[str]) -> AttributesDue:
    return AttributesDue(
        {key: version for key, version in change.versions.items() if key in keys},
        {key: value for key, value in change.values.items() if key in keys},
    )
