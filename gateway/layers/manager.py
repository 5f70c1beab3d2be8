"""The layers that Django's CHANNEL_LAYERS setting names, each with its group log and its presence.

All are made when first asked for. Servers and workers check them before they begin: `check_layers`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from gateway import DEFAULT_CHANNEL_LAYER
from gateway.exceptions import InvalidChannelLayerError
from gateway.layers.base import BaseChannelLayer, LayerUnavailableError
from gateway.layers.group_log import GroupLog, MemoryGroupLog
from gateway.layers.memory import InMemoryChannelLayer
from gateway.layers.presence import MemoryPresence, Presence
from gateway.layers.redis.group_log import RedisGroupLog
from gateway.layers.redis.layer import RedisLayerBase
from gateway.layers.redis.presence import LEASE_S, RedisPresence

Extension = TypeVar("Extension")

CHANNELS_BACKENDS = {
    "channels.layers.InMemoryChannelLayer": "gateway.layers.InMemoryChannelLayer",
    "channels_redis.core.RedisChannelLayer": "gateway.layers.redis.RedisChannelLayer",
    "channels_redis.pubsub.RedisPubSubChannelLayer": "gateway.layers.pubsub.RedisPubSubChannelLayer",
}
"""The names of Channels in the settings of a project that is ported, and the names to use instead."""

KEYS = {"BACKEND", "CONFIG", "TEST_CONFIG", "LOG", "PRESENCE"}
"""The keys that an entry of CHANNEL_LAYERS may have."""


class ChannelLayerManager:
    """alias -> layer, for the aliases of CHANNEL_LAYERS. Overriding that setting in a test makes new ones."""

    def __init__(self) -> None:
        self.backends: dict[str, BaseChannelLayer] = {}
        setting_changed.connect(self._reset_backends)

    def _reset_backends(self, setting: str, **kwargs: Any) -> None:
        if setting == "CHANNEL_LAYERS":
            self.backends = {}

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The setting, read each time, so that this module can be imported before Django is set up."""
        configs: dict[str, dict[str, Any]] = getattr(settings, "CHANNEL_LAYERS", {})
        return configs

    def make_backend(self, name: str) -> BaseChannelLayer:
        """A new layer for the alias `name`, from its CONFIG."""
        return self._make_backend(name, self.configs[name].get("CONFIG", {}))

    def make_test_backend(self, name: str) -> BaseChannelLayer:
        """A new layer for the alias `name`, from its TEST_CONFIG; InvalidChannelLayerError when it has none."""
        try:
            config = self.configs[name]["TEST_CONFIG"]
        except KeyError:
            raise InvalidChannelLayerError(f"No TEST_CONFIG specified for {name}") from None
        return self._make_backend(name, config)

    def _make_backend(self, name: str, config: dict[str, Any]) -> BaseChannelLayer:
        if "ROUTING" in self.configs[name]:
            raise InvalidChannelLayerError(f"ROUTING key found for {name} - this is no longer needed in Channels 2.")
        try:
            path = self.configs[name]["BACKEND"]
        except KeyError:
            raise InvalidChannelLayerError(f"No BACKEND specified for {name}") from None
        if path in CHANNELS_BACKENDS:
            raise InvalidChannelLayerError(
                f"BACKEND {path!r} specified for {name} is that of Channels; here it is {CHANNELS_BACKENDS[path]!r}"
            )
        try:
            backend_class = import_string(path)
        except ImportError as error:
            raise InvalidChannelLayerError(f"Cannot import BACKEND {path!r} specified for {name}") from error
        backend = backend_class(**config)
        if not isinstance(backend, BaseChannelLayer):
            raise InvalidChannelLayerError(
                f"BACKEND {path!r} specified for {name} does not derive from gateway.layers.BaseChannelLayer"
            )
        return backend

    def __getitem__(self, key: str) -> BaseChannelLayer:
        """The layer of the alias `key`; KeyError when the setting does not name it."""
        if key not in self.backends:
            self.backends[key] = self.make_backend(key)
        return self.backends[key]

    def __contains__(self, key: str) -> bool:
        return key in self.configs

    def extension(self, alias: str, section: str, make: Callable[..., Extension]) -> Extension:
        """The group logs or the presence of the layer `alias`: `make(layer, **options)`, called once.

        The options are those under the key `section` of its entry. Raises KeyError when there is no such layer, and
        what `make` raises.
        """
        layer = self[alias]
        made: dict[str, Extension] = layer.__dict__.setdefault("_extensions", {})
        if section not in made:
            made[section] = make(layer, **self.configs.get(alias, {}).get(section, {}))
        return made[section]

    def set(self, key: str, layer: BaseChannelLayer) -> BaseChannelLayer | None:
        """Puts `layer` under the alias `key` and returns the one that was there, if any: for tests."""
        old = self.backends.get(key)
        self.backends[key] = layer
        return old


