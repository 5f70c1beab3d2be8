"""MQTT packets as bytes and as objects. Knows nothing of sessions or connections."""
