"""Reads JSON as people and firmware write it: what is no JSON by RFC 8259, and is meant for some all the same.

The grammar is that of Gson's lenient `JsonReader`, by which ThingsBoard reads what devices send: keys and strings
without quotes or in single ones, comments, `;` for `,`, `=` and `=>` for `:`, omitted elements of an array, `TRUE`, a
byte order mark. Wider here: a comma at the end of an object or an array adds nothing; `+1` and `1.` are numbers; and a
bare `nan` or `inf`, with which a sensor says that it has measured nothing, is no value instead of a text. Narrower: the
outermost value is an object or an array, there is one of it, of at most MAX_ELEMENTS, since this is Python; and the
text is UTF-8 without halves of surrogate pairs.

It takes time proportional to the length of the text, and does not recurse.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

MAX_ELEMENTS: Final = 10_000
"""Members of objects and elements of arrays in a text: some 20 ms of processor time."""

# Every quantifier is possessive (`++`): no way to go back is kept, so none is tried.
_SPACE: Final = re.compile(r"(?:[ \t\r\n]++|//[^\r\n]*+|\#[^\r\n]*+|/\*(?:[^*]++|\*(?!/))*+\*/)*+")
_STRINGS: Final = {quote: re.compile(rf"{quote}((?:[^{quote}\\]++|\\.)*+){quote}", re.DOTALL) for quote in ('"', "'")}
_LITERAL: Final = re.compile(r"[^{}\[\]:,;=#/\\ \t\f\r\n]++")
_INTEGER: Final = re.compile(r"[+-]?+\d++", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?+(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][+-]?+\d++)?+", re.ASCII)
_NOT_A_NUMBER: Final = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_WORDS: Final = {"true": True, "false": False, "null": None}
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED: Final = {
    "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "'": "'", "\\": "\\", "/": "/", "\n": "\n",
}  # fmt: skip
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class LenientJsonError(ValueError):
    """Raised for what cannot be read. Its text says why, and at which byte of the payload, from 0."""

    def __init__(self, why: str, position: int) -> None:
        super().__init__(f"{why} (byte {position})")
        self.position = position


class Reading(NamedTuple):
    """What a payload has been read as."""

    content: "dict[str, Any] | list[Any]"
    missing: int
    """How many numbers are none (`nan`, `inf`): their place in the content has None."""
    span: tuple[int, int] | None
    """Where the value of the member that was to be located begins and ends in the payload; None if it is not there."""


def read(
    payload: bytes,
    *,
    max_depth: int,
    locate: str | None = None,
    parse_int: Callable[[str], Any] = int,
    parse_float: Callable[[str], Any] = float,
) -> Reading:
    """Reads a payload in UTF-8. Of members with the same key, the last counts. Raises LenientJsonError.

    `locate` is the key of a member of the outermost object. `parse_int` and `parse_float` get the digits of numbers,
    without a plus sign.
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise LenientJsonError("no UTF-8", error.start) from None
    reader = _Reader(text, max_depth, locate, parse_int, parse_float)
    try:
        content = reader.read()
    except _Fault as fault:
        raise LenientJsonError(fault.why, _bytes_before(text, fault.position)) from None
    span = reader.span
    if span is not None:
        span = _bytes_before(text, span[0]), _bytes_before(text, span[1])
    return Reading(content, reader.missing, span)


def _bytes_before(text: str, position: int) -> int:
    return len(text[:position].encode())


class _Fault(Exception):  # noqa: N818
    def __init__(self, why: str, position: int) -> None:
        super().__init__(why)
        self.why = why
        self.position = position


