"""Channel layers over Redis: `RedisChannelLayer` by queues, `RedisPubSubChannelLayer` by publish and subscribe."""

from gateway.layers.redis.pubsub_layer import RedisPubSubChannelLayer
from gateway.layers.redis.queue_layer import RedisChannelLayer

__all__ = ["RedisChannelLayer", "RedisPubSubChannelLayer"]
