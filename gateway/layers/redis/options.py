"""The options of the layers over Redis, listed in docs/channel-layers.md.

A new field is an option of both layers, and of their URLs if it is text or a number.
"""

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from gateway.layers.base import Capacities
from gateway.layers.serializers import Serializer, registry
from gateway.layers.validation import require_bounds, require_count, require_hook

ConnectionHook: TypeAlias = "str | Callable[[], Awaitable[None] | None] | None"
"""What happens when the connection is lost or is back: the type of an event for the attached channels, a function,
plain or async, that is called instead, or nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RedisOptions:
    """Options of a layer over Redis besides `hosts`: those of channels_redis, and some more.

    Raises InvalidChannelLayerError for a wrong value.
    """

    prefix: str = "asgi"
    """Begins all keys and channels in Redis."""
    expiry: float = 60
    """Seconds that an unread message is kept."""
    group_expiry: float = 86400
    """Seconds after which a membership ends that no living process has."""
    capacity: int = 100
    """Unread messages that a channel holds."""
    channel_capacity: Capacities | None = None
    """Other capacities, by glob or compiled pattern."""
    symmetric_encryption_keys: Sequence[str | bytes] | None = None
    """The first encrypts, all decrypt."""
    serializer_format: str = "msgpack"
    """A format of `gateway.layers.serializers.registry`."""
    random_prefix_length: int = 0
    """Random bytes before each message, which make equal messages distinct."""
    on_disconnect: ConnectionHook = "layer.disconnected"
    on_reconnect: ConnectionHook = "layer.reconnected"
    """Happens when all groups are joined again."""
    max_message_bytes: int = 16 * 1024 * 1024
    """Size of the largest message, serialized."""

    def __post_init__(self) -> None:
        require_bounds(
            expiry=self.expiry,
            group_expiry=self.group_expiry,
            capacity=self.capacity,
            channel_capacity=self.channel_capacity,
        )
        require_count("max_message_bytes", self.max_message_bytes)
        require_hook("on_disconnect", self.on_disconnect)
        require_hook("on_reconnect", self.on_reconnect)
        assert isinstance(self.prefix, str), "Prefix must be unicode"

    def make_serializer(self, max_age_s: float | None = None) -> Serializer:
        """A serializer for these options. It refuses an encrypted message that is older than `max_age_s`, if given."""
        # Only what is set: the class of a project need not have these parameters.
        given: dict[str, Any] = {}
        if self.random_prefix_length:
            given["random_prefix_length"] = self.random_prefix_length
        if max_age_s is not None:
            given["expiry"] = max_age_s
        return registry.get_serializer(
            self.serializer_format, symmetric_encryption_keys=self.symmetric_encryption_keys, **given
        )
