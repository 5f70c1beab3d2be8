"""A connection of a device as the way down sees it: what it takes, and what is under way on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from devices.profiles import Meaning, Profile, Topic, fill

TOLD: Final = frozenset({Meaning.COMMAND, Meaning.SHARED_ATTRIBUTES})
"""What waits for a device until it is there to be told."""

MAX_RECEIVERS: Final = 32
"""Connections and requests of one device at a time that take what it is told."""
MAX_UNDER_WAY: Final = 20
"""How many commands may be unacknowledged on a connection; the next ones wait in the database."""


@dataclass(frozen=True, slots=True)
class CommandDue:
    """A command that its device is to be given now."""

    command_id: int
    method: str
    params: Any
    """Any JSON value, encoded."""
    redelivered: bool
    """Whether it was sent before, and perhaps reached the device."""


@dataclass(frozen=True, slots=True)
class AttributesDue:
    """Shared attributes that have changed, or are there no more, of which the device is to be told."""

    versions: Mapping[str, int]
    """Of each, by key."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """JSON values, encoded; empty where attributes were deleted."""


Due: TypeAlias = CommandDue | AttributesDue


@dataclass(slots=True)
class Outcomes:
    """What is to be written down of commands and attributes that were given to devices."""

    delivered: set[int] = field(default_factory=set)
    """Commands that their device has acknowledged."""
    unacknowledged: set[int] = field(default_factory=set)
    """Those sent where nobody acknowledges: they are not sent again."""
    returned: set[int] = field(default_factory=set)
    """Those whose connection has ended before."""
    failed: dict[int, str] = field(default_factory=dict)
    """Those that the device has refused, or cannot be sent, with why."""
    told: dict[tuple[int, str], int] = field(default_factory=dict)
    """The versions of attributes that devices have, by device and key."""

    def __bool__(self) -> bool:
        return any((self.delivered, self.unacknowledged, self.returned, self.failed, self.told))

    def add(self, earlier: "Outcomes") -> None:
        """Takes back those that could not be written."""
        self.delivered |= earlier.delivered
        self.unacknowledged |= earlier.unacknowledged
        self.returned |= earlier.returned
        self.failed = {**earlier.failed, **self.failed}
        self.told = {**earlier.told, **self.told}


class Desk(Protocol):
    """Where receivers say what became of what they were given: the Downlink."""

    outcomes: Outcomes

    def wake(self) -> None:
        """There are outcomes to be written."""

    def look_at(self, device_id: int) -> None:
        """There may be something that waits for the device, and there is room for it."""


class Receiver:
    """A connection that takes what its device is to be told, each with a number by which it says what became of it."""

    __slots__ = ("_desk", "_give", "_last_id", "_under_way", "device_id", "meanings", "most")

    def __init__(self, desk: Desk, device_id: int, give: Callable[[int, Due], None], *, most: int) -> None:
        """`give(delivery_id, due)` is called with each; it must not wait. `most` commands are under way at a time."""
        self.device_id = device_id
        self.meanings: set[Meaning] = set()
        """Which messages to the device it takes."""
        self.most = most
        self._desk = desk
        self._give = give
        self._last_id = 0
        self._under_way: dict[int, Due] = {}

    @property
    def room(self) -> int:
        """How many commands it takes now."""
        return self.most - self._commands_under_way if Meaning.COMMAND in self.meanings else 0

    @property
    def is_busy(self) -> bool:
        """Whether commands are under way: those that follow are to follow them."""
        return self._commands_under_way > 0

    @property
    def _commands_under_way(self) -> int:
        return sum(type(due) is CommandDue for due in self._under_way.values())

    def give(self, due: Due) -> None:
        """Gives it to the connection."""
        self._last_id += 1
        self._under_way[self._last_id] = due
        self._give(self._last_id, due)

    def without_those_under_way(self, versions: Mapping[str, int]) -> set[str]:
        """The keys of `versions` of which that version is not under way."""
        under_way = [due.versions for due in self._under_way.values() if isinstance(due, AttributesDue)]
        return {key for key, version in versions.items() if all(each.get(key) != version for each in under_way)}

    # What became of it

    def delivered(self, delivery_id: int) -> None:
        """The device has acknowledged it."""
        due = self._take_out(delivery_id)
        if isinstance(due, CommandDue):
            self._desk.outcomes.delivered.add(due.command_id)
        elif due is not None:
            self._desk.outcomes.told.update({(self.device_id, key): version for key, version in due.versions.items()})

    def sent(self, delivery_id: int) -> None:
        """It was sent, and nobody is going to acknowledge it: a command is not sent again, attributes are known."""
        if isinstance(self._under_way.get(delivery_id), AttributesDue):
            self.delivered(delivery_id)
        else:
            self._note(self._desk.outcomes.unacknowledged, self._take_out(delivery_id))

    def refuse(self, delivery_id: int) -> None:
        """The connection does not take it any more: it waits for another one."""
        self._note(self._desk.outcomes.returned, self._take_out(delivery_id))

    def failed(self, delivery_id: int, why: str) -> None:
        """The device has refused it, or cannot be sent it. Attributes are told once more when it is back."""
        due = self._take_out(delivery_id)
        if isinstance(due, CommandDue):
            self._desk.outcomes.failed[due.command_id] = why

    def end(self) -> None:
        """The connection has ended: commands that are under way wait again."""
        self.meanings.clear()
        for delivery_id in list(self._under_way):
            self.refuse(delivery_id)

    def _take_out(self, delivery_id: int) -> Due | None:
        was_full = self.room == 0
        due = self._under_way.pop(delivery_id, None)
        if was_full:
            self._desk.look_at(self.device_id)
        self._desk.wake()
        return due

    @staticmethod
    def _note(commands: set[int], due: Due | None) -> None:
        if isinstance(due, CommandDue):
            commands.add(due.command_id)


def encode_due(profile: Profile, row: Topic, due: Due) -> tuple[str, bytes]:
    """The topic and the payload by which a device is told, on the topic of this row of its profile."""
    if isinstance(due, CommandDue):
        topic = fill(row.pattern, {"id": str(due.command_id)})
        return topic, profile.encode_command(due.method, due.params, redelivered=due.redelivered)
    return row.pattern, encode_response(profile, due)


def encode_response(profile: Profile, due: Due) -> bytes:
    """The same where no topic says what it is: the body of a response."""
    if isinstance(due, CommandDue):
        return profile.encode_command(due.method, due.params, due.command_id, redelivered=due.redelivered)
    return (
        profile.encode_attributes(due.values) if due.values else profile.encode_deleted_attributes(list(due.versions))
    )


def encoded(json: str) -> Any:
    """A JSON text from the database, to be put into a message as it is."""
    return msgspec.Raw(json.encode())
