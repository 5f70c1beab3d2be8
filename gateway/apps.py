"""The Django app of the framework: "gateway" in INSTALLED_APPS."""

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    """Has no models; it brings the management commands."""

    name = "gateway"
    verbose_name = "Gateway"
