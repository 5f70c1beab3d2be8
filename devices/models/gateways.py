"""The gateway processes that run."""

import uuid

from django.db import models
from django.db.models.functions import Now

HEARTBEAT_INTERVAL_S = 5
HEARTBEAT_TIMEOUT_MS = 15_000


class GatewayInstance(models.Model):
    """A running gateway process. It lives while its heartbeat is younger than HEARTBEAT_TIMEOUT_MS by DatabaseNow.

    That clock may be set. Each process notices and beats at once; the row of a dead process with a time in the future
    is deleted by the others, which see that it does not change: devices.presence.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    started_at = models.DateTimeField(db_default=Now())
    heartbeat_ms = models.BigIntegerField()

    def __str__(self) -> str:
        return str(self.uuid)
