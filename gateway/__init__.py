"""Consumers, routers, channel layers and the rest of the Channels API, for Django; and the gateway's own command.

A module at the top of this package is a name of Channels, or what runs beside it: cli, terminal, health, lifespan,
metrics. What Channels does not have is in a folder. An import contract in pyproject.toml holds the list.
"""

DEFAULT_CHANNEL_LAYER = "default"
