"""The app, under the label that its tables and migrations have had from the first one on."""

from django.apps import AppConfig


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
        from devices.topics import DEVICE_TOPICS, DEVICE_TOPICS_RESERVED
        from gateway.mqtt import reserve_topics
        from protocols.masking import hide_behind

        pre_delete.connect(disconnect_deleted, sender="gateway_devices.Device", dispatch_uid="disconnect_deleted")
        pre_delete.connect(follow_deleted, sender="gateway_devices.Device", dispatch_uid="follow_deleted")
        for prefix in DEVICE_TOPICS:
            reserve_topics(prefix, DEVICE_TOPICS_RESERVED)
        hide_behind(r"api/v\d+")  # /api/v1/TOKEN/telemetry, however it is spelled
