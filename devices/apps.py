"""The app, under the label that its tables and migrations have had from the first one on."""

from typing import Final

from django.apps import AppConfig

WHY_RESERVED: Final = (
    "each device subscribes to the same topics of the device API, so every device would get it; devices.commands.send"
    " gives one device a command, devices.attributes.set_attributes tells it of an attribute"
)
"""Why `gateway.mqtt.publish` takes no topics of devices."""


class DevicesConfig(AppConfig):
    """The devices app."""

    name = "devices"
    label = "gateway_devices"
    verbose_name = "Devices"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connects the signals, reserves the topics of devices, and keeps their tokens out of the log."""
        from django.db.models.signals import pre_delete

        from devices.credentials import disconnect_deleted
        from devices.deletion import follow_deleted
        from devices.profiles import reserved_topics
        from gateway.mqtt import reserve_topics
        from protocols.masking import hide_behind

        pre_delete.connect(disconnect_deleted, sender="gateway_devices.Device", dispatch_uid="disconnect_deleted")
        pre_delete.connect(follow_deleted, sender="gateway_devices.Device", dispatch_uid="follow_deleted")
        for prefix in reserved_topics():
            reserve_topics(prefix, WHY_RESERVED)
        hide_behind(r"api/v\d+")  # /api/v1/TOKEN/telemetry, however it is spelled
