"""The MQTT topics of the device API: which are served, and to whom."""

from typing import Final

DEVICE_TOPICS: Final = ("v1/devices/", "v1/gateway/", "v2/")
"""Topics of the device API. They belong to the device that is logged in; anonymous clients may not use them."""

DEVICE_TOPICS_RESERVED: Final = (
    "each device subscribes to the same topics of the device API, so every device would get it; there is no way to send"
    " to one device yet"
)
"""Why `gateway.mqtt.publish` takes none of them."""

NOT_SERVED: Final = ("v2/t/", "v1/gateway/")
"""Topics by which ThingsBoard takes telemetry, of the device or of those behind it, and we do not. Whoever has it
acknowledged believes that it is stored. ThingsBoard, too, acknowledges none of `v1/gateway/` to who is no gateway."""

OWN_FILTERS: Final = frozenset(
    {
        "v1/devices/me/attributes",
        "v1/devices/me/attributes/response/+",
        "v1/devices/me/rpc/request/+",
        "v1/devices/me/rpc/response/+",
    }
)
"""What a device may subscribe to: that by which the gateway speaks to it."""
