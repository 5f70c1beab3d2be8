"""Provisioning: a device that has the key and the secret of its type gets a credential of its own, once.

The type says whether a device is made by that (CREATE) or has to be there already (IMPORTED), without having had any
credential: a name that ever had one is used. So who knows the secret cannot take over a device, nor can one whose
credential was revoked let itself in again.
"""

import secrets
from typing import Final

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils.crypto import constant_time_compare

from devices.client_certificates import FINGERPRINT, trust
from devices.credentials import UsedNameError, hash_of, issue, issue_password
from devices.limits import configured
from devices.models import Device, DeviceType
from devices.profiles.provisioning import Provisioned, ProvisionRequest
from devices.refusals import ProvisioningRefusal, RefusedError

Strategy = DeviceType.ProvisioningStrategy

KEY_BYTES: Final = 15
SECRET_BYTES: Final = 24
NAME_BYTES: Final = 10
"""Of the random part of a name that is made here."""


class ProvisioningError(RefusedError):
    """Raised when a device is not provisioned. The text is for the operator: the device is told a status only."""


def enable(device_type: DeviceType, strategy: str) -> tuple[str, str]:
    """Makes a new key and secret for a type, in place of those that there were. The secret is not stored."""
    key, secret = secrets.token_urlsafe(KEY_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    device_type.provisioning_strategy = strategy
    device_type.provisioning_key = key
    device_type.provisioning_secret_sha256 = hash_of(secret)
    device_type.save(update_fields=["provisioning_strategy", "provisioning_key", "provisioning_secret_sha256"])
    return key, secret


def disable(device_type: DeviceType) -> None:
    """Provisions no device of this type any more."""
    device_type.provisioning_strategy = Strategy.OFF
    device_type.provisioning_key = None
    device_type.provisioning_secret_sha256 = ""
    device_type.save(update_fields=["provisioning_strategy", "provisioning_key", "provisioning_secret_sha256"])


def provision(request: ProvisionRequest) -> Provisioned:
    """Gives a device its first credential. Raises ProvisioningError; then nothing is done."""
    device_type = DeviceType.objects.filter(provisioning_key=_text(request.provision_device_key)).first()
    stored = "" if device_type is None else device_type.provisioning_secret_sha256
    is_right = constant_time_compare(stored, hash_of(request.provision_device_secret))
    if device_type is None or not is_right:
        raise ProvisioningError(ProvisioningRefusal.UNKNOWN, "no device type has this key and secret")
    try:
        with transaction.atomic():
            name = _text(request.device_name) or f"{device_type.name}-{secrets.token_hex(NAME_BYTES)}"
            return _issue(_device(device_type, name), request)
    except (ValidationError, ValueError) as error:
        why = " ".join(error.messages) if isinstance(error, ValidationError) else str(error)
        raise ProvisioningError(ProvisioningRefusal.CREDENTIAL, why) from None
    except (UsedNameError, IntegrityError):
        raise ProvisioningError(ProvisioningRefusal.CREDENTIAL, "the credential is in use already") from None


def _device(device_type: DeviceType, name: str) -> Device:
    device = Device.objects.select_for_update(no_key=True).filter(name=name).first()
    if device is not None:
        had = (device.credentials, device.password_logins, device.certificate_names)
        if device.type_id != device_type.pk or not device.enabled or any(each.exists() for each in had):
            raise ProvisioningError(ProvisioningRefusal.NAME, f"the name of {device} is used")
        return device
    if device_type.provisioning_strategy != Strategy.CREATE:
        raise ProvisioningError(ProvisioningRefusal.NAME, f"no device {name[:50]!r} was imported")
    most = configured().max_devices
    if most and Device.objects.count() >= most:
        raise ProvisioningError(ProvisioningRefusal.FULL, f"there are as many devices as max_devices allows: {most}")
    device = Device(name=name, type=device_type)
    device.clean_fields()
    try:
        with transaction.atomic():
            device.save()
    except IntegrityError:
        raise ProvisioningError(ProvisioningRefusal.NAME, f"the name {name[:50]!r} is used") from None
    return device


def _issue(device: Device, request: ProvisionRequest) -> Provisioned:
    kind = request.credentials_type
    if kind == "MQTT_BASIC":
        username, client_id = request.username or device.name, request.client_id or ""
        password = issue_password(device, _text(username), request.password or None, client_id=_text(client_id))
        return Provisioned(kind, {"clientId": client_id, "userName": username, "password": password})
    if kind == "X509_CERTIFICATE":
        if not request.hash:
            raise ValueError("there is no hash of a certificate")
        trust(device, FINGERPRINT, request.hash)
        return Provisioned(kind, request.hash)
    return Provisioned(kind, issue(device, request.token or None))


def _text(given: str) -> str:
    """Raises ProvisioningError for a text that PostgreSQL does not take."""
    if "\0" in given:
        raise ProvisioningError(ProvisioningRefusal.CREDENTIAL, "a NUL in a text")
    return given
