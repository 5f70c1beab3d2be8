"""Wires: bytes of MQTT, HTTP and WebSocket to ASGI events and back.

Nothing in this package imports Django or any other package of this project.
"""
