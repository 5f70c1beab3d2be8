"""Notices that something waits for a device, and who has sent a command."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("gateway_devices", "0010_claims"),
    ]

    operations = [
        migrations.CreateModel(
            name="DownlinkNotice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "device",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="gateway_devices.device",
                    ),
                ),
            ],
        ),
        migrations.AlterField(
            model_name="command",
            name="sent_by",
            field=models.ForeignKey(
                db_constraint=False,
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="+",
                to="gateway_devices.gatewayinstance",
            ),
        ),
        migrations.AddIndex(
            model_name="command",
            index=models.Index(condition=models.Q(("state", "sent")), fields=["sent_by"], name="command_sent"),
        ),
    ]
