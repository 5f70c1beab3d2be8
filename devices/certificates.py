"""Client certificates as credentials: which names of a certificate make its holder which device.

That a certificate is genuine, valid and not on a revocation list, TLS has seen to before anything here is asked.
"""

import hashlib
import ipaddress
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from django.db import transaction

from devices.models import CertificateName, Device

FINGERPRINT: Final = CertificateName.Kind.FINGERPRINT
ALTERNATIVE_NAME: Final = CertificateName.Kind.ALTERNATIVE_NAME
COMMON_NAME: Final = CertificateName.Kind.COMMON_NAME

_PREFIXES: Final = ("DNS:", "URI:", "IP:", "email:")
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


def device_of(certificate: bytes) -> Device | None:
    """The enabled device whose certificate (DER) this is: by its fingerprint, else by its alternative names, else by
    its common name. None if there is none, or if alternative names are those of several devices."""
    names = names_in(certificate)
    for kind in (FINGERPRINT, ALTERNATIVE_NAME, COMMON_NAME):
        known = CertificateName.objects.filter(kind=kind, value__in=names[kind], revoked_at=None)
        devices = {name.device_id: name.device for name in known.select_related("device__type")}
        if devices:
            device = devices.popitem()[1]
            return device if not devices and device.enabled else None
    return None


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
    """Lets whoever has a certificate of this name in as `device`. Raises ValueError as `free_name` does."""
    return CertificateName.objects.create(device=device, kind=kind, value=free_name(kind, value))