channel_layers = ChannelLayerManager()


def get_channel_layer(alias: str | None = DEFAULT_CHANNEL_LAYER) -> BaseChannelLayer | None:
    """The layer of the alias `alias`, or None when CHANNEL_LAYERS does not name it, or for None."""
    # Not by catching KeyError, which would hide one that the layer's own constructor raises.
    if alias is not None and (alias in channel_layers.backends or alias in channel_layers):
        return channel_layers[alias]
    return None


def group_log(alias: str = DEFAULT_CHANNEL_LAYER) -> GroupLog:
    """The group logs of the layer `alias`, with the options `LOG` of its entry in CHANNEL_LAYERS.

    KeyError when there is no such layer, InvalidChannelLayerError when it cannot have logs.
    """
    return channel_layers.extension(alias, "LOG", make_group_log)


def make_group_log(layer: BaseChannelLayer, **options: Any) -> GroupLog:
    """Group logs for `layer`; `options` are those of GroupLog."""
    if isinstance(layer, RedisLayerBase):
        return RedisGroupLog(layer, **options)
    if isinstance(layer, InMemoryChannelLayer):
        return MemoryGroupLog(layer, **options)
    raise InvalidChannelLayerError(f"{type(layer).__qualname__} has no logs of groups")


def presence(alias: str = DEFAULT_CHANNEL_LAYER) -> Presence:
    """Who is in the groups of the layer `alias`, with the options `PRESENCE` of its entry in CHANNEL_LAYERS.

    KeyError when there is no such layer, InvalidChannelLayerError when it cannot have presence.
    """
    return channel_layers.extension(alias, "PRESENCE", make_presence)


def make_presence(layer: BaseChannelLayer, *, lease_s: float = LEASE_S) -> Presence:
    """Presence for `layer`. `lease_s`: how long a killed process still counts; only Redis uses it."""
    if isinstance(layer, RedisLayerBase):
        return RedisPresence(layer, lease_s=lease_s)
    if isinstance(layer, InMemoryChannelLayer):
        return MemoryPresence(layer)
    raise InvalidChannelLayerError(f"{type(layer).__qualname__} has no presence")


async def check_layers() -> None:
    """Checks the settings of each layer, then its server.

    Raises InvalidChannelLayerError for wrong settings, LayerUnavailableError when the server does not answer. Servers
    call this when they start; an application with a lifespan handler of its own calls it there.
    """
    for alias in channel_layers.configs:
        layer = require_usable(alias, channel_layers.__getitem__)
        try:
            await layer.check()
        except LayerUnavailableError as error:
            which = "" if alias == DEFAULT_CHANNEL_LAYER else f" {alias!r}"
            raise LayerUnavailableError(f"cannot use the channel layer{which}: {error}") from error


def require_usable(alias: str, make: Callable[[str], BaseChannelLayer]) -> BaseChannelLayer:
    """Makes the layer `alias` by `make(alias)`. Connects to nothing.

    Raises InvalidChannelLayerError when the settings of the layer, of its log or of its presence are wrong.
    """
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
