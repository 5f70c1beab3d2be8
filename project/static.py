"""Serves the static files of every installed app, found by Django's finders and indexed once by WhiteNoise.

An ASGI application of its own, because WhiteNoise's middleware is synchronous: under ASGI each file would cost a
thread and a warning. Headers, ETags, ranges and 304 are WhiteNoise's.
"""

import asyncio
from typing import IO
from wsgiref.headers import Headers

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from whitenoise import WhiteNoise

from gateway.observability import respond
from protocols.asgi import Receive, Scope, Send


class StaticFiles:
    """Answers GET and HEAD below STATIC_URL from the files that were there when it was made."""

    def __init__(self) -> None:
        # Names carry no hash, so browsers ask again each time and mostly hear 304.
        index = WhiteNoise(None, max_age=0, allow_all_origins=False, add_headers_function=_forbid_guessing)
        for finder in get_finders():
            for path, storage in finder.list(None):
                prefix = getattr(storage, "prefix", None)
                url = settings.STATIC_URL + (f"{prefix}/{path}" if prefix else path)
                if url not in index.files:
                    index.add_file_to_dictionary(url, storage.path(path))
        self._files = index.files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = self._files.get(scope["path"])
        if file is None:
            await respond(scope, send, 404, b"not found\n", "text/plain; charset=utf-8")
            return
        response = file.get_response(scope["method"], _environ(scope))
        body = b"" if response.file is None else await asyncio.to_thread(_read, response.file)
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
        await send({"type": "http.response.start", "status": int(response.status), "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _forbid_guessing(headers: Headers, path: str, url: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"


def _environ(scope: Scope) -> dict[str, str]:
    """The request's headers as WSGI names them."""
    return {
        f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}": value.decode("latin-1")
        for name, value in scope["headers"]
    }


def _read(file: IO[bytes]) -> bytes:
    with file:
        return file.read()
