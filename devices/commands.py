"""Commands to devices: what was asked of a device, and what became of it (devices.models.Command).

A row in the database is the truth. It changes its state by `transition` and nothing else, in one statement that says
which states it may come from: of two who would change it at once, one does. So a state survives every restart, and
whoever sends a command may go away and ask later.

A command is delivered when the device itself has acknowledged it. One that is one-way is finished then, any other by
its answer; or by its time being over, by the device refusing it, or by a person.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import Case, Count, Exists, F, OuterRef, Q, QuerySet, When

from devices import json_text, metrics
from devices.device_lock import UnknownDeviceError, lock_devices
from devices.downlink_notices import note
from devices.limits import configured
from devices.models import HEARTBEAT_TIMEOUT_MS, Command, DatabaseNow, Device, GatewayInstance
from gateway.db import database_sync_to_async
from gateway.exceptions import GatewayError

State = Command.State

MAX_METHOD_LENGTH: Final = 255
MAX_IDEMPOTENCY_KEY_LENGTH: Final = 100
MAX_PARAMS_BYTES: Final = 65_536
MAX_ANSWER_BYTES: Final = 65_536
DEFAULT_EXPIRES_S: Final = 86_400.0
MAX_EXPIRES_S: Final = 30 * 86_400.0
MOST_TAKEN: Final = 2_000
"""How many commands are taken together at most."""
KEPT_FINISHED: Final = 100
"""Finished commands of a device that are kept, and FORGOTTEN_AT_ONCE - 1 more: the oldest go when a new command comes,
so many at a time."""
FORGOTTEN_AT_ONCE: Final = 25
FIRST_LOOK_S: Final = 0.02
LAST_LOOK_S: Final = 0.5
"""How long whoever waits for an answer leaves between two looks, at first and at last."""

TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.QUEUED: frozenset({State.SENT, State.EXPIRED, State.FAILED, State.CANCELLED}),
    # Queued again when the connection ends before the acknowledgement; an answer may overtake the acknowledgement.
    State.SENT: frozenset(
        {State.QUEUED, State.DELIVERED, State.ANSWERED, State.EXPIRED, State.FAILED, State.CANCELLED}
    ),
    State.DELIVERED: frozenset({State.ANSWERED, State.EXPIRED, State.FAILED, State.CANCELLED}),
    State.ANSWERED: frozenset(),
    State.EXPIRED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
"""The states that a command may have next. DELIVERED is the last one of a command that is one-way."""

_BEFORE: Final = {to: [state for state, following in TRANSITIONS.items() if to in following] for to in State}
_FINISHED: Final = {"finished_at_ms": DatabaseNow()}
_FACTS: Final[Mapping[State, Mapping[str, Any]]] = {
    State.QUEUED: {"sent_by": None},
    State.SENT: {"sent_at_ms": DatabaseNow(), "attempts": F("attempts") + 1},
    State.DELIVERED: {
        "delivered_at_ms": DatabaseNow(),
        "finished_at_ms": Case(When(one_way=True, then=DatabaseNow()), default=None),
    },
    State.ANSWERED: _FINISHED,
    State.EXPIRED: _FINISHED,
    State.FAILED: _FINISHED,
    State.CANCELLED: _FINISHED,
}
"""What else is written with a state."""


class CommandsError(GatewayError):
    """Raised when a command is not taken, or is not what its caller thinks."""


class InvalidCommandError(CommandsError):
    """Raised for a command that no device could be sent."""


class TooManyCommandsError(CommandsError):
    """Raised when as many commands to a device are not finished as may be."""

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} commands to the device are not finished, as many as max_commands_per_device allows")


class OtherCommandError(CommandsError):
    """Raised for an idempotency key that came with another command to the device."""

    def __init__(self, uuid: UUID) -> None:
        super().__init__(f"the idempotency key is that of another command: {uuid}")


class UnknownCommandError(CommandsError):
    """Raised when there is no such command, or not any more."""

    def __init__(self, which: object) -> None:
        super().__init__(f"there is no command {which}")


class FinishedCommandError(CommandsError):
    """Raised when a command takes no answer any more, or cannot be cancelled."""

    def __init__(self, command: Command) -> None:
        super().__init__(f"the command is {command.state} already")


async def send(
    device: Device,
    method: str,
    params: Any = None,
    *,
    one_way: bool = False,
    expires_s: float = DEFAULT_EXPIRES_S,
    idempotency_key: str | None = None,
    wait_s: float | None = None,
    by: str = "",
) -> Command:
    """Commands `device` to do something, at once if it is connected, else when it is; `params` is any JSON value.

    Returns the command as it is after `wait_s` or when it is finished before that; at once without `wait_s`. The same
    `idempotency_key` and command again return the command that there is. `by` is recorded as who has sent it.

    Raises CommandsError, NoJsonError, or UnknownDeviceError, also if the device is deleted meanwhile.
    """
    command = await database_sync_to_async(create)(
        device, method, params, one_way=one_way, expires_s=expires_s, idempotency_key=idempotency_key, by=by
    )
    return command if wait_s is None else await wait(command, wait_s)


async def wait(command: Command, wait_s: float) -> Command:
    """The command when it is finished, or as it is after `wait_s`. Raises UnknownDeviceError if it is deleted."""
    loop = asyncio.get_running_loop()
    until, pause_s = loop.time() + wait_s, FIRST_LOOK_S
    while command.finished_at_ms is None and (left_s := until - loop.time()) > 0:
        await asyncio.sleep(min(left_s, pause_s))
        pause_s = min(2 * pause_s, LAST_LOOK_S)
        found = await database_sync_to_async(Command.objects.filter(pk=command.pk).first)()
        if found is None:
            raise UnknownDeviceError
        command = found
    return command


def create(
    device: Device,
    method: str,
    params: Any = None,
    *,
    one_way: bool = False,
    expires_s: float = DEFAULT_EXPIRES_S,
    idempotency_key: str | None = None,
    by: str = "",
) -> Command:
    """As `send`, without waiting for anything but the database."""
    [command] = create_for_all(
        [device], method, params, one_way=one_way, expires_s=expires_s, idempotency_key=idempotency_key, by=by
    )
    return command


def create_for_all(
    devices: Collection[Device],
    method: str,
    params: Any = None,
    *,
    one_way: bool = False,
    expires_s: float = DEFAULT_EXPIRES_S,
    idempotency_key: str | None = None,
    by: str = "",
) -> list[Command]:
    """Commands each of `devices` to do the same, in one transaction: all of them, or none. Otherwise as `create`."""
    params_json = json_text.encode(params)
    _validate(method, params_json, expires_s, idempotency_key)
    device_ids = [device.pk for device in devices]
    with transaction.atomic():
        lock_devices(device_ids)
        before = {}
        if idempotency_key is not None:
            same = Command.objects.filter(device__in=device_ids, idempotency_key=idempotency_key)
            before = {command.device_id: command for command in same}
            for command in before.values():
                if (command.method, command.params_json, command.one_way) != (method, params_json, one_way):
                    raise OtherCommandError(command.uuid)
        new = [device_id for device_id in device_ids if device_id not in before]
        _require_room(new)
        made = Command.objects.bulk_create(
            Command(
                device_id=device_id,
                method=method,
                params_json=params_json,
                one_way=one_way,
                idempotency_key=idempotency_key,
                created_by=by,
                created_at_ms=DatabaseNow(),
                expires_at_ms=DatabaseNow() + round(expires_s * 1000),
            )
            for device_id in new
        )
        note(*new)
        # The times are the database's.
        now = {each.device_id: each for each in Command.objects.filter(pk__in=[command.pk for command in made])}
    metrics.commands.labels(State.QUEUED).inc(len(made))
    return [before.get(device_id) or now[device_id] for device_id in device_ids]


def transition(commands: "QuerySet[Command]", to: State, **facts: Any) -> int:
    """Brings those of `commands` into a state that may come into it, and returns how many; `facts` are written with
    it."""
    movable = commands.filter(state__in=_BEFORE[to], finished_at_ms=None)
    moved = movable.update(state=to, **_FACTS[to], **facts)
    metrics.commands.labels(to).inc(moved)
    return moved


def take_queued(rooms: Mapping[int, int], sent_by: int | None) -> list[Command]:
    """The commands that the caller, a gateway process, is to give now to devices, in order: they are SENT then, and no
    other has them. `rooms` are the devices with how many each takes. MOST_TAKEN of them means that there may be more.

    None is taken while another process has one under way that was sent before it: it is to follow it. The commands have
    the `attempts` of before.
    """
    before = Command.objects.filter(
        device=OuterRef("device"), pk__lt=OuterRef("pk"), state=State.SENT, finished_at_ms=None, sent_by__isnull=False
    )
    due = Command.objects.filter(
        ~Exists(before.exclude(sent_by=sent_by)),
        device__in=rooms,
        state=State.QUEUED,
        finished_at_ms=None,
        expires_at_ms__gt=DatabaseNow(),
    ).order_by("pk")
    left = dict(rooms)
    chosen = []
    for pk, device_id in due.values_list("pk", "device")[:MOST_TAKEN]:
        if left[device_id] > 0:
            left[device_id] -= 1
            chosen.append(pk)
    if not chosen:
        return []
    with transaction.atomic():
        taken = list(due.filter(pk__in=chosen).select_for_update(skip_locked=True, of=("self",)))
        transition(Command.objects.filter(pk__in=[command.pk for command in taken]), State.SENT, sent_by=sent_by)
    return taken


def record_deliveries(
    *,
    delivered: Collection[int] = (),
    unacknowledged: Collection[int] = (),
    returned: Collection[int] = (),
    failed: Mapping[int, str] | None = None,
) -> None:
    """Writes what became of commands that were SENT, by their numbers: `delivered` have the acknowledgement of their
    device; for `unacknowledged` nobody is going to give one, and they are not sent again; `returned` wait once more;
    `failed` have been refused, with why."""
    transition(Command.objects.filter(pk__in=delivered), State.DELIVERED)
    Command.objects.filter(pk__in=unacknowledged, state=State.SENT).update(sent_by=None)
    _let_wait_again(Command.objects.filter(pk__in=returned))
    for command_id, why in (failed or {}).items():
        transition(Command.objects.filter(pk=command_id), State.FAILED, error=why[:200])


def return_those_of_the_dead() -> None:
    """Has commands wait once more that a process has sent which is dead, and that no device has acknowledged."""
    living = GatewayInstance.objects.filter(
        pk=OuterRef("sent_by"), heartbeat_ms__gte=DatabaseNow() - HEARTBEAT_TIMEOUT_MS
    )
    _let_wait_again(Command.objects.filter(~Exists(living), sent_by__isnull=False))


def _let_wait_again(commands: "QuerySet[Command]") -> None:
    """Queues those of `commands` that are SENT; every process is told, as the device may be at another one now."""
    sent = commands.filter(state=State.SENT, finished_at_ms=None)
    found = dict(sent.values_list("pk", "device"))
    if found:
        with transaction.atomic():
            transition(sent.filter(pk__in=found), State.QUEUED)
            note(*set(found.values()))


def answer(device_id: int, command_id: int, value: Any) -> None:
    """Records the answer of a device to a command; the same one again is taken once. Raises UnknownCommandError,
    FinishedCommandError or NoJsonError; InvalidCommandError for an answer that is too long."""
    text = json_text.encode(value)
    if len(text.encode()) > MAX_ANSWER_BYTES:
        raise InvalidCommandError(f"an answer has at most {MAX_ANSWER_BYTES} bytes")
    expire_due()
    command = Command.objects.filter(pk=command_id, device=device_id)
    if not transition(command, State.ANSWERED, answer_json=text) and not command.filter(answer_json=text).exists():
        raise _not_movable(command, command_id)


def cancel(uuid: UUID, *, by: str = "") -> None:
    """Cancels a command: a device that has it already is not told. Raises UnknownCommandError or
    FinishedCommandError."""
    command = Command.objects.filter(uuid=uuid)
    if not transition(command, State.CANCELLED, error=f"cancelled by {by}"[:200] if by else ""):
        raise _not_movable(command, uuid)


def expire_due() -> int:
    """Ends the commands whose time is over, and returns how many."""
    return transition(Command.objects.filter(expires_at_ms__lte=DatabaseNow()), State.EXPIRED)


def _not_movable(commands: "QuerySet[Command]", which: object) -> CommandsError:
    command = commands.first()
    return UnknownCommandError(which) if command is None else FinishedCommandError(command)


def _validate(method: str, params_json: str, expires_s: float, idempotency_key: str | None) -> None:
    if not method or len(method) > MAX_METHOD_LENGTH or "\0" in method:
        raise InvalidCommandError(f"a method has 1 to {MAX_METHOD_LENGTH} characters, none of them NUL")
    if len(params_json.encode()) > MAX_PARAMS_BYTES:
        raise InvalidCommandError(f"the parameters of a command have at most {MAX_PARAMS_BYTES} bytes")
    if not 0 < expires_s <= MAX_EXPIRES_S:
        raise InvalidCommandError(f"a command expires after 0 to {MAX_EXPIRES_S:.0f} s, not after {expires_s}")
    if idempotency_key is not None and not 0 < len(idempotency_key) <= MAX_IDEMPOTENCY_KEY_LENGTH:
        raise InvalidCommandError(f"an idempotency key has 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} characters")


def _require_room(device_ids: Collection[int]) -> None:
    """Forgets the oldest finished commands of devices that have many. Raises TooManyCommandsError."""
    most = configured().max_commands_per_device
    counts = _counts(device_ids)
    if any(unfinished >= most for _, unfinished, _ in counts) and expire_due():
        counts = _counts(device_ids)
    for device_id, unfinished, finished in counts:
        if unfinished >= most:
            metrics.commands_refused.inc()
            raise TooManyCommandsError(most)
        if finished >= KEPT_FINISHED + FORGOTTEN_AT_ONCE:
            _forget_oldest(device_id)


def _counts(device_ids: Collection[int]) -> list[tuple[int, int, int]]:
    """Of the devices that have commands: how many are not finished, and how many are."""
    unfinished = Count("pk", filter=Q(finished_at_ms=None))
    rows = Command.objects.filter(device__in=device_ids).order_by().values("device")
    rows = rows.annotate(unfinished=unfinished, finished=Count("pk") - unfinished)
    return list(rows.values_list("device", "unfinished", "finished"))


def _forget_oldest(device_id: int) -> None:
    finished = Command.objects.filter(device=device_id).exclude(finished_at_ms=None).order_by("-pk")
    oldest = finished.values_list("pk", flat=True)[KEPT_FINISHED]
    finished.filter(pk__lte=oldest).delete()
