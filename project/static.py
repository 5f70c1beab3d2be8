"""Serves the static files of every installed app, found by Django's finders and indexed once by WhiteNoise.

An ASGI application of its own, because WhiteNoise's middleware is synchronous: under ASGI each file would cost a
thread and a warning. Types, ETags, ranges and 304 are WhiteNoise's.

Addresses hold a hash of all files, /static/<hash>/devices/js/page.js, and browsers keep what is there for a year. It is
one hash of the whole tree, not one of each file: so what files say of each other, `import "./page.js"` or `url(...)`,
stays as it is, without a build step, a manifest or an import map. Files are compressed when they are first asked for.
"""

import asyncio
import gzip
import re
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import IO, Final
from wsgiref.headers import Headers

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.contrib.staticfiles.storage import StaticFilesStorage
from whitenoise import WhiteNoise

from gateway.health import respond
from protocols.asgi import Receive, Scope, Send

FOREVER: Final = "max-age=31536000, public, immutable"
HASH_LENGTH: Final = 12  # of 16 on, a part of a path is taken for a token, and masked in logs
WORTH_COMPRESSING: Final = 0.95
"""What a file is of its size, at most, when it is compressed; images and fonts are compressed already."""

_GZIP: Final = re.compile(r"(?:^|,)\s*gzip(?![\w-])(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)
"""In Accept-Encoding: gzip, without a weight of 0 [RFC 9110 §12.5.3]."""


class HashedStorage(StaticFilesStorage):
    """Gives the address of a static file."""

    def url(self, name: str | None) -> str:
        """An address with the hash of all files in it."""
        return super().url(f"{hash_of_files()}/{name}")


class StaticFiles:
    """Answers GET and HEAD below STATIC_URL from the files that were there when it was made."""

    def __init__(self) -> None:
        # At an address without the hash a file is asked for again each time, and mostly answered with 304.
        index = WhiteNoise(None, max_age=0, allow_all_origins=False, add_headers_function=_add_headers)
        for name, path in _files().items():
            index.add_file_to_dictionary(settings.STATIC_URL + name, path)
        self._files = index.files
        self._compressed: dict[str, bytes | None] = {}
        self._hashed = re.compile(f"{re.escape(settings.STATIC_URL)}([0-9a-f]{{{HASH_LENGTH}}})/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A page that has been open since before an upgrade has an old hash: it gets the present files."""
        path = scope["path"]
        hashed = self._hashed.match(path)
        if hashed is not None:
            path = settings.STATIC_URL + path[hashed.end() :]
        file = self._files.get(path)
        if file is None:
            await respond(scope, send, 404, b"not found\n", "text/plain; charset=utf-8")
            return
        environ = _environ(scope)
        response = file.get_response(scope["method"], environ)
        headers = Headers(list(response.headers))
        body = b"" if response.file is None else await asyncio.to_thread(_read, response.file)
        if response.status == HTTPStatus.OK and _GZIP.search(environ.get("HTTP_ACCEPT_ENCODING", "")):
            compressed = await self._compressed_of(path)
            if compressed is not None:
                headers["Content-Encoding"] = "gzip"
                headers["Content-Length"] = str(len(compressed))
                body = compressed if body else b""
        if hashed is not None and hashed[1] == hash_of_files():
            headers["Cache-Control"] = FOREVER
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": int(response.status), "headers": raw})
        await send({"type": "http.response.body", "body": body})

    async def _compressed_of(self, path: str) -> bytes | None:
        """The file, compressed; None if that makes it no smaller. There are as many as there are files."""
        if path not in self._compressed:
            self._compressed[path] = await asyncio.to_thread(
                _compress, _files()[path.removeprefix(settings.STATIC_URL)]
            )
        return self._compressed[path]


@cache
def hash_of_files() -> str:
    """The hash of the names and contents of all static files, in each process that has the same ones the same."""
    digest = sha256()
    for name, path in sorted(_files().items()):
        digest.update(f"{name}\0".encode())
        digest.update(sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()[:HASH_LENGTH]


@cache
def _files() -> dict[str, str]:
    """All static files: the path below STATIC_URL, and that in the file system. Of two of one name, the first found."""
    files: dict[str, str] = {}
    for finder in get_finders():
        for path, storage in finder.list(None):
            prefix = getattr(storage, "prefix", None)
            files.setdefault(f"{prefix}/{path}" if prefix else path, storage.path(path))
    return files


def _compress(path: str) -> bytes | None:
    content = Path(path).read_bytes()
    compressed = gzip.compress(content, mtime=0)
    return compressed if len(compressed) <= WORTH_COMPRESSING * len(content) else None


def _add_headers(headers: Headers, path: str, url: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Vary"] = "Accept-Encoding"


def _environ(scope: Scope) -> dict[str, str]:
    """The request's headers as WSGI names them."""
    return {
        f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}": value.decode("latin-1")
        for name, value in scope["headers"]
    }


def _read(file: IO[bytes]) -> bytes:
    with file:
        return file.read()
