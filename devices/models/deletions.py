"""Orders to delete readings."""

from django.conf import settings
from django.db import models

from devices.models.devices import Device
from devices.models.readings import Key
from devices.models.times import now_ms, shown_time

MAX_BIGINT = 2**63 - 1


class Deletion(models.Model):
    """An order to delete readings, and how far it has come: see devices.deletion.

    It outlives the device: the deletion of a device is such an order, too.
    """

    device = models.ForeignKey(Device, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    device_name = models.CharField("device", max_length=200)
    key = models.ForeignKey(Key, on_delete=models.DO_NOTHING, db_constraint=False, null=True, related_name="+")
    key_name = models.CharField("key", max_length=255, blank=True)
    since_ms = models.BigIntegerField(null=True)
    until_ms = models.BigIntegerField(null=True)
    received_until_ms = models.BigIntegerField(null=True)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    requested_at = models.DateTimeField(auto_now_add=True)
    next_key_id = models.BigIntegerField(default=0)
    next_ts = models.BigIntegerField(null=True)
    deleted = models.BigIntegerField("readings deleted", default=0)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        what = f"{self.key_name} of {self.device_name}" if self.key_name else f"all keys of {self.device_name}"
        since, until = (None if ms is None else shown_time(ms) for ms in (self.since_ms, self.until_ms))
        return what + (f" from {since}" if since else "") + (f" until {until}" if until else "")

    @classmethod
    def of(
        cls, device: Device, key: Key | None, since_ms: int | None, until_ms: int | None, user_id: int | None
    ) -> "Deletion":
        """An order, not saved yet, for what has been received by now: see devices.deletion.delete_readings."""
        return cls(
            device=device,
            device_name=device.name,
            key=key,
            key_name="" if key is None else key.name,
            since_ms=since_ms,
            until_ms=until_ms,
            received_until_ms=now_ms(),
            requested_by_id=user_id,
        )

    @property
    def since(self) -> int:
        """The first time that is deleted, in ms."""
        return -MAX_BIGINT if self.since_ms is None else self.since_ms

    @property
    def until(self) -> int:
        """The first time after it that is not, in ms."""
        return MAX_BIGINT if self.until_ms is None else self.until_ms

    @property
    def received_until(self) -> int:
        """What was received later is not deleted, in ms."""
        return MAX_BIGINT if self.received_until_ms is None else self.received_until_ms
