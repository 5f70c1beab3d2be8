"""The Django app of the framework: "gateway" in INSTALLED_APPS."""

from django.apps import AppConfig
from django.core.checks import register


class GatewayConfig(AppConfig):
    """Has no models; it brings the management commands and system checks."""

    name = "gateway"
    verbose_name = "Gateway"

    def ready(self) -> None:
        """Registers the checks."""
        from gateway.checks import check_channel_layers, check_order_of_apps

        register(check_order_of_apps)
        register(check_channel_layers)
