"""Consumers, routers, channel layers and the rest of the Channels API, for Django; and the gateway's own command."""

DEFAULT_CHANNEL_LAYER = "default"
