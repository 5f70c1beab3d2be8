"""Facts about devices that are no readings."""

from django.db import models

from devices.models.devices import Device
from devices.values import name_text


class AttributeManager(models.Manager["Attribute"]):
    """Leaves out attributes that were deleted, which are there only until their device is told."""

    def get_queryset(self) -> "models.QuerySet[Attribute]":
        """Those that have a value."""
        return super().get_queryset().filter(value_json__isnull=False)


class Attribute(models.Model):
    """A fact about a device that is no reading: what it reports of itself, what it is to be, what people note.

    devices.attributes writes them. `is_told` is about shared ones: whether the device has had the value, or knows that
    the attribute was deleted.
    """

    class Scope(models.TextChoices):
        """Who writes an attribute, and who reads it."""

        CLIENT = "client", "client: the device reports it"
        SHARED = "shared", "shared: people set it, the device is told"
        SERVER = "server", "server: people set it, the device never sees it"

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="attributes")
    scope = models.CharField(max_length=6, choices=Scope)
    key = models.CharField(max_length=255)
    # Text, not JSONField: PostgreSQL's jsonb refuses texts with NUL, and forgets how a number was written.
    value_json = models.TextField(null=True)  # noqa: DJ001  # null is "deleted", which no JSON is
    size_bytes = models.IntegerField()
    version = models.BigIntegerField()
    changed_at_ms = models.BigIntegerField()
    changed_by = models.CharField(max_length=150, blank=True)
    is_told = models.BooleanField(default=True)

    objects = AttributeManager()
    with_deleted = models.Manager["Attribute"]()

    class Meta:
        base_manager_name = "with_deleted"
        constraints = (models.UniqueConstraint(fields=["device", "scope", "key"], name="attribute_of_device_and_key"),)
        indexes = (models.Index(fields=["device"], condition=models.Q(is_told=False), name="attribute_not_told"),)

    def __str__(self) -> str:
        return f"{self.scope} {name_text(self.key)}"
