"""The tables: devices and their credentials, readings, and which gateway each device is connected to.

Times are integer milliseconds UTC where devices are concerned (`_ms`, `ts`, `received`) and datetimes where people are.
Only devices.ingest writes readings and latest values, without the ORM; the ORM writes everything else.
"""

import time
import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Exists, F, OuterRef
from django.db.models.functions import Now

from devices.limits import configured
from devices.profiles import validate_profile
from devices.refusals import SAMPLE_BYTES
from devices.values import instant, name_text
from protocols.masking import printable

MAX_BIGINT = 2**63 - 1
HEARTBEAT_INTERVAL_S = 5
HEARTBEAT_TIMEOUT_MS = 15_000


def now_ms() -> int:
    """The current time, as it is stored."""
    return time.time_ns() // 1_000_000


def shown_time(ms: int) -> str:
    """A time as people read it, to the second."""
    at = instant(ms)
    return f"{ms} ms" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


class DeviceType(models.Model):
    """A kind of device: which payload profile reads what it sends."""

    name = models.CharField(max_length=100, unique=True)
    profile = models.CharField(
        max_length=50,
        validators=[validate_profile],
        default="thingsboard",
        help_text="How the payloads of its devices are read.",
    )

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return name_text(self.name)


class DatabaseNow(models.Func):
    """The time (ms) by the clock that all gateways share: that of PostgreSQL, or of the machine with the file."""

    output_field = models.BigIntegerField()

    def as_sqlite(self, *args: Any, **kwargs: Any) -> tuple[str, tuple[int, ...]]:
        """This process's clock, which is every other's, too."""
        return "%s", (now_ms(),)

    def as_postgresql(self, *args: Any, **kwargs: Any) -> tuple[str, tuple[int, ...]]:
        """The server's clock at the beginning of the statement."""
        return "(extract(epoch FROM statement_timestamp()) * 1000)::bigint", ()


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
    created_at = models.DateTimeField(auto_now_add=True)
    last_seen_ms = models.BigIntegerField(null=True, editable=False, db_index=True)
    clock_skew_ms = models.BigIntegerField(
        null=True,
        editable=False,
        help_text="By how much its times are ahead of the gateway's clock, if that is more than is allowed.",
    )
    disconnected_at_ms = models.BigIntegerField(null=True, editable=False)

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


class Credential(models.Model):
    """An access token of a device, of which only the SHA-256 is kept."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="credentials")
    token_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(max_length=4, editable=False, help_text="The last characters of the token.")
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return f"…{self.hint}"


class CertificateName(models.Model):
    """A name in client certificates that are trusted as credentials of a device: see devices.client_certificates."""

    class Kind(models.TextChoices):
        """Where in a certificate the name is."""

        FINGERPRINT = "fingerprint", "SHA-256 fingerprint"
        ALTERNATIVE_NAME = "san", "subject alternative name"
        COMMON_NAME = "cn", "common name"

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="certificate_names")
    kind = models.CharField(max_length=11, choices=Kind)
    value = models.CharField(max_length=255, help_text='As openssl writes it: "AB:CD:...", "DNS:sensor-7", "sensor-7".')
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("-created_at",)
        constraints = (
            models.UniqueConstraint(
                fields=["kind", "value"], condition=models.Q(revoked_at=None), name="certificate_name_of_one_device"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


class DisconnectOrder(models.Model):
    """An order to every gateway process to close a device's connections and forget its cached credentials.

    It outlives the device: the deletion of a device is such an order, too.
    """

    device = models.ForeignKey(Device, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    reason = models.CharField(max_length=100)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.device_id}: {self.reason}"


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
    # Without a constraint: a gateway that was taken for dead by mistake goes on. Null where it is gone.
    sent_by = models.ForeignKey(
        GatewayInstance, on_delete=models.SET_NULL, null=True, db_constraint=False, related_name="+"
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
            models.Index(fields=["expires_at_ms"], condition=models.Q(finished_at_ms=None), name="command_to_expire"),
        )

    def __str__(self) -> str:
        return f"{name_text(self.method)} {self.uuid}"
