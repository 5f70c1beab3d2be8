import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("gateway_devices", "0007_disconnect_orders"),
    ]

    operations = [
        migrations.CreateModel(
            name="RecordedRefusal",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("claimed", models.CharField(blank=True, help_text="Who the client says it is.", max_length=200)),
                ("wire", models.CharField(max_length=20)),
                ("address", models.CharField(blank=True, db_index=True, max_length=50)),
                ("kind", models.CharField(max_length=50)),
                ("what", models.CharField(max_length=300)),
                ("code", models.IntegerField(help_text="The reason code of MQTT, the status of HTTP.")),
                ("reason", models.CharField(max_length=500)),
                ("sample", models.BinaryField(default=b"", max_length=200)),
                ("sample_start", models.IntegerField(default=0)),
                ("fault", models.IntegerField(help_text="At which byte of the message the fault is.", null=True)),
                ("at_ms", models.BigIntegerField()),
                (
                    "device",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="refusals",
                        to="gateway_devices.device",
                    ),
                ),
            ],
            options={
                "ordering": ("-pk",),
                "indexes": [models.Index(fields=["device", "id"], name="refusal_of_device")],
            },
        ),
    ]
