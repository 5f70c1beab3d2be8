"""Consumers that know one protocol: WebSocket, HTTP, server-sent events, MQTT."""
