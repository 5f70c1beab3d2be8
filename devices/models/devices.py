"""Devices, their types, and which gateways they are connected to."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef

from devices.models.gateways import HEARTBEAT_TIMEOUT_MS, GatewayInstance
from devices.models.times import DatabaseNow
from devices.profiles import validate_profile
from devices.values import name_text


class DeviceType(models.Model):
    """A kind of device: which payload profile reads what it sends."""

    name = models.CharField(max_length=100, unique=True)
    profile = models.CharField(
        max_length=50,
        validators=[validate_profile],
        default="thingsboard",
        help_text="How the payloads of its devices are read.",
    )
    gateways_may_add = models.BooleanField(
        default=False, help_text="A gateway that speaks for a device that is not there adds it with this type."
    )

    class ProvisioningStrategy(models.TextChoices):
        """Which devices get a credential by the key and the secret of their type."""

        OFF = "off", "none"
        CREATE = "create", "any, which is made by that"
        IMPORTED = "imported", "those that are there and never had one"

    provisioning_strategy = models.CharField(
        max_length=8, choices=ProvisioningStrategy, default=ProvisioningStrategy.OFF, editable=False
    )
    provisioning_key = models.CharField(max_length=40, null=True, unique=True, editable=False)  # noqa: DJ001  # unique
    provisioning_secret_sha256 = models.CharField(max_length=64, blank=True, editable=False)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return name_text(self.name)


class DeviceQuerySet(models.QuerySet["Device"]):
    """Queries that the pages and the admin share."""

    def with_connected(self) -> "DeviceQuerySet":
        """Annotates `connected`: whether a gateway that lives has a connection of the device."""
        living = ConnectedDevice.objects.filter(
            device=OuterRef("pk"), instance__heartbeat_ms__gte=DatabaseNow() - HEARTBEAT_TIMEOUT_MS
        )
        return self.annotate(connected=Exists(living))


class Device(models.Model):
    """A device. Whether it is connected (`objects.with_connected`) and when data last came are two facts."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=200, unique=True)
    type = models.ForeignKey(DeviceType, on_delete=models.PROTECT, related_name="devices")
    enabled = models.BooleanField(default=True, help_text="A disabled device is refused, and cut off if connected.")
    is_gateway = models.BooleanField(default=False, help_text="It speaks for devices behind it, by v1/gateway/...")
    via = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="sub_devices",
        help_text="The gateway that the device is behind, which alone speaks for it.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    last_seen_ms = models.BigIntegerField(null=True, editable=False, db_index=True)
    clock_skew_ms = models.BigIntegerField(
        null=True,
        editable=False,
        help_text="By how much its times are ahead of the gateway's clock, if that is more than is allowed.",
    )
    disconnected_at_ms = models.BigIntegerField(null=True, editable=False)
    claimed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        editable=False,
        related_name="claimed_devices",
        help_text="Its owner: who has claimed it.",
    )
    claimed_at = models.DateTimeField(null=True, editable=False)

    objects = DeviceQuerySet.as_manager()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return name_text(self.name)


class ConnectedDevice(models.Model):
    """A device that has connections to a gateway process, which alone writes its rows: a device may be connected to
    several at once, as when it changes over, and nothing needs to tell which connection is the newest."""

    # Without a constraint, or writing a row would wait for whoever has locked that of the device.
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="+", db_constraint=False)
    instance = models.ForeignKey(GatewayInstance, on_delete=models.CASCADE, related_name="connected_devices")
    since_ms = models.BigIntegerField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["device", "instance"], name="connected_device_of_instance"),)

    def __str__(self) -> str:
        return f"{self.device_id} {self.instance_id}"


class DisconnectOrder(models.Model):
    """An order to every gateway process to close a device's connections and forget its cached credentials.

    It outlives the device: the deletion of a device is such an order, too.
    """

    device = models.ForeignKey(Device, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    reason = models.CharField(max_length=100)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.device_id}: {self.reason}"
