"""What a stored value is shown as: the one way from the database to pages, streams and the command line.

A stored value is a number or the JSON of anything else (devices.models.StoredValue). Nothing here decodes arrays and
objects, so no depth can hurt, and nothing raises: a value that makes no sense costs its own place, not the page.

- A number is the shortest text that reads back as the same number, written as JavaScript writes it, so that a page says
  the same before and after it goes live. Minus zero is zero, which is what SQLite makes of it.
- A whole number beyond 2^53 has the digits that were sent.
- A string stands as it is if nobody can take it for anything else; else it is quoted as JSON, and so are blanks at its
  ends, control characters, and marks that turn the direction of text.
- Of a text of more than CUT characters the beginning is shown, with a mark, and the size of the whole is told.
"""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple
from unicodedata import category

import msgspec

CUT: Final = 200
"""Characters of the JSON of a value that pages and streams have; the whole is asked for by itself."""

HEAD: Final = CUT + 1
"""Characters to read of a stored text: whether it is longer than CUT shows in the last of them."""

_LONGEST_ESCAPE: Final = 6  # \u001b
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final = (("year", 31_557_600_000), ("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000))
_QUOTE: Final = '"'
_UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\ufffc\ufffe\uffff]"
)
"""Controls, surrogates, and what is not seen but moves or hides what is. Joiners stay: scripts and emoji need them."""
_MISTAKABLE: Final = re.compile(
    r"[\"{\[].*"
    r"|[+\-\u2212]?(?:[\d.,'\u2019_\s]+(?:e[+\-\u2212]?\d*)?|0x[\da-f]*|nan|inf(?:inity)?)%?"
    r"|true|false|null|none|no value",
    re.IGNORECASE | re.DOTALL,
)
"""What could be taken for a number, however people write it, for another kind of JSON, or for no value."""


class Shown(NamedTuple):
    """A value as people see it; `whole_bytes` is the size of its JSON if this is only the beginning, else 0."""

    text: str
    whole_bytes: int = 0

    @property
    def line(self) -> str:
        """For a terminal: with the size of the whole."""
        return f"{self.text} (all {size_text(self.whole_bytes)})" if self.whole_bytes else self.text


class Value(NamedTuple):
    """A stored value as it is read: device time in ms, number, text or its first HEAD characters, bytes of the text."""

    ts: int
    number: float | None
    text: str | None
    whole_bytes: int | None = None

    @property
    def shown(self) -> "Shown":
        """For people."""
        return shown(self.number, self.text, self.whole_bytes or 0)

    @property
    def told(self) -> tuple[Any, ...]:
        """For a live stream: the time, and what `told` has."""
        return (self.ts, *told(self.number, self.text, self.whole_bytes or 0))


def shown(number: float | None, text: str | None, whole_bytes: int = 0) -> Shown:
    """What a stored value is shown as. `whole_bytes` is the size of the text where only its first HEAD were read."""
    if not text:
        return Shown("no value" if number is None else number_text(number))
    if len(text) <= CUT:
        return Shown(string_text(_decoded(text)) if text.startswith('"') else _visible(text))
    whole_bytes = whole_bytes or len(text.encode("utf-8", "replace"))
    head = text[:CUT]
    return Shown(f"{_visible(_beginning(head) if head.startswith(_QUOTE) else head)}…", whole_bytes)


def told(number: float | None, text: str | None, whole_bytes: int = 0) -> tuple[Any, ...]:
    """The same for a live stream: what follows the time in a reading, for JSON.

    (value,) if the value says it all: a number, a boolean, a plain string
    (value, shown) if people are shown another text: objects, arrays, quoted strings, and whole numbers beyond 2^53,
        which are strings here, because JavaScript would round them
    (None, shown, whole_bytes) if it is cut
    """
    if not text:
        return (number,) if number is not None and math.isfinite(number) else (None, shown(number, None).text)
    if len(text) > CUT:
        return (None, *shown(number, text, whole_bytes))
    return _told_text(text)


@lru_cache(maxsize=2_048)  # states repeat: 0.1 us in place of 1 to 2 us in the fan-out
def _told_text(text: str) -> tuple[Any, ...]:
    seen = shown(None, text).text
    if text in {"true", "false"}:
        return (text == "true",)
    if text.startswith(("{", "[")):
        return (_raw(text), seen)
    if not text.startswith(_QUOTE):
        return (_encodable(text), seen)
    string = _decoded(text)
    return (string,) if seen == string else (_encodable(string), seen)


def number_text(number: float) -> str:
    """The shortest text that reads back as `number`, as JavaScript's String() has it."""
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    if number == 0:
        return "0"
    text = repr(number)
    size = abs(number)
    if 1e-6 <= size < 1e21:
        return f"{Decimal(text):f}".removesuffix(".0")
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent):+d}"


def string_text(string: str) -> str:
    """A string as it stands, or quoted if it could be taken for something else or does not show what is in it."""
    if string.strip() != string or not string or _MISTAKABLE.fullmatch(string) or _UNSEEN.search(string):
        return _visible(json.dumps(string, ensure_ascii=False))
    return string


def name_text(name: str) -> str:
    """A key or a name, which foreigners choose: what is not seen is escaped; quoted if a blank is at its ends."""
    visible = _visible(name)
    return f'"{visible}"' if not name or "Zs" in {category(name[0]), category(name[-1])} else visible


def instant(ms: int) -> datetime | None:
    """A stored time, to the millisecond; None if it is beyond the years that there are."""
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return None


def duration_text(ms: int) -> str:
    """How long, in the largest unit of which there are two or more."""
    for unit, length_ms in _UNITS:
        if ms >= 2 * length_ms:
            return f"{ms // length_ms} {unit}s"
    return f"{ms // 1_000} seconds"


def size_text(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size} bytes" if size < 10_000 else f"{round(size / 1_000)} kB"


def _visible(text: str) -> str:
    """With what is not seen as its escape."""
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub(_escape, text)


def _escape(match: "re.Match[str]") -> str:
    return f"\\u{ord(match[0]):04x}"


def _decoded(text: str) -> str:
    """The string of its JSON; the JSON itself, if it is none after all."""
    try:
        string = json.loads(text, strict=False)
    except ValueError:
        return text
    return string if isinstance(string, str) else text


def _beginning(head: str) -> str:
    """The string of which `head` is the beginning of the JSON, perhaps in the middle of an escape."""
    for missing in range(_LONGEST_ESCAPE + 1):
        try:
            string = json.loads(f'{head[: len(head) - missing]}"', strict=False)
        except ValueError:
            continue
        return str(string)
    return head


def _encodable(string: str) -> str | None:
    """The string, if there are bytes for it: there are none for half of a pair of surrogates."""
    try:
        string.encode()
    except UnicodeEncodeError:
        return None
    return string


def _raw(text: str) -> Any:
    """The JSON for a stream; nothing if it is none, which would spoil the message around it."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
        return msgspec.Raw(text.encode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
