"""Attributes of devices, and commands to them."""

import uuid

import django.db.models.deletion
import django.db.models.manager
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("gateway_devices", "0008_refusals"),
    ]

    operations = [
        migrations.CreateModel(
            name="Attribute",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "scope",
                    models.CharField(
                        choices=[
                            ("client", "client: the device reports it"),
                            ("shared", "shared: people set it, the device is told"),
                            ("server", "server: people set it, the device never sees it"),
                        ],
                        max_length=6,
                    ),
                ),
                ("key", models.CharField(max_length=255)),
                ("value_json", models.TextField(null=True)),
                ("size_bytes", models.IntegerField()),
                ("version", models.BigIntegerField()),
                ("changed_at_ms", models.BigIntegerField()),
                ("changed_by", models.CharField(blank=True, max_length=150)),
                ("is_told", models.BooleanField(default=True)),
                (
                    "device",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="attributes",
                        to="gateway_devices.device",
                    ),
                ),
            ],
            options={
                "base_manager_name": "with_deleted",
                "indexes": [
                    models.Index(condition=models.Q(("is_told", False)), fields=["device"], name="attribute_not_told")
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("device", "scope", "key"), name="attribute_of_device_and_key")
                ],
            },
            managers=[
                ("objects", django.db.models.manager.Manager()),
                ("with_deleted", django.db.models.manager.Manager()),
            ],
        ),
        migrations.CreateModel(
            name="Command",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("uuid", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("method", models.CharField(max_length=255)),
                ("params_json", models.TextField()),
                ("one_way", models.BooleanField(default=False)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("queued", "queued: waits for its device"),
                            ("sent", "sent: the device has not acknowledged it yet"),
                            ("delivered", "delivered: the device has acknowledged it"),
                            ("answered", "answered"),
                            ("expired", "expired: its time was over"),
                            ("failed", "failed: the device has refused it, or cannot be sent it"),
                            ("cancelled", "cancelled by a person"),
                        ],
                        default="queued",
                        max_length=9,
                    ),
                ),
                ("idempotency_key", models.CharField(max_length=100, null=True)),
                ("created_by", models.CharField(blank=True, max_length=150)),
                ("created_at_ms", models.BigIntegerField()),
                ("expires_at_ms", models.BigIntegerField()),
                ("sent_at_ms", models.BigIntegerField(null=True)),
                ("delivered_at_ms", models.BigIntegerField(null=True)),
                ("finished_at_ms", models.BigIntegerField(null=True)),
                ("attempts", models.IntegerField(default=0)),
                ("answer_json", models.TextField(null=True)),
                ("error", models.CharField(blank=True, max_length=200)),
                (
                    "device",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="commands",
                        to="gateway_devices.device",
                    ),
                ),
                (
                    "sent_by",
                    models.ForeignKey(
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="gateway_devices.gatewayinstance",
                    ),
                ),
            ],
            options={
                "ordering": ("pk",),
                "indexes": [
                    models.Index(
                        condition=models.Q(("finished_at_ms", None)), fields=["device", "id"], name="command_unfinished"
                    ),
                    models.Index(
                        condition=models.Q(("finished_at_ms", None)), fields=["expires_at_ms"], name="command_to_expire"
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("device", "idempotency_key"), name="command_of_idempotency_key")
                ],
            },
        ),
    ]
