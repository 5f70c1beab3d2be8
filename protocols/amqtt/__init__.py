"""amqtt's broker as a protocol server, for those who run it with plug-ins of theirs (docs/amqtt.md says what it lacks).

It is a plug-in like anybody's: found by its entry point, installed with the extra "amqtt". Sockets and TLS are ours,
packets, sessions, subscriptions and retained messages amqtt's. amqtt asks its plug-ins who may connect, publish and
subscribe; `plugin.ApplicationPlugin` is one of them, and asks the application, by the events of docs/events.md.
"""
