"""What devices are asked to do."""

import uuid

from django.db import models

from devices.models.devices import Device
from devices.models.gateways import GatewayInstance
from devices.values import name_text


class Command(models.Model):
    """What a device was asked to do, and what became of it. devices.commands writes it, each change of state by one
    function. Its number is the request's identifier that the device sees."""

    class State(models.TextChoices):
        """Where a command is on its way: devices.commands.TRANSITIONS says what may follow what."""

        QUEUED = "queued", "queued: waits for its device"
        SENT = "sent", "sent: the device has not acknowledged it yet"
        DELIVERED = "delivered", "delivered: the device has acknowledged it"
        ANSWERED = "answered", "answered"
        EXPIRED = "expired", "expired: its time was over"
        FAILED = "failed", "failed: the device has refused it, or cannot be sent it"
        CANCELLED = "cancelled", "cancelled by a person"

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="commands")
    method = models.CharField(max_length=255)
    params_json = models.TextField()
    one_way = models.BooleanField(default=False)
    state = models.CharField(max_length=9, choices=State, default=State.QUEUED)
    idempotency_key = models.CharField(max_length=100, null=True)  # noqa: DJ001  # null is unlike every other null
    created_by = models.CharField(max_length=150, blank=True)
    created_at_ms = models.BigIntegerField()
    expires_at_ms = models.BigIntegerField()
    sent_at_ms = models.BigIntegerField(null=True)
    delivered_at_ms = models.BigIntegerField(null=True)
    finished_at_ms = models.BigIntegerField(null=True)
    attempts = models.IntegerField(default=0)
    # Without a constraint: a gateway that was taken for dead by mistake goes on, and the row of one that is dead is
    # deleted. Null where nobody is to send the command again.
    sent_by = models.ForeignKey(
        GatewayInstance, on_delete=models.DO_NOTHING, null=True, db_constraint=False, related_name="+"
    )
    answer_json = models.TextField(null=True)  # noqa: DJ001  # null is "none", which no JSON is
    error = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ("pk",)
        constraints = (
            models.UniqueConstraint(fields=["device", "idempotency_key"], name="command_of_idempotency_key"),
        )
        indexes = (
            models.Index(fields=["device", "id"], condition=models.Q(finished_at_ms=None), name="command_unfinished"),
            models.Index(fields=["sent_by"], condition=models.Q(state="sent"), name="command_sent"),
            models.Index(fields=["expires_at_ms"], condition=models.Q(finished_at_ms=None), name="command_to_expire"),
        )

    def __str__(self) -> str:
        return f"{name_text(self.method)} {self.uuid}"
