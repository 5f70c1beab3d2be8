"""Claiming: a device opens itself for a while, and the person who knows its name and the secret becomes its owner.

The secret is kept as an HMAC with the key of this installation: people print short ones on labels, which nobody shall
find out from a copy of the database. An offer ends with its time, with a claim, and with the fifth wrong secret.
"""

from typing import Any, Final

from django.db import transaction
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from devices.device_lock import lock_device
from devices.models import ClaimOffer, Device, now_ms
from gateway.exceptions import GatewayError

DEFAULT_DURATION_MS: Final = 86_400_000
"""A day, as at ThingsBoard."""
MAX_WRONG_SECRETS: Final = 5


class ClaimError(GatewayError):
    """Raised when a person cannot claim a device. The text does not tell which devices there are, or are open."""


def open_for_claiming(device_id: int, secret: str, duration_ms: int | None = None) -> None:
    """Offers a device to who knows the secret; an earlier offer of it ends. Raises UnknownDeviceError."""
    until = now_ms() + (DEFAULT_DURATION_MS if duration_ms is None else duration_ms)
    with transaction.atomic():
        lock_device(device_id)
        ClaimOffer.objects.update_or_create(
            device_id=device_id,
            defaults={"secret_hmac": _hmac(secret), "expires_at_ms": until, "wrong_secrets": 0},
        )


def claim(name: str, secret: str, user: Any) -> Device:
    """Makes `user` the owner of the device, and returns it. Raises ClaimError."""
    with transaction.atomic():
        device = Device.objects.select_for_update(no_key=True).filter(name=name, enabled=True).first()
        if device is not None and _accepts(device, secret):
            if device.claimed_by_id is not None:
                raise ClaimError(f"{device} has an owner already")
            device.claimed_by, device.claimed_at = user, timezone.now()
            device.save(update_fields=["claimed_by", "claimed_at"])
            ClaimOffer.objects.filter(device=device).delete()
            return device
    raise ClaimError("there is no such device that can be claimed now with this secret")


def release(device: Device) -> None:
    """Takes the owner from a device, so that it can be claimed again."""
    Device.objects.filter(pk=device.pk).update(claimed_by=None, claimed_at=None)


def _accepts(device: Device, secret: str) -> bool:
    """Whether the offer of the device is open to this secret. One that is wrong counts."""
    offer = ClaimOffer.objects.filter(device=device, expires_at_ms__gt=now_ms()).first()
    if offer is None or offer.wrong_secrets >= MAX_WRONG_SECRETS:
        return False
    if constant_time_compare(offer.secret_hmac, _hmac(secret)):
        return True
    offer.wrong_secrets += 1
    offer.save(update_fields=["wrong_secrets"])
    return False


def _hmac(secret: str) -> str:
    return salted_hmac("devices.claims", secret, algorithm="sha256").hexdigest()
