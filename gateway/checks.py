"""The framework's checks for Django: faults of the settings that would show late, or in another place."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core import checks
from django.core.checks import CheckMessage, Error

from gateway.exceptions import InvalidChannelLayerError
from gateway.layers import channel_layers
from gateway.layers.manager import KEYS, require_usable


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
    """gateway.E002: each layer in CHANNEL_LAYERS can be made; W001: an entry has a key that means nothing.

    Connects to nothing: what needs the layers' servers is asked when a server or a worker starts.
    """
    messages: list[CheckMessage] = []
    for alias, config in channel_layers.configs.items():
        try:
            require_usable(alias, channel_layers.make_backend)
        except InvalidChannelLayerError as error:
            messages.append(Error(str(error), id="gateway.E002"))
        messages += [
            checks.Warning(
                f"CHANNEL_LAYERS[{alias!r}] has the key {key!r}, which means nothing.",
                hint=f"It may have {', '.join(sorted(KEYS))}; the options of a layer belong in CONFIG.",
                id="gateway.W001",
            )
            for key in config
            if key not in KEYS
        ]
    return messages
