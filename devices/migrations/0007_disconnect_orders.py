from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("gateway_devices", "0006_connected_devices"),
    ]

    operations = [
        migrations.RenameModel(old_name="ConnectionCut", new_name="DisconnectOrder"),
    ]
