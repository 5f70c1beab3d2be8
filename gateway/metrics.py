"""The counters of the framework, as /metrics shows them. Hot paths add in batches."""

from prometheus_client import Counter

layer_delivered = Counter(
    "gateway_layer_delivered", "Layer messages given to receivers in this process; a group message counts per member"
)
layer_dropped = Counter("gateway_layer_dropped", "Layer messages that did not reach a receiver", ["reason"])
layer_reconnects = Counter("gateway_layer_reconnects", "Connections to the layer's server regained after a loss")
