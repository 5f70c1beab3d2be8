"""Orders to delete readings; readings and latest values follow a device that is deleted."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("gateway_devices", "0004_latest_values_have_keys"),
    ]

    operations = [
        migrations.AlterField(
            model_name="reading",
            name="device",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="+",
                to="gateway_devices.device",
            ),
        ),
        migrations.AlterField(
            model_name="latestvalue",
            name="device",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="latest_values",
                to="gateway_devices.device",
            ),
        ),
        migrations.CreateModel(
            name="Deletion",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("device_name", models.CharField(max_length=200, verbose_name="device")),
                ("key_name", models.CharField(blank=True, max_length=255, verbose_name="key")),
                ("since_ms", models.BigIntegerField(null=True)),
                ("until_ms", models.BigIntegerField(null=True)),
                ("received_until_ms", models.BigIntegerField(null=True)),
                ("requested_at", models.DateTimeField(auto_now_add=True)),
                ("next_key_id", models.BigIntegerField(default=0)),
                ("next_ts", models.BigIntegerField(null=True)),
                ("deleted", models.BigIntegerField(default=0, verbose_name="readings deleted")),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "device",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="gateway_devices.device",
                    ),
                ),
                (
                    "key",
                    models.ForeignKey(
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="gateway_devices.key",
                    ),
                ),
                (
                    "requested_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ("-pk",),
            },
        ),
    ]
