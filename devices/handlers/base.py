"""What a device says, as its handler gets it, and the database as handlers use it."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

from django.db import Error as DatabaseFault

from devices.attributes import TooManyAttributesError
from devices.commands import FinishedCommandError, InvalidCommandError, UnknownCommandError
from devices.credentials import Identity
from devices.device_lock import UnknownDeviceError
from devices.json_text import NoJsonError
from devices.profiles import Match
from devices.refusals import MessageRefusal, RefusedError
from devices.services import DeviceServices
from devices.sub_devices import SubDevices
from gateway.databases.thread import DatabaseThread
from gateway.db import is_outage, one_line
from gateway.exceptions import GatewayError
from protocols.asgi import Scope
from protocols.log_lines import RateLimitedLog

P = ParamSpec("P")
R = TypeVar("R")

_limited_log: Final = RateLimitedLog(logging.getLogger("gateway.devices"))


_REFUSALS: Final[Mapping[type[GatewayError], MessageRefusal]] = {
    UnknownDeviceError: MessageRefusal.NO_DEVICE,
    NoJsonError: MessageRefusal.PAYLOAD,
    TooManyAttributesError: MessageRefusal.QUOTA_OF_DEVICE,
    InvalidCommandError: MessageRefusal.TOO_LARGE,
    UnknownCommandError: MessageRefusal.NO_COMMAND,
    FinishedCommandError: MessageRefusal.FINISHED_COMMAND,
}
"""What a device is refused where a service raises one of these."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a device says by one message or request."""

    services: DeviceServices
    device: Identity
    payload: bytes
    match: Match
    scope: Scope
    sub_devices: SubDevices | None = None
    """Those behind the device that are connected by its connection; None on a wire by which no gateway speaks."""

    async def in_database(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `function` returns, which uses the ORM. Raises RefusedError while the database is away, and for what a
        service refuses (_REFUSALS); what else `function` raises."""
        return await in_database(self.services.database, function, *args, **kwargs)


async def in_database(database: DatabaseThread, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `function` returns, called in the thread. Raises as `Message.in_database`."""
    try:
        return await database.call(function, _note_slow, *args, **kwargs)
    except DatabaseFault as error:
        if not is_outage(error):
            raise
        refusal = MessageRefusal.UNAVAILABLE
        raise RefusedError(refusal, refusal.reason, log_reason=f"{refusal.reason}: {one_line(error)}") from error
    except GatewayError as error:
        if type(error) not in _REFUSALS:
            raise
        raise RefusedError(_REFUSALS[type(error)], str(error)) from None


Handler: TypeAlias = Callable[[Message], Coroutine[Any, Any, bytes | None]]
"""Does what a message says, and returns the answer to it, or None where its meaning has none. Raises RefusedError."""


def _note_slow(why: str) -> None:
    _limited_log.warning("what devices ask for waits: %s", why)
