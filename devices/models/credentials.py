"""What devices log in with."""

from django.db import models

from devices.models.devices import Device


class Credential(models.Model):
    """An access token of a device, of which only the SHA-256 is kept."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="credentials")
    token_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(max_length=4, editable=False, help_text="The last characters of the token.")
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return f"…{self.hint}"


class CertificateName(models.Model):
    """A name in client certificates that are trusted as credentials of a device: see devices.client_certificates."""

    class Kind(models.TextChoices):
        """Where in a certificate the name is."""

        FINGERPRINT = "fingerprint", "SHA-256 fingerprint"
        ALTERNATIVE_NAME = "san", "subject alternative name"
        COMMON_NAME = "cn", "common name"

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="certificate_names")
    kind = models.CharField(max_length=11, choices=Kind)
    value = models.CharField(max_length=255, help_text='As openssl writes it: "AB:CD:...", "DNS:sensor-7", "sensor-7".')
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("-created_at",)
        constraints = (
            models.UniqueConstraint(
                fields=["kind", "value"], condition=models.Q(revoked_at=None), name="certificate_name_of_one_device"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"
