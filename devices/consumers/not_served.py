"""What a device is told that says what nobody here takes: the one place, for every wire."""

from typing import Final

from devices.profiles import Match, Meaning
from devices.refusals import MessageRefusal, RefusedError

_NEVER_IGNORED: Final = frozenset(
    {Meaning.TELEMETRY, Meaning.UNREAD_TELEMETRY, *(each for each in Meaning if each.name.startswith("GATEWAY_"))}
)
"""Who has telemetry acknowledged believes that it is stored. ThingsBoard acknowledges nothing of what a gateway says to
who is none."""


def not_served(match: Match | None) -> RefusedError:
    """The refusal of a message whose topic or path is not in the tables of the device's profile (None), or of which the
    consumer has no handler for what it means."""
    if match is None:
        return RefusedError(MessageRefusal.IGNORED, "not in the device API")
    refusal = MessageRefusal.TOPIC if match.meaning in _NEVER_IGNORED else MessageRefusal.IGNORED
    return RefusedError(refusal, f"{match.meaning}: not served here")
