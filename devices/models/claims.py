"""Devices that may be claimed."""

from django.db import models

from devices.models.devices import Device


class ClaimOffer(models.Model):
    """A device has opened itself for claiming: who knows the secret becomes its owner. devices.claims writes it."""

    device = models.OneToOneField(Device, on_delete=models.CASCADE, related_name="claim_offer")
    secret_hmac = models.CharField(max_length=64, editable=False)
    expires_at_ms = models.BigIntegerField()
    wrong_secrets = models.PositiveSmallIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.device_id}"
