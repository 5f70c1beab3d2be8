"""Client certificates as credentials: which device the names in a certificate belong to.

TLS has verified before that a certificate is genuine, valid and not on a revocation list.
"""

import functools
import hashlib
import ipaddress
import itertools
import operator
from collections.abc import Hashable, Mapping
from datetime import datetime
from typing import Final, NamedTuple, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from django.db import transaction
from django.db.models import Q

from devices.models import CertificateName, Device
from protocols.masking import printable

K = TypeVar("K", bound=Hashable)

FINGERPRINT: Final = CertificateName.Kind.FINGERPRINT
ALTERNATIVE_NAME: Final = CertificateName.Kind.ALTERNATIVE_NAME
COMMON_NAME: Final = CertificateName.Kind.COMMON_NAME

_PREFIXES: Final = ("DNS:", "URI:", "IP:", "email:")
_ORDER: Final = (FINGERPRINT, ALTERNATIVE_NAME, COMMON_NAME)
_MAX_DESCRIBED: Final = 200
_HEX: Final = frozenset("0123456789abcdef")


def normalized(kind: str, value: str) -> str:
    """The form in which a name is stored and compared. Raises ValueError for one that no certificate has."""
    value = value.strip()
    if kind == FINGERPRINT:
        value = value.replace(":", "").lower()
        if len(value) != 64 or not _HEX.issuperset(value):
            raise ValueError("a fingerprint is the SHA-256 of the certificate: 64 hexadecimal digits, colons or none")
    elif kind == ALTERNATIVE_NAME:
        prefix, colon, name = value.partition(":")
        if prefix + colon not in _PREFIXES or not name:
            raise ValueError(f"a subject alternative name begins with one of {', '.join(_PREFIXES)}")
        if prefix == "DNS":
            value = f"DNS:{name.lower()}"
        elif prefix == "IP":
            value = f"IP:{ipaddress.ip_address(name)}"
    elif not value:
        raise ValueError("a common name is not empty")
    return value


def names_in(certificate: bytes) -> dict[str, set[str]]:
    """Every name by which a certificate (DER) can be known, by kind, in the form in which it is stored.

    A certificate with more than one common name has none: which one its authority looked at is anybody's guess.
    """
    parsed = x509.load_der_x509_certificate(certificate)
    common = parsed.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return {
        FINGERPRINT: {hashlib.sha256(certificate).hexdigest()},
        ALTERNATIVE_NAME: _alternative_names(parsed),
        COMMON_NAME: {str(common[0].value)} if len(common) == 1 else set(),
    }


def _alternative_names(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {
        *(f"DNS:{name.lower()}" for name in names.get_values_for_type(x509.DNSName)),
        *(f"URI:{name}" for name in names.get_values_for_type(x509.UniformResourceIdentifier)),
        *(f"IP:{name}" for name in names.get_values_for_type(x509.IPAddress)),
        *(f"email:{name}" for name in names.get_values_for_type(x509.RFC822Name)),
    }


def fingerprint_in(pem: bytes) -> str:
    """The fingerprint of the first certificate in a PEM file. Raises ValueError if there is none."""
    certificate = x509.load_pem_x509_certificates(pem)[0]
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


class Holder(NamedTuple):
    """A device, and a credential of it, valid or not."""

    credential: str
    """For a log: "token …0hdL", "certificate (cn sensor-7)"."""
    valid_until: datetime | None
    """None: without an end."""
    device_id: int
    name: str
    enabled: bool
    profile: str
    end: str = "was revoked"
    """What happened at `valid_until`, for a log."""


HOLDER_FIELDS: Final = ("device_id", "device__name", "device__enabled", "device__type__profile")
"""The fields of a Holder about its device, as they are named in queries."""


def holders_of(certificates: Mapping[K, bytes]) -> dict[K, Holder | str]:
    """The holders of certificates (DER), by the keys of the argument; or for the log, why one is no device's.

    A certificate is known by its fingerprint, else by its alternative names, else by its common name, of those that are
    not revoked. It is nobody's if its alternative names are those of several devices.
    """
    found: dict[K, Holder | str] = {}
    names: dict[K, list[tuple[str, str]]] = {}
    for key, certificate in certificates.items():
        try:
            names[key] = [(kind, value) for kind, values in names_in(certificate).items() for value in sorted(values)]
        except ValueError as error:
            found[key] = f"the certificate cannot be read: {error}"
    wanted: dict[str, set[str]] = {}
    for kind, value in itertools.chain.from_iterable(names.values()):
        if "\0" not in value:  # which PostgreSQL does not take
            wanted.setdefault(kind, set()).add(value)
    holders: dict[tuple[str, str], list[Holder]] = {}
    if wanted:
        chosen = functools.reduce(operator.or_, (Q(kind=kind, value__in=values) for kind, values in wanted.items()))
        rows = CertificateName.objects.filter(chosen).order_by("pk")
        for kind, value, revoked_at, *device in rows.values_list("kind", "value", "revoked_at", *HOLDER_FIELDS):
            holder = Holder(f"certificate ({kind} {printable(value)})", revoked_at, *device)
            holders.setdefault((kind, value), []).append(holder)
    return found | {key: _holder_by(names[key], holders) for key in names}


def _holder_by(names: list[tuple[str, str]], holders: Mapping[tuple[str, str], list[Holder]]) -> Holder | str:
    known = {kind: [one for name in names if name[0] == kind for one in holders.get(name, ())] for kind in _ORDER}
    for kind in _ORDER:
        devices = {holder.device_id: holder for holder in known[kind] if holder.valid_until is None}
        if len(devices) > 1:
            whose = " and ".join(f"{printable(holder.name)} ({device_id})" for device_id, holder in devices.items())
            return f"the certificate has names of {whose}"
        if devices:
            return devices.popitem()[1]
    revoked = [holder for kind in _ORDER for holder in known[kind]]
    if revoked:
        return max(revoked, key=_valid_until)
    described = ", ".join(f"{kind} {printable(value)}" for kind, value in names if kind != FINGERPRINT) or "it has none"
    return f"no device has a certificate of these names: {described[:_MAX_DESCRIBED]}"


def _valid_until(holder: Holder) -> datetime:
    assert holder.valid_until is not None
    return holder.valid_until


def free_name(kind: str, value: str) -> str:
    """The name in the form in which it is stored. Raises ValueError for one that no certificate has, or that is
    trusted for some device already."""
    value = normalized(kind, value)
    taken = CertificateName.objects.filter(kind=kind, value=value, revoked_at=None).select_related("device").first()
    if taken is not None:
        raise ValueError(f"{taken} is trusted for {taken.device} already")
    return value


@transaction.atomic
def trust(device: Device, kind: str, value: str) -> CertificateName:
    """Trusts certificates of this name as credentials of `device`. Raises ValueError as `free_name` does."""
    return CertificateName.objects.create(device=device, kind=kind, value=free_name(kind, value))
