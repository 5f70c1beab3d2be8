"""Django's system checks of the framework: faults of the settings that would show late, or not where they are."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error

from gateway.layers import channel_layers


def check_order_of_apps(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """gateway.E001: of two apps with a command `runserver`, Django takes that of the first."""
    order = [config.name for config in apps.get_app_configs()]
    if "django.contrib.staticfiles" in order and order.index("django.contrib.staticfiles") < order.index("gateway"):
        return [
            Error(
                "gateway must be listed before django.contrib.staticfiles in INSTALLED_APPS.",
                hint="Otherwise `manage.py runserver` is Django's own, which serves no WebSocket.",
                id="gateway.E001",
            )
        ]
    return []


def check_channel_layers(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """gateway.E002: each layer in CHANNEL_LAYERS can be made. Connects to nothing."""
    errors: list[CheckMessage] = []
    for alias in channel_layers.configs:
        try:
            channel_layers.make_backend(alias)
        except Exception as error:  # whatever the constructor of a layer raises
            errors.append(
                Error(f"CHANNEL_LAYERS[{alias!r}] cannot be used: {error or type(error).__name__}", id="gateway.E002")
            )
    return errors
