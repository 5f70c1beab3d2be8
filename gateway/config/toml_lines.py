"""The line of each key of a TOML document, which tomllib does not give.

The text must be valid TOML already (tomllib.loads accepted it): only its outline is followed here, so that a fault in a
value can be reported as "gateway.toml:12".
"""

import re
import tomllib
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""The keys from the root to a value; an int is a position in an array."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}\n#]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) of every key and array element in a valid TOML document, by path.

    A table that only the headers of its sub-tables mention has the line of the first of them.
    """
    return _Outline(text).read()


class _Outline:
    """A walk through the text, up to `position`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.lines: dict[KeyPath, int] = {}
        self.array_sizes: dict[KeyPath, int] = {}

    def read(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self.skip(_BLANK)
        while self.position < len(self.text):
            if self.ahead("["):
                table = self.header()
            else:
                self.pair(table)
            self.skip(_BLANK)
        return self.lines

    def header(self) -> KeyPath:
        is_array = self.ahead("[[")
        line = self.line()
        self.position += 2 if is_array else 1
        keys = self.key()
        self.position += 2 if is_array else 1
        path = self.descend((), keys[:-1], line) + keys[-1:]
        self.lines.setdefault(path, line)
        if not is_array:
            return path
        index = self.array_sizes.get(path, 0)
        self.array_sizes[path] = index + 1
        self.lines[(*path, index)] = line
        return (*path, index)

    def pair(self, table: KeyPath) -> None:
        line = self.line()
        keys = self.key()
        self.position += 1  # the equals sign
        path = self.descend(table, keys[:-1], line) + keys[-1:]
        self.lines[path] = line
        self.value(path)

    def descend(self, path: KeyPath, keys: tuple[str, ...], line: int) -> KeyPath:
        """Enters the tables on the way; a name of an array of tables means the last of them so far."""
        for key in keys:
            path = (*path, key)
            self.lines.setdefault(path, line)
            if path in self.array_sizes:
                path = (*path, self.array_sizes[path] - 1)
        return path

    def key(self) -> tuple[str, ...]:
        """A dotted key, read up to the character after it."""
        keys = []
        while True:
            self.skip(_SPACE)
            if quoted := _STRING.match(self.text, self.position):
                keys.append(tomllib.loads(f"key = {quoted.group()}")["key"])
                self.position = quoted.end()
            else:
                keys.append(self.skip(_BARE_KEY))
            self.skip(_SPACE)
            if not self.ahead("."):
                return tuple(keys)
            self.position += 1

    def value(self, path: KeyPath) -> None:
        self.skip(_SPACE)
        if self.ahead("["):
            self.array(path)
        elif self.ahead("{"):
            self.inline_table(path)
        elif string := _STRING.match(self.text, self.position):
            self.position = string.end()
        else:
            self.skip(_BARE_VALUE)

    def array(self, path: KeyPath) -> None:
        self.position += 1
        index = 0
        self.skip(_BLANK)
        while not self.ahead("]"):
            self.lines[(*path, index)] = self.line()
            self.value((*path, index))
            index += 1
            self.skip_comma()
        self.position += 1

    def inline_table(self, path: KeyPath) -> None:
        self.position += 1
        self.skip(_BLANK)
        while not self.ahead("}"):
            self.pair(path)
            self.skip_comma()
        self.position += 1

    def skip_comma(self) -> None:
        self.skip(_BLANK)
        if self.ahead(","):
            self.position += 1
            self.skip(_BLANK)

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:
            raise ValueError(f"line {self.line()} is not valid TOML")
        self.position = match.end()
        return match.group()

    def ahead(self, prefix: str) -> bool:
        return self.text.startswith(prefix, self.position)

    def line(self) -> int:
        return self.text.count("\n", 0, self.position) + 1
