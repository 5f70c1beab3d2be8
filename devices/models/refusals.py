"""What devices, and clients that may be some, were refused."""

from django.db import models

from devices.models.devices import Device
from devices.refusals import SAMPLE_BYTES
from protocols.masking import printable


class RecordedRefusal(models.Model):
    """What a device, or a client that may be one, was refused: the last ones of each, see devices.refusal_recorder."""

    # Without a constraint: a device may be deleted while a refusal of it waits to be written.
    device = models.ForeignKey(
        Device, on_delete=models.CASCADE, null=True, related_name="refusals", db_index=False, db_constraint=False
    )
    claimed = models.CharField(max_length=200, blank=True, help_text="Who the client says it is.")
    wire = models.CharField(max_length=20)
    address = models.CharField(max_length=50, blank=True, db_index=True)
    kind = models.CharField(max_length=50)
    what = models.CharField(max_length=300)
    code = models.IntegerField(help_text="The reason code of MQTT, the status of HTTP.")
    reason = models.CharField(max_length=500)
    sample = models.BinaryField(max_length=SAMPLE_BYTES, default=b"")
    sample_start = models.IntegerField(default=0)
    fault = models.IntegerField(null=True, help_text="At which byte of the message the fault is.")
    at_ms = models.BigIntegerField()

    class Meta:
        ordering = ("-pk",)
        indexes = (models.Index(fields=["device", "id"], name="refusal_of_device"),)

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"

    @property
    def shown_code(self) -> str:
        """The code as its wire writes it: 0x99, 400."""
        return f"{self.code:#04x}" if self.wire.startswith("mqtt") else str(self.code)

    @property
    def shown_sample(self) -> str:
        """What was sent, as a person reads it, with marks where it was cut and before the byte of the fault."""
        sample, at = bytes(self.sample), -1 if self.fault is None else self.fault - self.sample_start
        parts = (sample[:at], sample[at:]) if 0 <= at <= len(sample) else (sample,)
        cut = len(sample) == SAMPLE_BYTES
        text = "▸".join("".join(map(printable, part.decode(errors="backslashreplace"))) for part in parts)
        return ("…" if self.sample_start else "") + text + ("…" if cut else "")
