"""What devices log in with."""

from django.db import models
from django.db.models import Q
from django.utils import timezone

from devices.models.devices import Device


def valid() -> Q:
    """The condition of the credentials, of any kind, that let their device in now."""
    return Q(revoked_at=None) | Q(revoked_at__gt=timezone.now())


class DeviceCredential(models.Model):
    """The base of what a device logs in with. It is revoked, not deleted, so that the log can say what became of it."""

    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, editable=False)
    """From when on it is not valid: a time to come while a newer one overlaps with it."""

    class Meta:
        abstract = True
        ordering = ("-created_at",)

    @property
    def is_valid(self) -> bool:
        """Whether it lets the device in now."""
        return self.revoked_at is None or self.revoked_at > timezone.now()

    @property
    def state(self) -> str:
        """For people: "valid", "valid until 2026-11-28 12:00:00 UTC", "revoked 2026-11-28 12:00:00 UTC"."""
        if self.revoked_at is None:
            return "valid"
        return f"{'valid until' if self.is_valid else 'revoked'} {self.revoked_at:%Y-%m-%d %H:%M:%S} UTC"


class Credential(DeviceCredential):
    """An access token of a device, of which only the SHA-256 is kept."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="credentials")
    token_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(max_length=4, editable=False, help_text="The last characters of the token.")

    def __str__(self) -> str:
        return f"…{self.hint}"


class PasswordLogin(DeviceCredential):
    """A user name and a password of a device, which is kept as Django hashes it: see devices.password_logins."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="password_logins")
    username = models.CharField(max_length=255)
    client_id = models.CharField(max_length=255, blank=True, help_text="The MQTT client identifier, if only with it.")
    password = models.CharField(max_length=128, editable=False)

    class Meta(DeviceCredential.Meta):
        abstract = False
        constraints = (
            models.UniqueConstraint(
                fields=["username", "client_id"], condition=models.Q(revoked_at=None), name="user_name_of_one_device"
            ),
        )

    def __str__(self) -> str:
        return f"{self.username} as {self.client_id}" if self.client_id else self.username


class CertificateName(DeviceCredential):
    """A name in client certificates that are trusted as credentials of a device: see devices.client_certificates."""

    class Kind(models.TextChoices):
        """Where in a certificate the name is."""

        FINGERPRINT = "fingerprint", "SHA-256 fingerprint"
        ALTERNATIVE_NAME = "san", "subject alternative name"
        COMMON_NAME = "cn", "common name"

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="certificate_names")
    kind = models.CharField(max_length=11, choices=Kind)
    value = models.CharField(max_length=255, help_text='As openssl writes it: "AB:CD:...", "DNS:sensor-7", "sensor-7".')

    class Meta(DeviceCredential.Meta):
        abstract = False
        constraints = (
            models.UniqueConstraint(
                fields=["kind", "value"], condition=models.Q(revoked_at=None), name="certificate_name_of_one_device"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"
