"""What the names and the options of a layer may be.

Any string may name a channel or a group. On a server, a name that is not in the documented form is escaped. That form
(`BaseChannelLayer.require_valid_*`) has no "%", so an escaped name never equals another name.

A wrong option is an error when the layer is made, not with the first message.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from gateway.exceptions import InvalidChannelLayerError

PLAIN = re.compile(r"[a-zA-Z\d\-_.!]{1,99}", re.ASCII)
MAX_ESCAPED_LENGTH = 200


def require_name(kind: str, name: object) -> None:
    """Raises TypeError when `name`, of a "Channel" or "Group", is not a string, or is empty."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"{kind} name must be a valid unicode string that is not empty, got {name!r}.")


def escape_name(name: str) -> str:
    """`name` as a part of a key: as it is when in the documented form, else quoted; when that is too long, its digest.

    Different names have different escaped forms.
    """
    if PLAIN.fullmatch(name):
        return name
    quoted = quote(name, safe="!", errors="surrogatepass")
    if quoted == name or len(quoted) > MAX_ESCAPED_LENGTH:
        # "%~" cannot come out of quote(): after a "%" it puts two hexadecimal digits.
        return "%~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return quoted


def encode_name(name: str) -> bytes:
    """`name` as a value in Redis, unescaped."""
    return name.encode("utf-8", "surrogatepass")


def decode_name(name: bytes | str) -> str:
    """The name of `encode_name`; text, which a client of redis-py may return, as it is."""
    return name.decode("utf-8", "surrogatepass") if isinstance(name, bytes) else name


def require_known(owner: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises TypeError, as the constructor of `owner` would, for a name that is not `known`, and adds the nearest."""
    options = list(known)
    for name in names:
        if name not in options:
            nearest = difflib.get_close_matches(name, options, n=1)
            hint = f". Did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"{owner}.__init__() got an unexpected keyword argument {name!r}{hint}")


def require_bounds(*, expiry: Any, group_expiry: Any, capacity: Any, channel_capacity: Any) -> None:
    """Raises InvalidChannelLayerError, with the name of the option, unless each bound of a layer is a number over 0."""
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
