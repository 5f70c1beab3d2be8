"""Requests of tests to a server, with whatever status they are answered."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from typing import Any

from tests.support.waiting import DEADLINE_S


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def request(url: str, body: bytes | None = None, **headers: str) -> Response:
    """GETs, or POSTs `body`."""
    asked = urllib.request.Request(url, body, headers)  # of a server of the test
    try:
        with urllib.request.urlopen(asked, timeout=DEADLINE_S) as response:
            return Response(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Response(error.code, error.headers, error.read())
