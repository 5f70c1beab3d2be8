"""The counters of the framework, as /metrics shows them. Hot paths add in batches."""

from prometheus_client import Counter

layer_delivered = Counter(
    "gateway_layer_delivered", "Layer messages given to receivers in this process; a group message counts per member"
)
layer_dropped = Counter("gateway_layer_dropped", "Layer messages that did not reach a receiver", ["reason"])
layer_reconnects = Counter("gateway_layer_reconnects", "Connections to the layer's server regained after a loss")
layer_refused = Counter(
    "gateway_layer_refused", "Layer messages whose type names no handler of the consumer that they were sent to"
)
consumer_sends_after_close = Counter(
    "gateway_consumer_sends_after_close", "Sends by a consumer whose peer had gone; they do nothing", ["protocol"]
)
consumer_bodies_too_large = Counter(
    "gateway_consumer_bodies_too_large", "Request bodies larger than their HTTP consumer takes; answered with 413"
)
consumer_handlers_interrupted = Counter(
    "gateway_consumer_handlers_interrupted", "Handlers cancelled because they outlasted the grace after a disconnect"
)
consumer_events_skipped = Counter(
    "gateway_consumer_events_skipped", "Events not yet handled when the grace after a disconnect was over"
)
consumer_background_failures = Counter(
    "gateway_consumer_background_failures", "Exceptions of what consumers had begun with spawn() or every()"
)
mqtt_refusals = Counter(
    "gateway_mqtt_refusals",
    "Connects, publishes, wills, filters and retained messages that an MQTT consumer refused, by the reason code",
    ["request", "reason_code"],
)
token_refusals = Counter(
    "gateway_token_refusals",
    "Connections refused by the token middleware, by protocol and reason",
    ["protocol", "reason"],
)
token_expiries = Counter("gateway_token_expiries", "Connections closed because their token had expired", ["protocol"])
django_requests_refused = Counter(
    "gateway_django_requests_refused",
    "Requests for Django's views that found too many waiting for a thread, or waited too long",
)
django_failures = Counter(
    "gateway_django_failures",
    "Requests for Django's views that were answered 400 (another host), 503 (no database) or 500 (an error)",
    ["status"],
)