class _Reader:
    """Goes through a text once. `_at` is where it is."""

    def __init__(
        self,
        text: str,
        max_depth: int,
        locate: str | None,
        parse_int: Callable[[str], Any],
        parse_float: Callable[[str], Any],
    ) -> None:
        self._text = text
        self._at = 1 if text.startswith("\ufeff") else 0
        self._max_depth = max_depth
        self._locate = locate
        self._parse_int = parse_int
        self._parse_float = parse_float
        self._elements = 0
        self.missing = 0
        self.span: tuple[int, int] | None = None

    def read(self) -> dict[str, Any] | list[Any]:
        """The outermost value."""
        outermost: dict[str, Any] | list[Any]
        if self._next() not in ("{", "["):
            raise _Fault("expected an object or an array", self._at)
        outermost = self._begin()
        stack = [outermost]
        key = ""
        outer_key, began = "", 0
        while stack:
            container = stack[-1]
            following = self._next()
            if following == ("}" if type(container) is dict else "]"):
                self._at += 1
                stack.pop()
            elif type(container) is list and following in (",", ";"):  # an element is left out
                self._add(container, "", None)
                self._at += 1
                continue
            else:
                if type(container) is dict:
                    key = self._key()
                    following = self._next()
                if len(stack) == 1:
                    outer_key, began = key, self._at
                if following in ("{", "["):
                    if len(stack) == self._max_depth:
                        raise _Fault(f"nested deeper than {self._max_depth} levels", self._at)
                    inner = self._begin()
                    self._add(container, key, inner)
                    stack.append(inner)
                    continue
                self._add(container, key, self._scalar(following))
            if len(stack) == 1 and type(outermost) is dict and outer_key == self._locate:
                self.span = began, self._at
            if stack:
                self._separator("}" if type(stack[-1]) is dict else "]")
        if self._next():
            raise _Fault("expected the end", self._at)
        return outermost

    def _next(self) -> str:
        """The next character that is no space or comment; empty at the end."""
        space = _SPACE.match(self._text, self._at)
        assert space is not None, "it matches nothing, too"
        self._at = space.end()
        return self._text[self._at : self._at + 1]

    def _begin(self) -> dict[str, Any] | list[Any]:
        self._at += 1
        return {} if self._text[self._at - 1] == "{" else []

    def _add(self, container: dict[str, Any] | list[Any], key: str, value: Any) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise _Fault(f"more than {MAX_ELEMENTS} elements, and no JSON by RFC 8259", self._at)
        if type(container) is dict:
            container[key] = value
        else:
            container.append(value)  # type: ignore[union-attr]

    def _key(self) -> str:
        """A key, and what is between it and its value."""
        following = self._next()
        key = self._string(following) if following in _STRINGS else self._literal("expected a key")
        separator = self._next()
        if separator not in (":", "="):
            raise _Fault("expected a colon", self._at)
        self._at += 2 if self._text.startswith("=>", self._at) else 1
        return key

    def _separator(self, closing: str) -> None:
        following = self._next()
        if following in (",", ";"):
            self._at += 1
        elif following != closing:
            raise _Fault(f"expected a comma or {closing}", self._at)

    def _scalar(self, following: str) -> Any:
        if following in _STRINGS:
            return self._string(following)
        word = self._literal("expected a value")
        if _NUMBER.fullmatch(word):
            digits = word.removeprefix("+")
            if _INTEGER.fullmatch(word):
                return self._parse_int(digits)
            return self._parse_float(digits)
        if _NOT_A_NUMBER.fullmatch(word):
            self.missing += 1
            return None
        return _WORDS.get(word.lower(), word)

    def _literal(self, why_not: str) -> str:
        literal = _LITERAL.match(self._text, self._at)
        if literal is None:
            raise _Fault(why_not if self._at < len(self._text) else "it ends too early", self._at)
        self._at = literal.end()
        return literal.group()

    def _string(self, quote: str) -> str:
        start = self._at
        string = _STRINGS[quote].match(self._text, start)
        if string is None:
            raise _Fault("a string without an end", start)
        self._at = string.end()
        content = string.group(1)
        if "\\" not in content:
            return content

        def character(escape: re.Match[str]) -> str:
            if escape[1] is not None:
                return chr(int(escape[1], 16))
            if escape[2] not in _ESCAPED:
                raise _Fault(f"no such escape: {escape[0]!r}", start + 1 + escape.start())
            return _ESCAPED[escape[2]]

        unescaped = _ESCAPE.sub(character, content)
        if _SURROGATE.search(unescaped):  # pairs of them are one character
            try:
                unescaped = unescaped.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                raise _Fault("half of a surrogate pair", start) from None
        return unescaped
