"""Channel layers: how consumers, and the processes they run in, send messages to each other and to groups."""

from gateway import DEFAULT_CHANNEL_LAYER
from gateway.layers.base import (
    BaseChannelLayer,
    Deliver,
    GroupSendResult,
    LayerEvent,
    LayerUnavailableError,
    Message,
)
from gateway.layers.manager import ChannelLayerManager, channel_layers, get_channel_layer
from gateway.layers.memory import InMemoryChannelLayer

__all__ = [
    "DEFAULT_CHANNEL_LAYER",
    "BaseChannelLayer",
    "ChannelLayerManager",
    "Deliver",
    "GroupSendResult",
    "InMemoryChannelLayer",
    "LayerEvent",
    "LayerUnavailableError",
    "Message",
    "channel_layers",
    "get_channel_layer",
]
