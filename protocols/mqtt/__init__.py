"""MQTT 3.1, 3.1.1 and 5.0. packets, codec, topics, session and connection do no input or output of their own."""
