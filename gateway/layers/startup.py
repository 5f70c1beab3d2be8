"""What servers and workers ask before they begin: whether each layer in CHANNEL_LAYERS can be used."""

from collections.abc import Callable
from typing import Any

from gateway import DEFAULT_CHANNEL_LAYER
from gateway.exceptions import InvalidChannelLayerError
from gateway.layers.base import BaseChannelLayer, LayerUnavailableError
from gateway.layers.log import make_group_log
from gateway.layers.manager import channel_layers
from gateway.layers.presence import make_presence

KEYS = {"BACKEND", "CONFIG", "TEST_CONFIG", "LOG", "PRESENCE"}
"""What an entry of CHANNEL_LAYERS may have."""


async def check_layers() -> None:
    """Raises InvalidChannelLayerError when the settings of a layer are wrong, LayerUnavailableError when its server is
    not there. An application that handles lifespans itself calls this in its startup."""
    for alias in channel_layers.configs:
        layer = require_usable(alias, channel_layers.__getitem__)
        try:
            await layer.check()
        except LayerUnavailableError as error:
            which = "" if alias == DEFAULT_CHANNEL_LAYER else f" {alias!r}"
            raise LayerUnavailableError(f"cannot use the channel layer{which}: {error}") from error


def require_usable(alias: str, make: Callable[[str], BaseChannelLayer]) -> BaseChannelLayer:
    """The layer that `make` makes for `alias`; InvalidChannelLayerError when the settings of it, or of its log or
    presence, are wrong. Connects to nothing."""
    config = channel_layers.configs[alias]
    try:
        layer = make(alias)
        extensions: dict[str, Callable[..., Any]] = {"LOG": make_group_log, "PRESENCE": make_presence}
        for key, make_extension in extensions.items():
            if key in config:
                make_extension(layer, **config[key])
    except Exception as error:  # whatever the constructor of a layer raises
        reason = str(error) or type(error).__name__
        raise InvalidChannelLayerError(f"CHANNEL_LAYERS[{alias!r}] cannot be used: {reason}") from error
    return layer
