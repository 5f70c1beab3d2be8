"""Names in client certificates."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("gateway_devices", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="CertificateName",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("fingerprint", "SHA-256 fingerprint"),
                            ("san", "subject alternative name"),
                            ("cn", "common name"),
                        ],
                        max_length=11,
                    ),
                ),
                (
                    "value",
                    models.CharField(
                        help_text='As openssl writes it: "AB:CD:...", "DNS:sensor-7", "sensor-7".', max_length=255
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("revoked_at", models.DateTimeField(editable=False, null=True)),
                (
                    "device",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="certificate_names",
                        to="gateway_devices.device",
                    ),
                ),
            ],
            options={
                "ordering": ("-created_at",),
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("revoked_at", None)),
                        fields=("kind", "value"),
                        name="certificate_name_of_one_device",
                    )
                ],
            },
        ),
    ]
