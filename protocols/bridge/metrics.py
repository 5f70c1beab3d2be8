"""The counters of bridges, as /metrics shows them."""

from typing import Final

from prometheus_client import Counter, Gauge

connected: Final = Gauge(
    "gateway_bridge_connected", "Whether a bridge is connected and subscribed upstream", ["bridge"]
)
connects: Final = Counter(
    "gateway_bridge_connects", "Connections of bridges, by how far they came", ["bridge", "outcome"]
)
received: Final = Counter("gateway_bridge_received", "Messages from upstream given to the application", ["bridge"])
sent: Final = Counter("gateway_bridge_sent", "Messages sent upstream", ["bridge"])
dropped: Final = Counter("gateway_bridge_dropped", "Messages that a bridge did not pass on", ["bridge", "reason"])
unanswered: Final = Gauge(
    "gateway_bridge_unanswered", "Messages from upstream that wait for the application's acknowledgement", ["bridge"]
)
waiting: Final = Gauge("gateway_bridge_waiting", "Messages that wait to be sent upstream", ["bridge"])
