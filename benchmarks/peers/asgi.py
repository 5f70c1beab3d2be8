"""The dashboards: `uvicorn peers.asgi:application`."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "peers.settings")

import django

django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402


class Dashboard(AsyncWebsocketConsumer):
    """Passes on what is sent to its group: that of all devices, or of one."""

    async def connect(self):
        self.group = self.scope["url_route"]["kwargs"].get("device", "devices")
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def readings(self, message):
        await self.send(text_data=message["text"])


application = ProtocolTypeRouter(
    {"websocket": URLRouter([path("ws/", Dashboard.as_asgi()), path("ws/<str:device>/", Dashboard.as_asgi())])}
)
