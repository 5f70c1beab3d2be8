"""SCRAM-SHA-256, the server's side (RFC 5802, RFC 7677): a password is proved without being sent or kept.

    credentials = ScramCredentials.of("pencil")      # str(credentials) is what to store; ScramCredentials.parse(text)

    class Meter(AsyncMqttConsumer):
        async def begin_authentication(self, method):
            return ScramServer(find_credentials) if method == "SCRAM-SHA-256" else None

Without channel binding: it is for connections that TLS protects otherwise. An unknown name is answered as a wrong
password is, after as much work.
"""

import base64
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Self

from gateway.exceptions import Reject
from protocols.mqtt import ReasonCode

METHOD: Final = "SCRAM-SHA-256"
ITERATIONS: Final = 15_000

# Makes the salt that an unknown name is sent: the same each time, as a real one is.
_SECRET = secrets.token_bytes(32)

_CLIENT_FIRST = re.compile(r"(?P<header>[ny],,)(?P<bare>n=(?P<name>[^,]+),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,]*)*)")
_CLIENT_FINAL = re.compile(
    r"(?P<unproved>c=(?P<binding>[^,]+),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,]*)*),p=(?P<proof>[^,]+)"
)
_STORED = re.compile(r"SCRAM-SHA-256\$(\d{1,9}):([^$:]+)\$([^$:]+):([^$:]+)")


@dataclass(frozen=True, slots=True)
class ScramCredentials:
    """What a server keeps of a password: enough to check a proof, too little to make one."""

    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def of(cls, password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> Self:
        """Those of a password; takes a while, on purpose. Raises ValueError for what a password cannot have."""
        salt = secrets.token_bytes(16) if salt is None else salt
        salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        return cls(salt, iterations, hashlib.sha256(client_key).digest(), server_key)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`. Raises ValueError."""
        match = _STORED.fullmatch(text)
        if match is None:
            raise ValueError("not the credentials of SCRAM-SHA-256")
        salt, stored_key, server_key = (base64.b64decode(part, validate=True) for part in match.groups()[1:])
        return cls(salt, int(match[1]), stored_key, server_key)

    def __str__(self) -> str:
        """As PostgreSQL writes them."""
        salt, stored_key, server_key = (_base64(part) for part in (self.salt, self.stored_key, self.server_key))
        return f"{METHOD}${self.iterations}:{salt}${stored_key}:{server_key}"


class ScramServer:
    """One exchange: an `AuthMechanism` of gateway.generic.mqtt_authentication, and of use elsewhere as well."""

    def __init__(
        self,
        find: Callable[[str], Awaitable[ScramCredentials | None]],
        *,
        iterations: int = ITERATIONS,
        nonce: str | None = None,
    ) -> None:
        """`find` gives the credentials of a name, None if there is nobody of that name. `iterations` are those of the
        most, so that they do not give unknown names away; `nonce` is for tests."""
        self._find = find
        self._iterations = iterations
        self._own_nonce = nonce or secrets.token_urlsafe(24)
        self._credentials: ScramCredentials | None = None
        self._nonce = self._header = self._begun = ""
        self.done = False
        self.identity = ""
        """The name of the client; to be believed once `done`."""

    async def step(self, data: bytes | None) -> bytes:
        """The answer to what the client has sent. Raises Reject (0x87) if that is wrong."""
        try:
            text = (data or b"").decode()
            return (self._finish(text) if self._nonce else await self._begin(text)).encode()
        except ValueError as error:
            raise Reject(ReasonCode.NOT_AUTHORIZED, f"{METHOD}: {error}") from error

    async def _begin(self, text: str) -> str:
        match = _CLIENT_FIRST.fullmatch(text)
        if match is None:
            raise ValueError("not the first message of a client that binds no channel and acts for itself")
        self.identity = saslprep(_unescape(match["name"]))
        found = await self._find(self.identity)
        self._credentials = found or self._nobody_s()
        self._nonce = match["nonce"] + self._own_nonce
        self._header = match["header"]
        first = f"r={self._nonce},s={_base64(self._credentials.salt)},i={self._credentials.iterations}"
        self._begun = f"{match['bare']},{first}"
        return first

    def _finish(self, text: str) -> str:
        credentials, self._credentials = self._credentials, None
        match = _CLIENT_FINAL.fullmatch(text)
        if match is None or credentials is None:
            raise ValueError("not the last message of a client, or one more")
        if match["nonce"] != self._nonce or base64.b64decode(match["binding"], validate=True) != self._header.encode():
            raise ValueError("not the last message of this exchange")
        message = f"{self._begun},{match['unproved']}".encode()
        signature = hmac.digest(credentials.stored_key, message, "sha256")
        proof = base64.b64decode(match["proof"], validate=True)
        if len(proof) != len(signature):
            raise ValueError("not a proof")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), credentials.stored_key):
            raise ValueError("another password, or nobody of this name")
        self.done = True
        return f"v={_base64(hmac.digest(credentials.server_key, message, 'sha256'))}"

    def _nobody_s(self) -> ScramCredentials:
        salt = hmac.digest(_SECRET, self.identity.encode(), "sha256")[:16]
        return ScramCredentials(salt, self._iterations, secrets.token_bytes(32), secrets.token_bytes(32))


def saslprep(text: str) -> str:
    """A name or password as it is compared (RFC 4013). Raises ValueError for one that has what is not allowed."""
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not prepared or any(prohibited(char) for prohibited in _PROHIBITED for char in prepared):
        raise ValueError("it is empty, or has characters that names and passwords cannot have")
    right_to_left = [stringprep.in_table_d1(char) for char in prepared]
    if any(right_to_left):
        mixed = any(stringprep.in_table_d2(char) for char in prepared)
        if mixed or not (right_to_left[0] and right_to_left[-1]):
            raise ValueError("it mixes directions of writing")
    return prepared


_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def _unescape(name: str) -> str:
    if re.search("=(?!2C|3D)", name):
        raise ValueError("an equals sign that escapes nothing")
    return name.replace("=2C", ",").replace("=3D", "=")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
