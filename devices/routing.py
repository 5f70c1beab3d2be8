"""The product's ASGI routes: devices on every wire, and browsers on their live streams."""

from django.urls import path, re_path

from devices.consumers.bridge import BridgeMqttConsumer
from devices.consumers.http import DeviceHttpConsumer
from devices.consumers.mqtt import DeviceMqttConsumer
from devices.consumers.websocket import DeviceWebsocketConsumer
from devices.dashboard.live import live_http_routes, live_websocket_routes
from protocols.asgi import Receive, Scope, Send

http_routes = [
    re_path(r"^api/v1/(?P<path>.*)", DeviceHttpConsumer.as_asgi()),
    *live_http_routes,
]
websocket_routes = [
    path("ws/device/", DeviceWebsocketConsumer.as_asgi()),
    *live_websocket_routes,
]
_device_application = DeviceMqttConsumer.as_asgi()
_bridge_application = BridgeMqttConsumer.as_asgi()


async def mqtt_application(scope: Scope, receive: Receive, send: Send) -> None:
    """A device, a client of the broker, or a bridge to another one."""
    is_bridge = "bridge" in scope["extensions"]
    await (_bridge_application if is_bridge else _device_application)(scope, receive, send)
