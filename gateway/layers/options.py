"""What the options of a layer may be. A wrong one is an error when the layer is made, not with the first message."""

import re
from collections.abc import Mapping
from typing import Any

from gateway.exceptions import InvalidChannelLayerError


def require_options(*, expiry: Any, group_expiry: Any, capacity: Any, channel_capacity: Any) -> None:
    """Raises InvalidChannelLayerError, with the name of the option, unless the bounds of a layer are numbers over 0."""
    require_seconds("expiry", expiry)
    require_seconds("group_expiry", group_expiry)
    require_count("capacity", capacity)
    if channel_capacity is None:
        return
    if not isinstance(channel_capacity, Mapping):
        raise InvalidChannelLayerError(f"channel_capacity is a dict of patterns and numbers, not {channel_capacity!r}")
    for pattern, count in channel_capacity.items():
        if not isinstance(pattern, str | re.Pattern):
            raise InvalidChannelLayerError(f"a pattern in channel_capacity is a string or compiled, not {pattern!r}")
        require_count(f"channel_capacity[{pattern!r}]", count)


def require_seconds(name: str, value: Any) -> None:
    """Raises InvalidChannelLayerError unless `value` is a number of seconds over 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise InvalidChannelLayerError(f"{name} is a number of seconds, more than 0, not {value!r}")


def require_count(name: str, value: Any) -> None:
    """Raises InvalidChannelLayerError unless `value` is a whole number over 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidChannelLayerError(f"{name} is a whole number, more than 0, not {value!r}")


def require_hook(name: str, value: Any) -> None:
    """Raises InvalidChannelLayerError unless `value` is the type of an event, a function or None."""
    if not (value is None or callable(value) or (isinstance(value, str) and value)):
        raise InvalidChannelLayerError(f"{name} is the type of an event or a function, not {value!r}")
