"""The peer's table."""

from django.db import models


class Reading(models.Model):
    """A value. The index is what a chart needs."""

    device = models.CharField(max_length=50)
    key = models.CharField(max_length=50)
    ts = models.BigIntegerField()
    value = models.FloatField()

    class Meta:
        app_label = "peers"
        indexes = (models.Index(fields=["device", "key", "ts"], name="device_key_ts"),)

    def __str__(self):
        return f"{self.device} {self.key} {self.ts}"
