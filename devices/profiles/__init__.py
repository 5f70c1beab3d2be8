"""Profiles: how a type of device speaks. Its topics and paths, what each means, how payloads are read and written.

A profile is data and pure functions; whoever serves a device asks its profile and knows no topic by name. Profiles come
by the entry point group `gateway.profiles` (devices.profiles.registry).
"""

from devices.profiles.base import (
    MAX_DEPTH,
    MAX_PAYLOAD_BYTES,
    AttributesRequest,
    Call,
    Claim,
    NotJsonError,
    PayloadError,
    Point,
    Profile,
    SubDevice,
    SubDeviceAnswer,
    SubDeviceAttributesRequest,
    is_too_deep,
)
from devices.profiles.registry import (
    UnknownProfileError,
    bridged_topics,
    installed_profiles,
    profile_names,
    profile_of,
    reserved_topics,
    validate_profile,
)
from devices.profiles.topics import Match, Meaning, Topic, TopicTable, fill

__all__ = [
    "MAX_DEPTH",
    "MAX_PAYLOAD_BYTES",
    "AttributesRequest",
    "Call",
    "Claim",
    "Match",
    "Meaning",
    "NotJsonError",
    "PayloadError",
    "Point",
    "Profile",
    "SubDevice",
    "SubDeviceAnswer",
    "SubDeviceAttributesRequest",
    "Topic",
    "TopicTable",
    "UnknownProfileError",
    "bridged_topics",
    "fill",
    "installed_profiles",
    "is_too_deep",
    "profile_names",
    "profile_of",
    "reserved_topics",
    "validate_profile",
]
