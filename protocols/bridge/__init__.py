"""The upstream bridge: the gateway as a client of another MQTT broker, or of a cluster of them.

    server            the plug-in: protocol = "mqtt-bridge"
    bridge            connects, and connects again
    application_link  one connection: upstream's messages become events, the application's answers acknowledgements
    spool             the way up: what waits for upstream, in a session of the broker of this process
    upstream          Paho's client on asyncio
    topic_map         topics there and topics here

Everything is at least once, both ways: a message is acknowledged upstream when the application has acknowledged it, and
forgotten here when upstream has. Paho answers QoS 2 with PUBREC before anybody has seen the message, which is a promise
that a killed process does not keep: QoS 2 is therefore not offered.
"""
