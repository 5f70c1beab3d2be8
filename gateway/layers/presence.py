"""Who is in the groups of a layer."""

from typing import Any

from gateway import DEFAULT_CHANNEL_LAYER
from gateway.exceptions import InvalidChannelLayerError
from gateway.layers.base import BaseChannelLayer
from gateway.layers.leases import LEASE_S, RedisPresence
from gateway.layers.manager import channel_layers
from gateway.layers.members import MemoryPresence, Presence
from gateway.layers.memory import InMemoryChannelLayer
from gateway.layers.remote import RemoteChannelLayer


def presence(alias: str = DEFAULT_CHANNEL_LAYER) -> Presence:
    """Who is in the groups of the layer `alias`; with the options `PRESENCE` of its entry in CHANNEL_LAYERS.

    KeyError when there is no such layer, InvalidChannelLayerError when it cannot have presence.
    """
    layer = channel_layers[alias]
    found: Presence | None = layer.__dict__.get("_presence")
    if found is None:
        options: dict[str, Any] = channel_layers.configs.get(alias, {}).get("PRESENCE", {})
        found = layer.__dict__["_presence"] = make_presence(layer, **options)
    return found


def make_presence(layer: BaseChannelLayer, *, lease_s: float = LEASE_S) -> Presence:
    """Presence for `layer`. `lease_s`: how long after it was killed a process still counts; in Redis only."""
    if isinstance(layer, RemoteChannelLayer):
        return RedisPresence(layer, lease_s=lease_s)
    if isinstance(layer, InMemoryChannelLayer):
        return MemoryPresence(layer)
    raise InvalidChannelLayerError(f"{type(layer).__qualname__} has no presence")
