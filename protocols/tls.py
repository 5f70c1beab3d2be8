"""The certificates of a listener: what they are made of, how they are exchanged while connections go on, what a scope
tells of them.

A context that is handed to asyncio cannot be taken back, and a certificate authority or revocation list that it has
loaded it keeps. So a listener has a `ServerContext`, whose handshakes are those of the context loaded last: a reload
makes a new one out of the files, or changes nothing. Session tickets do not outlive the context that issued them,
which is why nobody whose certificate was revoked comes back by resuming a session.
"""

import logging
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from protocols import metrics
from protocols.options import check_options, option

logger = logging.getLogger("gateway.tls")

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_NUMBERS: Final = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
_DER: Final = serialization.Encoding.DER
_CRL_BEGINS: Final = b"-----BEGIN X509 CRL-----"

Signature: TypeAlias = tuple[tuple[int, int, int] | None, ...]
"""The state of files, to be compared: inode, size and time of change of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """`[listeners.tls]`: the certificates of one listener. Raises ValueError for keys that do not go together."""

    certfile: Path = option(help_text="PEM: the certificate and the chain above it")
    keyfile: Path | None = option(None, "PEM; without it the key is in certfile")
    minimum_version: Literal["1.2", "1.3"] = option("1.2", "the oldest version of TLS that is spoken")
    client_ca: Path | None = option(
        None, "PEM: the authorities whose client certificates are believed; without it clients are asked for none"
    )
    client_certificate: Literal["required", "optional"] = option(
        "required", "whether clients without a certificate are refused, where there is a client_ca"
    )
    crl: Path | None = option(
        None, "PEM: the revocation lists of these authorities, one for each that issues client certificates"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.crl is not None and self.client_ca is None:
            raise ValueError("a crl says nothing without a client_ca")

    @property
    def files(self) -> Sequence[Path]:
        """Every file that is read."""
        every = (self.certfile, self.keyfile, self.client_ca, self.crl)
        return [path for path in every if path is not None]

    def context(self) -> "ServerContext":
        """The context of a listener. Raises OSError (ssl.SSLError is one) or ValueError if the files cannot be used."""
        return ServerContext(self)


class _Loaded(ssl.SSLContext):
    """A context of what the files held at one time."""

    server_cert: str
    expires_s: float
    revocations: Sequence[x509.CertificateRevocationList]

    @classmethod
    def of(cls, options: TlsOptions) -> "_Loaded":
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[options.minimum_version]
        context.load_cert_chain(options.certfile, options.keyfile)
        certificate = x509.load_pem_x509_certificates(options.certfile.read_bytes())[0]
        context.server_cert = ssl.DER_cert_to_PEM_cert(certificate.public_bytes(_DER))
        context.expires_s = certificate.not_valid_after_utc.timestamp()
        context.revocations = ()
        if options.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED if options.client_certificate == "required" else ssl.CERT_OPTIONAL
            context.load_verify_locations(options.client_ca)
        if options.crl is not None:
            context.load_verify_locations(options.crl)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
            context.revocations = _revocation_lists(options.crl.read_bytes())
        return context


class ServerContext(ssl.SSLContext):
    """A server's context that can be loaded anew; connections keep what they were opened with."""

    options_of_files: TlsOptions
    _loaded: _Loaded
    _loaded_from: Signature
    _seen: Signature

    def __new__(cls, options: TlsOptions) -> "ServerContext":
        """See `TlsOptions.context`."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, options: TlsOptions) -> None:
        self.options_of_files = options
        self.on_reload: list[Callable[[], None]] = []
        """Called by `announce`."""
        self._seen = self._loaded_from = _signature(options.files)
        self._use(_Loaded.of(options))

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Begins a connection, with what was loaded last. This is how asyncio and uvloop do it."""
        return self._loaded.wrap_bio(*arguments, **named)

    @property
    def expires_s(self) -> float:
        """When the server's certificate ends, in Unix time."""
        return self._loaded.expires_s

    def reload(self) -> bool:
        """Reads the files again. Returns whether they could be used; if not, what was loaded before stays."""
        options = self.options_of_files
        self._seen = self._loaded_from = _signature(options.files)
        try:
            loaded = _Loaded.of(options)
        except (OSError, ValueError) as error:
            metrics.tls_reloads.labels("failed").inc()
            kept = "the certificates of %s cannot be used, those loaded before stay in use: %s"
            logger.error(kept, options.certfile, error)  # noqa: TRY400  an operator's mistake, not ours
            return False
        self._use(loaded)
        metrics.tls_reloads.labels("done").inc()
        logger.info("loaded the certificates of %s again, for new connections", options.certfile)
        return True

    def reload_if_changed(self) -> bool:
        """Reloads if the files are others than before, and have been so since the last call: who replaces a
        certificate and its key replaces one after the other. Returns whether something new is in use."""
        before, self._seen = self._seen, _signature(self.options_of_files.files)
        return self._seen == before and self._seen != self._loaded_from and self.reload()

    def announce(self) -> None:
        """Tells those who have connections that another context is in use. To be called in their loop, where `reload`
        may run in a thread."""
        for told in list(self.on_reload):
            told()

    def revokes(self, certificate: bytes) -> bool:
        """Whether the revocation lists in use have this certificate, given in DER."""
        revocations = self._loaded.revocations
        if not revocations:
            return False
        parsed = x509.load_der_x509_certificate(certificate)
        return any(
            revoked.issuer == parsed.issuer
            and revoked.get_revoked_certificate_by_serial_number(parsed.serial_number) is not None
            for revoked in revocations
        )

    def _use(self, loaded: _Loaded) -> None:
        self._loaded = loaded
        metrics.tls_certificate_expires.labels(str(self.options_of_files.certfile)).set(loaded.expires_s)


