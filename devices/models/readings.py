"""Readings, and the latest value of each key. Only devices.ingest writes them, without the ORM."""

from django.db import models
from django.db.models import F

from devices.limits import configured
from devices.models.devices import Device
from devices.values import name_text


class Key(models.Model):
    """The name of a telemetry key; readings refer to it by number, which keeps them small."""

    name = models.CharField(max_length=255, unique=True)

    def __str__(self) -> str:
        return name_text(self.name)


class StoredValue(models.Model):
    """A value with its times. `number` is what charts draw (true is 1, false 0); `text` is the JSON of a value which
    a double cannot hold exactly: a string, bool, object, array or big integer, and is null for other numbers."""

    # There are no foreign key constraints: a device may be deleted while readings of it wait to be written, and such a
    # row must not fail the commit of all others.
    ts = models.BigIntegerField()
    received = models.BigIntegerField()
    number = models.FloatField(null=True)
    text = models.TextField(null=True)  # noqa: DJ001  # null is "a plain number", which "" is not

    class Meta:
        abstract = True


class Reading(StoredValue):
    """One value of one key at one time. `seq` distinguishes readings of the same `ts`: see devices.ingest."""

    pk = models.CompositePrimaryKey("device_id", "key_id", "ts", "seq")
    # Readings and latest values follow a device that is deleted by and by: see devices.deletion.
    device = models.ForeignKey(Device, models.DO_NOTHING, related_name="+", db_index=False, db_constraint=False)
    key = models.ForeignKey(Key, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False)
    seq = models.IntegerField()

    class Meta:
        ordering = ("-ts",)

    def __str__(self) -> str:
        return f"{self.device_id} {self.key_id} {self.ts}"


class LatestValueManager(models.Manager["LatestValue"]):
    """Leaves out values of a time too far ahead, which are there only while the device has no other of the key."""

    def get_queryset(self) -> "models.QuerySet[LatestValue]":
        """The values to be shown."""
        return super().get_queryset().filter(ts__lte=F("received") + configured().max_clock_skew_ms)


class LatestValue(StoredValue):
    """The latest value of each key of a device: devices.writers.base says which that is.

    There is a row for each device and key of which there are readings.
    """

    device = models.ForeignKey(
        Device, on_delete=models.DO_NOTHING, related_name="latest_values", db_index=False, db_constraint=False
    )
    # This one has a constraint: whoever writes a key that nobody has any more, so that its number was given up, finds
    # that out by it. It costs nothing where the row is there already.
    key = models.ForeignKey(Key, on_delete=models.PROTECT, related_name="+")

    objects = LatestValueManager()
    with_future = models.Manager["LatestValue"]()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["device", "key"], name="latest_value_of_device_and_key"),)

    def __str__(self) -> str:
        return f"{self.device_id} {self.key_id}"
