"""Who is to look at what waits for devices."""

from django.db import models

from devices.models.devices import Device


class DownlinkNotice(models.Model):
    """A notice to every gateway process that something waits for a device: see devices.downlink_notices."""

    device = models.ForeignKey(
        Device, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )

    def __str__(self) -> str:
        return f"something waits for {self.device_id}"
