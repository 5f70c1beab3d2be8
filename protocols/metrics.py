"""The counters of the wires, as /metrics shows them. Hot paths add in batches."""

from prometheus_client import Counter, Gauge, Histogram

log_lines_suppressed = Counter(
    "gateway_log_lines_suppressed", "Log lines that peers caused beyond their share, or the share of all"
)

connections_refused = Counter(
    "gateway_connections_refused", "Connections that came no further than PROXY header and TLS handshake", ["reason"]
)
tls_reloads = Counter("gateway_tls_reloads", "Certificates that were read again", ["result"])
tls_revoked = Counter("gateway_tls_revoked", "Connections ended because their certificate is on a revocation list")
tls_certificate_expires = Gauge(
    "gateway_tls_certificate_expires_seconds", "When a server certificate ends, in Unix time", ["certfile"]
)

http_connections = Gauge("gateway_http_connections", "Open connections of HTTP listeners, WebSockets included")
http_responses = Counter("gateway_http_responses", "HTTP responses by status", ["status"])
http_refused = Counter("gateway_http_refused", "Requests refused before an application saw them", ["reason"])
http_aborted = Counter("gateway_http_aborted", "Connections of HTTP listeners cut off", ["reason"])
http_bytes_in_hand = Gauge(
    "gateway_http_bytes_in_hand",
    "Bytes of requests and unfinished WebSocket messages that are held, small ones left out",
)
websocket_connections = Gauge("gateway_websocket_connections", "Open WebSocket connections")
websocket_messages = Counter("gateway_websocket_messages", "WebSocket messages", ["direction"])
websocket_closed = Counter("gateway_websocket_closed", "WebSocket connections ended, by close code", ["code"])
websocket_sends_after_close = Counter(
    "gateway_websocket_sends_after_close", "Messages that an application sent after it had closed the connection itself"
)

mqtt_connections = Gauge("gateway_mqtt_connections", "Open MQTT connections")
mqtt_sessions = Gauge("gateway_mqtt_sessions", "MQTT sessions, those of absent clients included")
mqtt_expired_sessions = Counter("gateway_mqtt_expired_sessions", "MQTT sessions whose client did not come back in time")
mqtt_subscriptions = Gauge("gateway_mqtt_subscriptions", "Subscriptions, and memberships of shared ones", ["kind"])
mqtt_retained = Gauge("gateway_mqtt_retained_messages", "Retained messages")
mqtt_retained_bytes = Gauge("gateway_mqtt_retained_bytes", "Bytes of the retained messages, topics included")
mqtt_accepted = Counter("gateway_mqtt_accepted", "MQTT connections that the application accepted")
mqtt_refused = Counter("gateway_mqtt_refused", "MQTT connections refused because of a bound, by its name", ["reason"])
mqtt_slowed = Counter(
    "gateway_mqtt_slowed", "MQTT clients that sent too fast: read more slowly, or closed in the end", ["how"]
)
mqtt_closed = Counter("gateway_mqtt_closed", "MQTT connections ended, by mqtt.disconnect's reason", ["reason", "code"])
mqtt_aborted = Counter("gateway_mqtt_aborted", "MQTT connections cut off", ["reason"])
mqtt_bytes = Counter("gateway_mqtt_bytes", "Bytes of MQTT packets", ["direction"])
mqtt_packets = Counter("gateway_mqtt_packets", "MQTT packets", ["direction"])
mqtt_publishes = Counter("gateway_mqtt_publishes", "PUBLISH packets", ["direction"])
mqtt_dropped = Counter("gateway_mqtt_dropped", "Messages that were not delivered or not retained", ["reason"])
mqtt_refused_filters = Counter(
    "gateway_mqtt_refused_filters", "Topic filters refused because of a limit, by its name", ["reason"]
)
mqtt_trace_lost = Counter("gateway_mqtt_trace_events_lost", "Events that came faster than a trace was read")
mqtt_unknown_acks = Counter("gateway_mqtt_unknown_acks", "Acknowledgements by an application that answer nothing")

mqtt_commit_seconds = Histogram(
    "gateway_mqtt_commit_seconds",
    "How long a commit of MQTT sessions took",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
wal_bytes = Gauge(
    "gateway_sqlite_wal_bytes",
    "Size of the write-ahead log of a SQLite file, which grows while a reader stays",
    ["file"],
)
mqtt_committed_rows = Counter("gateway_mqtt_committed_rows", "Rows of MQTT sessions written or removed")
mqtt_commit_failures = Counter(
    "gateway_mqtt_commit_failures", "Commits of MQTT sessions that failed and were tried again", ["reason"]
)
