"""JSON as it is stored: the text of any value, with the bounds that keep it readable."""

from typing import Any

import msgspec

from devices.profiles import MAX_DEPTH, is_too_deep
from gateway.exceptions import GatewayError


class NoJsonError(GatewayError):
    """Raised when a value or a text is no JSON, or is nested too deeply."""


def encode(value: Any) -> str:
    """The JSON of `value`, without blanks. Raises NoJsonError."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError, of half a surrogate pair, too
        raise NoJsonError(f"no JSON: {error}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and is_too_deep(value):
        raise NoJsonError(f"JSON is nested too deeply: at most {MAX_DEPTH} levels are taken")
    return text


def decode(text: str) -> Any:
    """The value of a JSON text. Raises NoJsonError."""
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NoJsonError(f"no JSON: {error}") from None
