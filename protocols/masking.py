"""Makes text that a peer has chosen fit for a log: no token in it, and no line of its own making.

A token may stand in the path of a request, in whatever spelling a client gives the path: `/things//TOKEN/...`,
`/THINGS/TOKEN`, `%74hings`, behind a proxy's prefix. So a segment is hidden for what it looks like, or for where it
stands, which applications say by `hide_behind`. Whoever logs a path or a text with one in it uses this;
gateway.serve.logs puts every record through it.
"""

import re
from typing import Final
from urllib.parse import unquote

MASK: Final = "***"

_TOKEN: Final = re.compile(r"[A-Za-z0-9]{16}")
"""Sixteen letters and digits look like a token: common ones have 20 to 40."""

_SECRET_NAME: Final = re.compile(r"token|secret|passw|key|auth|session|sign?ature", re.IGNORECASE)

_PATH_IN_TEXT: Final = re.compile(
    r"""File\ "[^"\n]*"                             # a line of a traceback: nobody's request
      | [a-z][a-z0-9+.-]*://[^\s"'<>]*              # a URL, as in a Referer
      | (?<![\w.~/%-])/[^\s"'<>]*                   # a path
      | (?<=for\ path\ ['"])[^'"]*                  # one that a router has no route for, without its first slash
    """,
    re.VERBOSE | re.IGNORECASE,
)


_secret_places: Final[list[tuple[int, re.Pattern[str]]]] = []
"""After which segments one is hidden: how many they are, and how they read together."""


def hide_behind(path: str) -> None:
    r"""Has every segment hidden that follows `path`, a regular expression of whole segments in lower case:
    r"things/v\d+" hides what follows "/things/v1/", and "//Things/V1//", in any path."""
    _secret_places.append((path.count("/") + 1, re.compile(path)))


def mask_path(path: str) -> str:
    """A path, decoded or not, with or without a query string, without the tokens in it."""
    path, question_mark, query = path.partition("?")
    segments = path.split("/")
    named: list[str] = []
    """The segments so far that are not empty, in lower case."""
    for index, segment in enumerate(segments):
        if not segment:
            continue
        plain = _decoded(segment)
        if _is_secret_place(named) or _TOKEN.search(plain):
            segments[index] = MASK
        named.append(plain.lower())
    path = "/".join(segments)
    return f"{path}?{'&'.join(map(_mask_parameter, query.split('&')))}" if question_mark else path


def mask_text(text: str) -> str:
    """A text of a log, without the tokens in the paths and URLs that it names. File names in tracebacks stay."""
    return _PATH_IN_TEXT.sub(_mask_found, text) if "/" in text else text


def redact_path(path: str) -> str:
    """A path as a log may show it: without tokens, and without what forges a line or moves a cursor."""
    return printable(mask_path(path))


def printable(text: str) -> str:
    """Text that a peer has chosen, as a log may show it."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _is_secret_place(named: list[str]) -> bool:
    return any(place.fullmatch("/".join(named[-count:])) for count, place in _secret_places)


def _mask_found(found: re.Match[str]) -> str:
    text = found[0]
    return text if text.startswith("File ") else mask_path(text)


def _mask_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    hidden = _TOKEN.search(_decoded(value)) or (value and _SECRET_NAME.search(_decoded(name)))
    return f"{name}{equals}{MASK}" if hidden else parameter


def _decoded(segment: str) -> str:
    """Without its percent-encoding, which may have been encoded again on the way."""
    for _ in range(3):
        if "%" not in segment:
            break
        segment = unquote(segment)
    return segment