def tls_extension(ssl_object: ssl.SSLObject | None) -> dict[str, Any] | None:
    """The value of `scope["extensions"]["tls"]` (ASGI TLS extension); None for a connection without TLS."""
    if ssl_object is None:
        return None
    certificate = ssl_object.getpeercert(binary_form=True)
    return {
        "server_cert": getattr(ssl_object.context, "server_cert", None),
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(each) for each in _client_chain(ssl_object, certificate)],
        "client_cert_name": _subject(certificate) if certificate else None,
        "client_cert_error": None,
        "tls_version": _NUMBERS.get(ssl_object.version() or ""),
        "cipher_suite": _cipher_suite(ssl_object),
    }


def _client_chain(ssl_object: ssl.SSLObject, certificate: bytes | None) -> Sequence[bytes]:
    """The client's certificate, and of those that it has sent besides each that signs the one before, as far as they
    have been verified: before Python 3.13, and in a session that is resumed, its own is all that is known."""
    chain = [] if certificate is None else [certificate]
    if sys.version_info >= (3, 13) and chain:
        sent = ssl_object.get_unverified_chain()
        chain = list(takewhile(sent.__contains__, ssl_object.get_verified_chain())) or chain
    return chain


def _subject(certificate: bytes) -> str:
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()


def _cipher_suite(ssl_object: ssl.SSLObject) -> int | None:
    """The IANA number of the cipher in use: OpenSSL's id of it is that number in its low 16 bits."""
    cipher = ssl_object.cipher()
    if cipher is None:
        return None
    known: list[dict[str, Any]] = list(ssl_object.context.get_ciphers())  # type: ignore[arg-type]
    return next((entry["id"] & 0xFFFF for entry in known if entry["name"] == cipher[0]), None)


def _signature(files: Sequence[Path]) -> Signature:
    return tuple(_state_of(path) for path in files)


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _revocation_lists(pem: bytes) -> list[x509.CertificateRevocationList]:
    """Every list in a file, one after the other."""
    _, *lists = pem.split(_CRL_BEGINS)
    return [x509.load_pem_x509_crl(_CRL_BEGINS + each) for each in lists]
