"""The first administrator of a gateway, at a browser without pictures: cookies, forms and their tokens."""

import re
import time
import urllib.parse
import urllib.request
from http.client import HTTPResponse
from http.cookiejar import CookieJar

from tests.support.serving import Serving

TIMEOUT_S = 30.0


class Administrator:
    """Logged in at a gateway with the password that the first gateway on its database has printed."""

    def __init__(self, url: str, first: Serving) -> None:
        self.url = url
        self._cookies = CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._cookies))
        self.submit("/login/", username="admin", password=_printed_password(first))
        assert "sessionid" in self.cookie

    @property
    def cookie(self) -> str:
        """The value of the header Cookie."""
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._cookies)

    def get(self, path: str) -> str:
        """The page at a path."""
        with self._open(path) as response:
            return response.read().decode()

    def submit(self, path: str, *, to: str = "", **fields: str) -> None:
        """Fills in the form of the page at a path and sends it: to the path `to`, if that is another."""
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', self.get(path))
        assert token is not None, f"there is no form at {path}"
        form = urllib.parse.urlencode({**fields, "csrfmiddlewaretoken": token[1]})
        self._open(to or path, form.encode()).close()

    def _open(self, path: str, form: bytes | None = None) -> HTTPResponse:
        response: HTTPResponse = self._opener.open(self.url + path, form, timeout=TIMEOUT_S)
        return response


def _printed_password(serving: Serving) -> str:
    deadline = time.monotonic() + TIMEOUT_S
    while (match := re.search(r"password +(\S{16})\n", serving.output)) is None:
        assert time.monotonic() < deadline, "no password was printed"
        time.sleep(0.02)
    return match[1]
