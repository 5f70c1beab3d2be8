"""Any string may name a channel or a group; on a server, a name that is not in the documented form is escaped.

The documented form (`BaseChannelLayer.require_valid_*`) has no "%", so an escaped name never equals another name.
"""

import hashlib
import re
from urllib.parse import quote

PLAIN = re.compile(r"[a-zA-Z\d\-_.!]{1,99}", re.ASCII)
MAX_ESCAPED_LENGTH = 200


def require_name(kind: str, name: object) -> None:
    """Raises TypeError when `name`, of a "Channel" or "Group", is not a string, or is empty."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"{kind} name must be a valid unicode string that is not empty, got {name!r}.")


def escape_name(name: str) -> str:
    """`name` as it is used in a key: itself when in the documented form, else quoted, else (when long) its digest.

    Different names have different escaped forms.
    """
    if PLAIN.fullmatch(name):
        return name
    quoted = quote(name, safe="!", errors="surrogatepass")
    if quoted == name or len(quoted) > MAX_ESCAPED_LENGTH:
        # "%~" cannot come out of quote(): after a "%" it puts two hexadecimal digits.
        return "%~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return quoted
