"""The app, under the label that its tables and migrations have had from the first one on."""

from django.apps import AppConfig


class DevicesConfig(AppConfig):
    """The devices app."""

    name = "devices"
    label = "gateway_devices"
    verbose_name = "Devices"
    default_auto_field = "django.db.models.BigAutoField"
