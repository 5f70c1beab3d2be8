"""A latest value has a key that is there."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("gateway_devices", "0003_clock_skew"),
    ]

    operations = [
        migrations.AlterField(
            model_name="latestvalue",
            name="key",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="gateway_devices.key"
            ),
        ),
    ]
