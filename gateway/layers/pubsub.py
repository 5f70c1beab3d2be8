"""Keeps the dotted path that settings name, as channels_redis has it: the layer is in gateway/layers/redis."""

from gateway.layers.redis.pubsub_layer import RedisPubSubChannelLayer

__all__ = ["RedisPubSubChannelLayer"]
