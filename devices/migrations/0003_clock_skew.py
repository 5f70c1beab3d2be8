"""By how much a device's clock is ahead."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("gateway_devices", "0002_certificate_names"),
    ]

    operations = [
        migrations.AddField(
            model_name="device",
            name="clock_skew_ms",
            field=models.BigIntegerField(
                editable=False,
                help_text="By how much its times are ahead of the gateway's clock, if that is more than is allowed.",
                null=True,
            ),
        ),
    ]
