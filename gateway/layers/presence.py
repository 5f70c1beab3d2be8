"""Who is in the groups of a layer."""

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
    return channel_layers.extension(alias, "PRESENCE", make_presence)


def make_presence(layer: BaseChannelLayer, *, lease_s: float = LEASE_S) -> Presence:
    """Presence for `layer`. `lease_s`: how long after it was killed a process still counts; in Redis only."""
    if isinstance(layer, RemoteChannelLayer):
        return RedisPresence(layer, lease_s=lease_s)
    if isinstance(layer, InMemoryChannelLayer):
        return MemoryPresence(layer)
    raise InvalidChannelLayerError(f"{type(layer).__qualname__} has no presence")
