"""The profiles that are installed: entry points of the group `gateway.profiles`, named as in `DeviceType.profile`.

An entry point names a class, or anything that makes a profile when it is called (devices.profiles.base.Profile).
"""

import difflib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Final

from django.core.exceptions import ValidationError

from devices.profiles.base import Profile
from devices.profiles.topics import TopicTable

ENTRY_POINT_GROUP: Final = "gateway.profiles"


class UnknownProfileError(LookupError):
    """Raised when no installed distribution offers the profile that a device type names."""

    def __init__(self, name: str) -> None:
        known = profile_names()
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
        super().__init__(f"no profile {name!r} is installed; {hint}")


def profile_names() -> list[str]:
    """The names of all installed profiles; none is loaded."""
    return sorted(entry_points(group=ENTRY_POINT_GROUP).names)


@cache
def installed_profiles() -> Mapping[str, Profile]:
    """All installed profiles, loaded once. Raises what the import of one raises."""
    return {entry.name: entry.load()() for entry in entry_points(group=ENTRY_POINT_GROUP)}


def profile_of(name: str) -> Profile:
    """The profile of this name. Raises UnknownProfileError."""
    try:
        return installed_profiles()[name]
    except KeyError:
        raise UnknownProfileError(name) from None


def validate_profile(name: str) -> None:
    """A validator of Django: raises ValidationError for a profile that is not installed."""
    if name not in profile_names():
        raise ValidationError(str(UnknownProfileError(name)))


@cache
def reserved_topics() -> tuple[str, ...]:
    """The beginnings of topics that only devices use, with any profile."""
    return tuple(sorted({prefix for profile in installed_profiles().values() for prefix in profile.reserved_topics}))


@cache
def bridged_topics() -> TopicTable:
    """The topics by which a bridge brings what devices say, with any profile."""
    topics = {topic: None for profile in installed_profiles().values() for topic in profile.bridged.topics}
    return TopicTable(*topics)
